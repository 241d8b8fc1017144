"""An attempt on Ray from its launcher to its end: claimed once, supervised, restarted, and nothing left."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from surefoot.events import CommandKind, EventKind
from surefoot.names import SUPERVISOR
from surefoot.package import pack
from surefoot.spec import JobSpec
from surefoot_actors.cluster.ray.ending import place_of
from surefoot_actors.cluster.ray.journal import RayJournal
from surefoot_actors.cluster.ray.names import KEEPER, find_actor, list_roles
from surefoot_service.packages.archive import for_ray

from ..ray_head import Head, connected, ray_head
from .control_plane import CODE, TOKEN, ControlPlane, serve

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

JOBS = Path(__file__).parent / "jobs"
LIVENESS_S = 270.0
PACKAGE = "gcs://surefoot_test.zip"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head, connected(head):
        upload_package()
        yield head


def upload_package() -> None:
    """Put the jobs into Ray's object store, as the control plane does by REST."""
    from ray._private.runtime_env.packaging import upload_package_to_gcs

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in JOBS.glob("*.py"):
            archive.write(path, path.name)
    upload_package_to_gcs(PACKAGE, buffer.getvalue())


def as_submitted(folder: Path, uri: str) -> dict[str, str]:
    """Package a folder, and put it into Ray's object store as the control plane does; return what was left out."""
    from ray._private.runtime_env.packaging import upload_package_to_gcs

    packed = pack(folder)
    (folder.parent / "package.zip").write_bytes(packed.data)
    upload_package_to_gcs(uri, for_ray(folder.parent / "package.zip"))
    return {out.path: out.why for out in packed.left_out}


def plane(uri: str = PACKAGE, **fields: Any) -> ControlPlane:
    defaults = {"entrypoint": "small:train", "package": "0" * 64, "batch_size": 32, "seed": 7, "config": {"steps": 6}}
    return ControlPlane(JobSpec(**{**defaults, **fields}), uri)


def launch(head: Head, plane: ControlPlane, attempt: str, code: str = CODE) -> subprocess.CompletedProcess[str]:
    env = {
        **head.env,
        "RAY_ADDRESS": head.address,
        "SUREFOOT_URL": plane.url,
        "SUREFOOT_ATTEMPT": attempt,
        "SUREFOOT_CLAIM": code,
    }
    command = [sys.executable, "-P", "-m", "surefoot_actors.launch.launcher"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIVENESS_S, check=False)


def until(what: Callable[[], object]) -> None:
    """Poll Ray, which tells no event."""
    deadline = time.monotonic() + LIVENESS_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_of(attempt: str, role: str) -> int:
    actor = find_actor(attempt, role)
    place = place_of(actor) if actor is not None else None
    return place.pid if place is not None and place.state == "ALIVE" else 0


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_attempt_runs_to_its_end_and_leaves_nothing(head: Head) -> None:
    with serve(plane(trainers=2)) as control:
        done = launch(head, control, "a-1")
        assert done.returncode == 0, done.stderr
        pids = [pid_of("a-1", role) for role in (SUPERVISOR, KEEPER)]
        control.wait_for_state("succeeded", LIVENESS_S)
        assert sorted(control.ledger) == list(range(6))
        assert [e.data["steps"] for e in control.of(EventKind.FINISHED)] == [6]
        assert control.states()[-1] == "succeeded"
        until(lambda: list_roles("a-1") == [])
        until(lambda: all(gone(pid) for pid in pids if pid))
        until(lambda: RayJournal("a-1").finished() is None)


# Ray's workers import each of these as they start
NEEDED_BY_RAY = ("argparse", "json", "logging", "queue", "random", "calendar", "tempfile", "packaging")


def test_modules_named_as_those_that_ray_starts_with_are_the_users_and_rays_alike(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    for name in NEEDED_BY_RAY:
        (folder / f"{name}.py").write_text("OWN = 7\n")
    (folder / "small.py").write_text((JOBS / "small.py").read_text())
    own = "".join(f"import {name}\nassert {name}.OWN == 7\n" for name in NEEDED_BY_RAY)
    (folder / "queue.py").write_text(f"OWN = 7\n{own}from small import train\n")
    as_submitted(folder, "gcs://surefoot_own.zip")
    with serve(plane("gcs://surefoot_own.zip", entrypoint="queue:train")) as control:
        assert launch(head, control, "a-own").returncode == 0
        control.wait_for_state("succeeded", LIVENESS_S)
        until(lambda: list_roles("a-own") == [])


def test_what_the_package_lacks_is_named_in_the_jobs_reason(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / ".gitignore").write_text("\n\n*.yaml\n")
    (folder / "config.yaml").write_text("")
    (folder / "train.py").write_text("import sys\ndef train(run):\n    print(sys.argv)\n    open('config.yaml')\n")
    left_out = as_submitted(folder, "gcs://surefoot_lacks.zip")
    with serve(plane("gcs://surefoot_lacks.zip", entrypoint="train:train", left_out=left_out)) as control:
        assert launch(head, control, "a-lacks").returncode == 0
        until(lambda: control.of(EventKind.FAILED))
        data = control.of(EventKind.FAILED)[-1].data
        assert str(data["reason"]).endswith(
            "No such file or directory: 'config.yaml': config.yaml was left out of the package by .gitignore line 3 (*.yaml); "
            "add `!config.yaml` to .surefootignore"
        )
        assert str(data["traceback"]).splitlines()[1:3] == [
            '  File "train.py", line 4, in train',
            "    open('config.yaml')",
        ]
        until(lambda: list_roles("a-lacks") == [])


@pytest.fixture(scope="module")
def waiting(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An attempt, a-4, that waits in step 2. In the end it is cancelled, and leaves nothing."""
    gate = tmp_path_factory.mktemp("waiting") / "never"
    with serve(plane(config={"steps": 6, "gate": [2, str(gate)]})) as control:
        done = launch(head, control, "a-4")
        assert done.returncode == 0, done.stderr
        control.wait_for_step(1, LIVENESS_S)
        yield control
        control.command(CommandKind.CANCEL)
        control.wait_for_state("cancelled", LIVENESS_S)
        until(lambda: list_roles("a-4") == [])


def test_no_actor_gives_a_secret_away_when_it_is_asked(waiting: ControlPlane) -> None:
    """By whoever may use the cluster: `__ray_call__` runs his function in the actor, and sends back what that returns."""
    import ray

    def look(actor: object, backwards: list[str]) -> dict[str, list[str]]:
        import gc
        import os
        import types

        secrets = [text[::-1] for text in backwards]
        seen, left, found = {id(actor)}, [actor], []
        while left:
            for inner in gc.get_referents(left.pop()):
                of_modules = isinstance(inner, dict) and "__builtins__" in inner
                if id(inner) in seen or of_modules or isinstance(inner, type | types.ModuleType | types.FrameType):
                    continue
                seen.add(id(inner))
                left.append(inner)
                text = inner.decode(errors="replace") if isinstance(inner, bytes | bytearray) else inner
                if isinstance(text, str):
                    found += [text for secret in secrets if secret in text]
        names = [name for name in os.environ if "TOKEN" in name or name in ("SUREFOOT_CLAIM", "SUREFOOT_DATA")]
        return {"found": found, "environment": names, "looked": [str(len(seen))]}

    liveness = RayJournal("a-4").listening()
    assert liveness is not None
    roles = list_roles("a-4")
    assert {SUPERVISOR, KEEPER} < set(roles)
    for role in roles:
        actor: Any = find_actor("a-4", role)
        told = ray.get(actor.__ray_call__.remote(look, [TOKEN[::-1], liveness[2][::-1]]), timeout=LIVENESS_S)
        assert (role, told["found"], told["environment"]) == (role, [], [])


def test_a_launch_may_be_doubled_but_a_claim_not(head: Head, waiting: ControlPlane) -> None:
    again = launch(head, waiting, "a-4")
    assert again.returncode == 0, again.stderr
    assert waiting.claims == 2
    other = launch(head, waiting, "a-5")
    assert other.returncode == 1
    assert "claim code of attempt a-5 was used before" in other.stderr
    wrong = launch(head, waiting, "a-6", code="a-wrong-code-of-some-length")
    assert wrong.returncode == 1
    assert "403" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert list_roles("a-5") == list_roles("a-6") == []
