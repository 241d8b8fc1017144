"""Trainers as local processes: started, asked, killed, stopped, found again, and nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from surefoot.events import FaultKind
from surefoot.spec import JobSpec
from surefoot_actors.cluster.local.cluster import LocalCluster
from surefoot_actors.cluster.ports import TrainerGoneError, TrainerHandle, TrainerSetup
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.liveness.server import Condition, LivenessServer
from surefoot_actors.protocol.messages import End, EndGeneration, Hello, RequestBoundary

from ..processes import watchdogs

HERE = str(Path(__file__).parent)
LIVENESS_S = 90.0


def spec(**env: str) -> JobSpec:
    return JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8, threads=3, env=env)


def setup(trainer: str = "t1", liveness: LivenessServer | None = None, **env: str) -> TrainerSetup:
    address, secret = (liveness.address, liveness.sealed) if liveness else (("", 0), None)
    return TrainerSetup(attempt="a1", trainer=trainer, spec=spec(**env), liveness=address, liveness_secret=secret)


def local(service: str = "Fake", **options: Any) -> LocalCluster:
    return LocalCluster("a1", [HERE], service=f"fake_trainer:{service}", **{"preload": (), **options})


async def hello(trainer: TrainerHandle, number: int = 1) -> Hello:
    await trainer.deliver(EndGeneration(number=number, incarnation=1))
    message = (await trainer.collect(0, 0, LIVENESS_S)).messages[-1][1]
    assert isinstance(message, Hello)
    return message


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with asyncio.timeout(LIVENESS_S), local(env={"MARK": "1"}) as cluster:
        yield cluster


async def test_a_trainer_is_asked_and_answers(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    assert trainer.trainer == "t1"
    said = await hello(trainer, 5)
    assert (said.trainer, said.node) == ("t1", "over 5")
    assert dict(said.fingerprint) == {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "3", "MARK": "1"}
    assert (await trainer.collect(1, 0, 0.0)).messages == ()


async def test_deliver_does_not_wait_behind_collect(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    waiting = asyncio.create_task(trainer.collect(0, 0, LIVENESS_S))
    await trainer.deliver(EndGeneration(number=2, incarnation=1))
    [(n, _)] = (await waiting).messages
    assert n == 1


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_kill_is_told_mid_call_with_its_reason(cluster: LocalCluster, stopped: bool) -> None:
    trainer = await cluster.start_trainer(setup())
    pid = (await hello(trainer)).pid
    waiting = asyncio.create_task(trainer.collect(1, 0, LIVENESS_S))
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(TrainerGoneError, match=r"killed by signal 9 \(SIGKILL\)"):
        await waiting
    assert time.monotonic() - killed < 5
    with pytest.raises(TrainerGoneError, match="signal 9"):
        await trainer.deliver(EndGeneration(number=1, incarnation=1))


async def test_kill_ends_a_stopped_process_and_may_be_doubled(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    pid = (await hello(trainer)).pid
    os.kill(pid, signal.SIGSTOP)
    await asyncio.gather(trainer.kill(), trainer.kill())
    assert gone(pid)
    await trainer.kill()
    assert await cluster.find_trainers() == []


async def test_faults_are_done_for_real(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    pid = (await hello(trainer)).pid
    with pytest.raises(FaultRefusedError, match="no node of its own"):
        await trainer.inject(FaultKind.NODE)
    await trainer.inject(FaultKind.FREEZE)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await trainer.inject(FaultKind.TRAINER)
    with pytest.raises(TrainerGoneError, match="SIGKILL"):
        await trainer.collect(100, 0, LIVENESS_S)


async def test_a_process_told_to_terminate_gives_notice_and_goes_on(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    said = await hello(trainer)
    os.kill(said.pid, signal.SIGTERM)
    [(_, notice)] = (await trainer.collect(1, 0, LIVENESS_S)).messages
    assert isinstance(notice, Hello)
    assert "terminate (SIGTERM)" in notice.node
    assert (await hello(trainer, 9)).node == "over 9"


async def test_an_exit_is_told_with_its_code(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    with pytest.raises(TrainerGoneError, match="exited with code 7"):
        await trainer.deliver(End(incarnation=1, reason="done"))


async def test_a_service_that_raises_is_ended(cluster: LocalCluster) -> None:
    trainer = await cluster.start_trainer(setup())
    pid = (await hello(trainer)).pid
    with pytest.raises(TrainerGoneError, match="a broken service"):
        await trainer.deliver(RequestBoundary(number=1, incarnation=1))
    assert gone(pid)


async def test_a_service_that_fails_to_start_is_told() -> None:
    async with asyncio.timeout(LIVENESS_S), local("FailsToStart") as cluster:
        with pytest.raises(TrainerGoneError, match="no such device"):
            await cluster.start_trainer(setup())
        assert await cluster.find_trainers() == []


async def test_a_preload_that_fails_is_told() -> None:
    async with asyncio.timeout(LIVENESS_S), LocalCluster("a1", preload=("no_such_module",)) as cluster:
        with pytest.raises(TrainerGoneError, match="template"):
            await cluster.start_trainer(setup())


async def test_a_start_can_be_cancelled(tmp_path: Path) -> None:
    flag = tmp_path / "starting"
    async with asyncio.timeout(LIVENESS_S), local("SlowToStart") as cluster:
        starting = asyncio.create_task(cluster.start_trainer(setup(STARTING=str(flag))))
        while not (flag.exists() and flag.read_text()):  # noqa: ASYNC110 (the file system tells no event)
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert gone(int(flag.read_text()))
        assert await cluster.find_trainers() == []


async def test_another_supervisor_finds_the_living_and_hears_them() -> None:
    first, second = LivenessServer("a1"), LivenessServer("a1")
    await first.start()
    await second.start()
    conditions: asyncio.Queue[tuple[str, Condition]] = asyncio.Queue()
    second.on_change = lambda trainer, condition, _: conditions.put_nowait((trainer, condition))
    async with asyncio.timeout(LIVENESS_S), local(liveness=first) as cluster:
        trainers = [await cluster.start_trainer(setup(f"t{i}", first)) for i in range(3)]
        await trainers[0].kill()
        stopped = (await hello(trainers[1])).pid
        os.kill(stopped, signal.SIGSTOP)
        await first.close()
        cluster.liveness = second
        found = await cluster.find_trainers()
        assert [trainer.trainer for trainer in found] == ["t1", "t2"]
        assert (await hello(found[1], 9)).node == "over 9"
        assert {await conditions.get()} == {("t1", Condition.SILENT)}
        assert second.condition("t2") is Condition.RUNNING
    await second.close()


async def test_close_leaves_nothing() -> None:
    async with asyncio.timeout(LIVENESS_S):
        before = set(psutil.Process().children(recursive=True))
        liveness = LivenessServer("a1")
        await liveness.start()
        cluster = local()
        for i in range(2):
            await cluster.start_trainer(setup(f"t{i}", liveness))
            while liveness.condition(f"t{i}") is None:  # noqa: ASYNC110 (until its watchdog beats, it is not detached)
                await asyncio.sleep(0.01)
        descendants = [p for p in psutil.Process().children(recursive=True) if p not in before]
        assert len(descendants) == 3
        descendants += [watchdog for process in descendants for watchdog in watchdogs(process.pid)]
        assert len(descendants) == 5
        await cluster.close()
        await asyncio.to_thread(psutil.wait_procs, descendants, LIVENESS_S)
        assert [p for p in descendants if p.is_running()] == []
        await liveness.close()


ABANDONED = textwrap.dedent("""
    import asyncio, os, sys
    from surefoot.spec import JobSpec
    from surefoot_actors.cluster.ports import TrainerSetup
    from surefoot_actors.cluster.local.cluster import LocalCluster
    async def main():
        cluster = LocalCluster("a1", [sys.argv[1]], service="fake_trainer:Fake", preload=())
        spec = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
        await cluster.start_trainer(TrainerSetup(attempt="a1", trainer="t1", spec=spec, liveness=("", 0)))
        print("started", flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
""")


def test_nothing_outlives_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ABANDONED, HERE], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        descendants = psutil.Process(parent.pid).children(recursive=True)
        assert len(descendants) == 2
        parent.kill()
    _, alive = psutil.wait_procs(descendants, LIVENESS_S)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
async def test_starts_are_quick_once_torch_is_imported() -> None:
    async with asyncio.timeout(360), local(preload=("torch",)) as cluster:
        first = await cluster.start_trainer(setup("t0"))
        began = time.monotonic()
        handles = [first, *[await cluster.start_trainer(setup(f"t{i}")) for i in range(1, 4)]]
        assert time.monotonic() - began < 10
        pids = [(await hello(handle)).pid for handle in handles]
        template = psutil.Process(pids[0]).parent()
        assert template is not None
        assert template.num_threads() == 1, "a fork of several threads is not safe"
        assert all("torch" in "".join(m.path for m in psutil.Process(pid).memory_maps()) for pid in pids)
