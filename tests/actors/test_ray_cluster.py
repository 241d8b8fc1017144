"""Trainers as Ray actors, on a head of the test's own: the same behaviour as LocalCluster's."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from surefoot.events import EventKind, FaultKind
from surefoot.node_groups import NodeGroup
from surefoot.spec import JobSpec, JobState, Resources
from surefoot_actors.cluster.ports import TrainerGoneError, TrainerHandle, TrainerSetup, Where
from surefoot_actors.cluster.ray.cluster import RayCluster
from surefoot_actors.cluster.ray.journal import RayJournal
from surefoot_actors.cluster.ray.names import list_roles
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.launch.cleanup import clean_up
from surefoot_actors.liveness.server import Condition, LivenessServer
from surefoot_actors.protocol.messages import End, EndGeneration, Hello, RequestBoundary, Snapshot
from surefoot_actors.supervisor.supervisor import Supervisor
from surefoot_actors.uplink.memory import MemoryUplink

from ..processes import watchdogs
from ..ray_head import Head, connected, head_env, ray_head, raylet
from .test_journal import check

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

HERE = str(Path(__file__).parent)
LIVENESS_S = 180.0


@pytest.fixture(scope="module", autouse=True)
def head() -> Iterator[Head]:
    env = head_env() | {"RAY_NODE_TYPE_NAME": "gpu-spot", "RAY_NODE_MARKET_TYPE": "gke-spot"}
    with ray_head(env=env) as head, connected(head):
        yield head


@pytest.fixture
async def liveness() -> AsyncIterator[LivenessServer]:
    liveness = LivenessServer("a-1")
    await liveness.start()
    yield liveness
    await liveness.close()


@pytest.fixture
async def cluster(liveness: LivenessServer) -> AsyncIterator[RayCluster]:
    async with asyncio.timeout(3 * LIVENESS_S):
        cluster = RayCluster("a-1", liveness, service="fake_trainer:Fake")
        yield cluster
        await cluster.close()
        assert list_roles("a-1") == []


def setup(
    liveness: LivenessServer, trainer: str = "t1", cpus: float = 1.0, package_env: bool = True, **env: str
) -> TrainerSetup:
    spec = JobSpec(
        entrypoint="train:train",
        package="0" * 64,
        batch_size=8,
        threads=3,
        resources=Resources(cpus=cpus),
        env={**env, **({"PYTHONPATH": HERE} if package_env else {}), "MARK": "1"},
    )
    return TrainerSetup(
        attempt="a-1", trainer=trainer, spec=spec, liveness=liveness.address, liveness_secret=liveness.sealed
    )


async def hello(trainer: TrainerHandle, number: int = 1) -> Hello:
    await trainer.deliver(EndGeneration(number=number, incarnation=1))
    message = (await trainer.collect(0, 0, LIVENESS_S)).messages[-1][1]
    assert isinstance(message, Hello)
    return message


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIVENESS_S):
        while not what():  # noqa: ASYNC110 (Ray and the operating system tell no event)
            await asyncio.sleep(0.02)


async def test_a_trainer_is_asked_and_answers(cluster: RayCluster, liveness: LivenessServer) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    said = await hello(trainer, 5)
    assert said.node == "over 5"
    assert dict(said.fingerprint) == {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "3", "MARK": "1"}
    assert dict(said.node_kind) == {"group": "gpu-spot", "market": "gke-spot"}
    last = (await trainer.collect(0, 0, 0.0)).messages[-1][0]
    waiting = asyncio.create_task(trainer.collect(last, 0, LIVENESS_S))
    await trainer.deliver(EndGeneration(number=6, incarnation=1))  # not stuck behind the collect
    [(n, _)] = (await waiting).messages
    assert n == last + 1
    assert await trainer.where() == Where(step=3, line="train.py:12")
    await until(lambda: liveness.condition("t1") is not None)
    assert liveness.condition("t1") is Condition.RUNNING


async def test_a_kill_is_told_mid_call(cluster: RayCluster, liveness: LivenessServer) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    pid = (await hello(trainer)).pid
    waiting = asyncio.create_task(trainer.collect(100, 0, LIVENESS_S))
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(TrainerGoneError, match="process died: Worker unexpectedly exits") as caught:
        await waiting
    assert "OOM" not in caught.value.reason
    assert time.monotonic() - killed < 10
    with pytest.raises(TrainerGoneError, match="process died"):
        await trainer.deliver(EndGeneration(number=1, incarnation=1))


async def test_a_signal_of_its_own_making_is_seen_by_its_watchdog(
    cluster: RayCluster, liveness: LivenessServer
) -> None:
    """Ray says no more than that the process is gone."""
    trainer = await cluster.start_trainer(setup(liveness))
    await hello(trainer)
    await until(lambda: liveness.condition("t1") is not None)
    with pytest.raises(TrainerGoneError):
        await trainer.deliver(Snapshot(incarnation=1))
    await until(lambda: liveness.condition("t1") is Condition.GONE)
    assert liveness.killed_by("t1").startswith("killed by SIGBUS, at fake_trainer.py:")


async def test_kill_ends_a_stopped_process_at_once(cluster: RayCluster, liveness: LivenessServer) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    pid = (await hello(trainer)).pid
    await until(lambda: liveness.condition("t1") is not None)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.gather(trainer.kill(), trainer.kill())
    assert gone(pid)
    assert await cluster.find_trainers() == []


async def test_a_kill_goes_on_where_no_watchdog_helps(cluster: RayCluster, liveness: LivenessServer) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    pid = (await hello(trainer)).pid
    await until(lambda: liveness.condition("t1") is not None)
    os.kill(pid, signal.SIGSTOP)
    [watchdog] = watchdogs(pid)
    watchdog.kill()
    await trainer.kill()  # returns before Ray is sure
    assert liveness.condition("t1") is Condition.SILENT
    await cluster.settle(LIVENESS_S)
    assert gone(pid)


async def test_faults_are_done_for_real(cluster: RayCluster, liveness: LivenessServer) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    pid = (await hello(trainer)).pid
    await until(lambda: liveness.condition("t1") is not None)
    with pytest.raises(FaultRefusedError, match="supervisor's own node"):
        await trainer.inject(FaultKind.NODE)
    await trainer.inject(FaultKind.FREEZE)
    await until(lambda: liveness.condition("t1") is Condition.STOPPED)
    await trainer.inject(FaultKind.TRAINER)
    await until(lambda: gone(pid))
    with pytest.raises(TrainerGoneError, match="process died"):
        await trainer.collect(0, 0, LIVENESS_S)


async def test_a_process_told_to_terminate_gives_notice_and_goes_on(
    cluster: RayCluster, liveness: LivenessServer
) -> None:
    trainer = await cluster.start_trainer(setup(liveness))
    pid = (await hello(trainer)).pid
    last = (await trainer.collect(0, 0, 0.0)).messages[-1][0]
    os.kill(pid, signal.SIGTERM)
    [(_, notice)] = (await trainer.collect(last, 0, LIVENESS_S)).messages
    assert isinstance(notice, Hello)
    assert "terminate (SIGTERM)" in notice.node
    assert (await hello(trainer, 9)).node == "over 9"


async def test_an_exit_and_a_broken_service_are_losses(cluster: RayCluster, liveness: LivenessServer) -> None:
    one = await cluster.start_trainer(setup(liveness, "t1"))
    with pytest.raises(TrainerGoneError, match="process died"):
        await one.deliver(End(incarnation=1, reason="done"))
    two = await cluster.start_trainer(setup(liveness, "t2"))
    pid = (await hello(two)).pid
    with pytest.raises(TrainerGoneError, match="a broken service"):
        await two.deliver(RequestBoundary(number=1, incarnation=1))
    await until(lambda: gone(pid))


async def test_what_fails_to_start_is_told(liveness: LivenessServer) -> None:
    fails = RayCluster("a-2", liveness, service="fake_trainer:FailsToStart")
    with pytest.raises(TrainerGoneError, match=r"failed to start(?s:.*)no such device"):
        await fails.start_trainer(setup(liveness))
    bare = RayCluster("a-2", liveness, package_uri="gcs://surefoot_nowhere.zip")
    with pytest.raises(TrainerGoneError, match=r"node could not be set up(?s:.*)surefoot_nowhere"):
        await bare.start_trainer(setup(liveness))
    assert list_roles("a-2") == []


async def test_requirements_that_cannot_be_installed_fail_the_job_at_once_in_pips_own_words(
    liveness: LivenessServer,
) -> None:
    """One trainer's word is enough, and nobody is started again; that they are being installed is told before."""
    spec = setup(liveness).spec.model_copy(
        update={"pip": ("no-such-package-surefoot-xyz==1.0",), "env": {"PIP_NO_INDEX": "1"}, "trainers": 2}
    )
    uplink, cluster = MemoryUplink(), RayCluster("a-4", liveness)
    outcome = await Supervisor(spec, "a-4", cluster, uplink, MemoryJournal(), liveness).run()
    assert outcome.state is JobState.FAILED
    assert outcome.reason.splitlines()[1:] == [
        "ERROR: Could not find a version that satisfies the requirement no-such-package-surefoot-xyz==1.0 (from versions: none)",
        "ERROR: No matching distribution found for no-such-package-surefoot-xyz==1.0",
    ]
    kinds = [event.kind for event in uplink.events]
    assert kinds.index(EventKind.INSTALLING) < kinds.index(EventKind.FAILED)
    assert kinds.count(EventKind.INSTALLING) == 2
    assert list_roles("a-4") == []


async def test_where_one_raised_another_is_started_only_if_there_is_no_other_node(
    cluster: RayCluster, liveness: LivenessServer
) -> None:
    await cluster.start_trainer(setup(liveness, "t1"))
    second = await cluster.start_trainer(replace(setup(liveness, "t2"), apart_from=("t1",)))
    assert (await hello(second)).pid


async def test_a_start_without_resources_can_be_withdrawn(cluster: RayCluster, liveness: LivenessServer) -> None:
    starting = asyncio.create_task(cluster.start_trainer(setup(liveness, cpus=1000)))
    await until(lambda: list_roles("a-1") == ["t1"])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: list_roles("a-1") == [])


# The head is a node of this group; of the other, cheaper one there is none and none comes.
HERE_ALONE = {"gpu-spot": NodeGroup(cpus=4, price_per_hour=1.0), "never": NodeGroup(cpus=4, price_per_hour=0.1)}


async def test_a_free_node_is_taken_at_once_although_a_cheaper_group_is_asked_first(liveness: LivenessServer) -> None:
    cluster = RayCluster("a-5", liveness, service="fake_trainer:Fake", groups=HERE_ALONE)
    async with asyncio.timeout(LIVENESS_S):
        assert dict((await hello(await cluster.start_trainer(setup(liveness)))).node_kind)["group"] == "gpu-spot"
    await cluster.close()


async def test_who_was_asked_for_in_vain_is_withdrawn_by_the_next_supervisor(liveness: LivenessServer) -> None:
    groups = {**HERE_ALONE, "gpu-spot": NodeGroup(cpus=0.01, max_nodes=0)}
    cluster = RayCluster("a-6", liveness, service="fake_trainer:Fake", groups=groups)
    told: list[str] = []
    cluster.on_waiting = told.append
    starting = asyncio.create_task(cluster.start_trainer(setup(liveness, "t1")))
    await until(lambda: bool(told))
    assert told == ["1 trainer waits for a node"]
    assert await RayCluster("a-6", liveness, groups=groups).find_trainers() == []
    with pytest.raises(TrainerGoneError):
        await starting
    assert list_roles("a-6") == []
    await cluster.close()


async def test_a_node_of_the_cheaper_group_that_comes_after_all_is_taken(head: Head, liveness: LivenessServer) -> None:
    groups = {
        "late": NodeGroup(cpus=1, price_per_hour=0.1),
        "never": NodeGroup(cpus=4, price_per_hour=1.0),
        "gpu-spot": NodeGroup(cpus=0.01, max_nodes=0),
    }
    cluster = RayCluster("a-7", liveness, service="fake_trainer:Fake", groups=groups, node_wait_s=0.1)
    starting = asyncio.create_task(cluster.start_trainer(setup(liveness)))
    waiting = cluster._waiting
    await until(lambda: any(entry.left_out == {"late"} for entry in waiting._entries.values()))
    waiting._wait_s = 3600.0  # it stays so
    with raylet(head, 1, env={"RAY_NODE_TYPE_NAME": "late"}):
        async with asyncio.timeout(LIVENESS_S):
            assert dict((await hello(await starting)).node_kind)["group"] == "late"
        await cluster.close()


async def test_another_supervisor_finds_the_living_and_hears_them(
    cluster: RayCluster, liveness: LivenessServer
) -> None:
    for name in ("t1", "t2"):
        await cluster.start_trainer(setup(liveness, name))
    await liveness.close()
    second = LivenessServer("a-1")
    await second.start()
    found = await RayCluster("a-1", second).find_trainers()
    assert [trainer.trainer for trainer in found] == ["t1", "t2"]
    await until(lambda: all(second.last(t) and second.last(t).state != "?" for t in ("t1", "t2")))  # type: ignore[union-attr]
    assert await second.fence("t2")
    with pytest.raises(TrainerGoneError):
        await found[1].deliver(EndGeneration(number=1, incarnation=1))
    await second.close()


async def test_the_clean_up_leaves_nothing(liveness: LivenessServer) -> None:
    cluster = RayCluster("a-3", liveness, service="fake_trainer:Fake")
    handles = [await cluster.start_trainer(setup(liveness, name)) for name in ("t1", "t2")]
    pids = [(await hello(handle)).pid for handle in handles]
    os.kill(pids[0], signal.SIGSTOP)
    RayJournal("a-3").reserve()
    await clean_up("a-3")
    assert all(map(gone, pids))
    assert list_roles("a-3") == []
    assert RayJournal("a-3").reserve() == 1
    await clean_up("a-3")


def test_ray_journal() -> None:
    RayJournal("other").reserve()
    check(RayJournal("a-1"), RayJournal("a-1"))
    assert RayJournal("other").reserve() == 2
    RayJournal("other").forget()
