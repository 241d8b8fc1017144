"""A whole attempt of `surefoot check`: what one trainer alone raises is told at once, though training would go on without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.spec import JobSpec
from surefoot_actors.check.attempts import _ended
from surefoot_actors.cluster.local.cluster import LocalCluster
from surefoot_actors.cluster.local.lent_cluster import LentCluster
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.supervisor.supervisor import Supervisor
from surefoot_actors.uplink.memory import MemoryUplink

JOBS = Path(__file__).parents[1] / "actors" / "jobs"


@pytest.mark.slow
async def test_what_one_of_two_trainers_raises_ends_the_attempt(tmp_path: Path) -> None:
    config = {"steps": 1_000_000, "raises": ["sub-task", 3, str(tmp_path / "mark")]}
    spec = JobSpec(
        package="0" * 64, entrypoint="raising:train", batch_size=32, config=config, trainers=2, min_trainers=2, checkpoint={"final": False}
    )  # fmt: skip
    liveness, uplink = LivenessServer("a"), MemoryUplink()
    await liveness.start()
    async with LocalCluster("check", [str(JOBS)], log_dir=tmp_path) as cluster:
        lent = LentCluster(cluster)
        failure = await _ended(Supervisor(spec, "a", lent, uplink, MemoryJournal(), liveness), uplink)
        await lent.close()
    await liveness.close()
    assert failure is not None
    assert failure.message == "OSError: [Errno 28] No space left on device: '/somewhere'"
    assert "in once" in failure.traceback
