"""The failure detector: its judgement by hypothesis, its sockets with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.events import FaultKind
from surefoot.spec import JobSpec
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.liveness.detector import BLIND_AFTER_S, FIRST_BEAT_S
from surefoot_actors.liveness.server import (
    SILENT_AFTER_S,
    STALL_AFTER_S,
    STOPPED_AFTER_S,
    Condition,
    FailureDetector,
    Heartbeat,
    LivenessServer,
)
from surefoot_actors.liveness.watchdog_process import start_watchdog
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.sealed import Sealed

from ..kernel import memory_limit
from ..processes import watchdogs

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
LIVENESS_S = 60.0


def beat(state: str = "S") -> Heartbeat:
    return Heartbeat(state=state, cpu_ms=5)


# ---- the judgement


def feed(detector: FailureDetector, until: float, *, state: str | None, start: float) -> list[tuple[float, Condition]]:
    """Tick every 50 ms from start to until, beating every second tick unless `state` is None."""
    seen = []
    for index in range(round((until - start) / 0.05)):
        now = start + index * 0.05
        changes = detector.tick(now)
        if state is not None and index % 2 == 0:
            changes += detector.beat("t1", beat(state), now)
        seen += [(now, change.condition) for change in changes]
    return seen


def test_a_running_trainer_is_told_once() -> None:
    assert [c for _, c in feed(FailureDetector(), 5, state="R", start=0)] == [Condition.RUNNING]


def test_stopped_is_told_after_the_state_has_lasted() -> None:
    detector = FailureDetector()
    feed(detector, 1, state="S", start=0)
    [(when, condition)] = feed(detector, 3, state="T", start=1)
    assert condition is Condition.STOPPED
    assert STOPPED_AFTER_S <= when - 1 <= STOPPED_AFTER_S + 0.11
    assert [c for _, c in feed(detector, 4, state="S", start=3)] == [Condition.RUNNING]


def test_silent_is_told_when_no_beat_comes() -> None:
    detector = FailureDetector()
    feed(detector, 1, state="S", start=0)
    [(when, condition)] = feed(detector, 4, state=None, start=1)
    assert condition is Condition.SILENT
    assert SILENT_AFTER_S < when - 0.9 <= SILENT_AFTER_S + 0.11


def beats(detector: FailureDetector, until: float, *, start: float, of: tuple[str, ...]) -> list[tuple[str, Condition]]:
    """The same for several trainers, of which these beat."""
    seen = []
    for index in range(round((until - start) / 0.05)):
        now = start + index * 0.05
        changes = detector.tick(now)
        for trainer in of if index % 2 == 0 else ():
            changes += detector.beat(trainer, beat(), now)
        seen += [(change.trainer, change.condition) for change in changes]
    return seen


ALL = ("t0", "t1", "t2")


def test_of_several_one_is_silent_while_others_are_heard() -> None:
    detector = FailureDetector()
    beats(detector, 1, start=0, of=ALL)
    assert beats(detector, 4, start=1, of=ALL[1:]) == [("t0", Condition.SILENT)]


def test_when_nobody_is_heard_it_is_we_who_are_cut_off() -> None:
    """And when the first is heard again, the others' connections may need another second to come back."""
    detector = FailureDetector()
    beats(detector, 1, start=0, of=ALL)
    assert beats(detector, 4, start=1, of=()) == []
    assert beats(detector, 4.6, start=4, of=("t0",)) == []
    assert beats(detector, 6, start=4.6, of=("t0", "t1")) == [("t2", Condition.SILENT)]


def test_a_stall_of_our_own_is_forgiven_once() -> None:
    detector = FailureDetector()
    beats(detector, 1, start=0, of=ALL)
    assert beats(detector, 3, start=1, of=ALL[1:]) == [("t0", Condition.SILENT)]
    assert detector.tick(3.8) == []
    assert detector.beat("t1", beat(), 3.85) == [], "one that is dead was trusted again"


def test_who_never_said_that_it_is_gone_is_no_comparison() -> None:
    detector = FailureDetector()
    beats(detector, 1, start=0, of=("t0", "t1"))
    assert beats(detector, 3, start=1, of=("t0",)) == [("t1", Condition.SILENT)]
    assert beats(detector, 5, start=3, of=()) == [("t0", Condition.SILENT)]


def test_beats_that_are_ever_slow_to_come_hide_no_silence() -> None:
    detector, seen = FailureDetector(), []
    detector.beat("t0", beat(), 0.0)
    for n in range(20):  # each of them after such a while that nobody is heard
        now = 0.1 + n * (BLIND_AFTER_S + 0.1)
        for tick in range(12):
            seen += detector.tick(now + tick * 0.05)
        seen += detector.beat("t1", beat(), now + 0.6)
    assert [(c.trainer, c.condition) for c in seen if c.condition is not Condition.RUNNING] == [
        ("t0", Condition.SILENT)
    ]


def test_one_that_was_started_by_another_supervisor_has_time_to_be_heard() -> None:
    detector = FailureDetector()
    detector.expect("t0", 0.0)
    detector.expect("t1", 0.0)
    [*quiet] = beats(detector, FIRST_BEAT_S, start=0.05, of=("t1",))
    assert quiet == []
    assert beats(detector, FIRST_BEAT_S + 1, start=FIRST_BEAT_S, of=("t1",)) == [("t0", Condition.SILENT)]


def test_the_servers_own_stall_is_nobodys_silence() -> None:
    detector = FailureDetector()
    feed(detector, 1, state="S", start=0)
    assert detector.tick(61.0) == []
    assert [c for _, c in feed(detector, 61.9, state=None, start=61.05)] == []
    assert [c for _, c in feed(detector, 64, state=None, start=61.9)] == [Condition.SILENT]


def test_gone_is_for_ever() -> None:
    detector = FailureDetector()
    detector.beat("t1", beat(), 0.0)
    assert [c.condition for c in detector.gone("t1", 0.1)] == [Condition.GONE]
    assert detector.beat("t1", beat(), 0.2) == []
    assert detector.tick(100.0) == []


OBSERVATIONS = st.lists(
    st.tuples(st.floats(0.0, 3.0), st.sampled_from(["tick", "S", "R", "D", "T", "t", "Z"])), max_size=60
)


@given(OBSERVATIONS)
def test_a_change_is_never_told_twice_and_always_earned(observations: list[tuple[float, str]]) -> None:
    """`watched` is time that we were awake in: gaps count up to STALL_AFTER_S, as more is cut to a tick."""
    detector, now, told = FailureDetector(), 0.0, None
    since_beat = since_other = 0.0
    for gap, what in observations:
        now += gap
        awake = gap if gap <= STALL_AFTER_S else 0.05
        since_beat, since_other = since_beat + awake, since_other + awake
        changes = detector.tick(now) if what == "tick" else detector.beat("t1", beat(what), now)
        since_beat = since_beat if what == "tick" else 0.0
        since_other = since_other if what in ("tick", "T", "t") else 0.0
        for change in changes:
            assert change.condition is not told
            told = change.condition
            if told is Condition.SILENT:
                assert since_beat > SILENT_AFTER_S - 1e-6
            if told is Condition.STOPPED:
                assert since_other >= STOPPED_AFTER_S - 1e-6


@given(st.lists(st.floats(0.0, STALL_AFTER_S), max_size=100))
def test_beats_in_time_are_never_suspected(gaps: list[float]) -> None:
    detector, now = FailureDetector(), 0.0
    detector.beat("t1", beat(), now)
    for gap in gaps:
        now += gap
        assert detector.beat("t1", beat("D"), now) == []
        assert detector.tick(now) == []


# ---- the sockets, with real processes

TRAINER = textwrap.dedent("""
    import os, sys, time, threading
    from surefoot.spec import JobSpec
    from surefoot_actors.cluster.ports import TrainerSetup
    from surefoot_actors.liveness.watchdog_process import Watchdog, mark
    from surefoot_actors.sealed import Sealed
    port, secret, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if sys.argv[4]:
        with open(sys.argv[4], "w") as group:
            group.write(str(os.getpid()))
    spec = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
    watchdog = Watchdog(TrainerSetup(attempt="a1", trainer=name, spec=spec, liveness=("127.0.0.1", port)), Sealed(secret))
    watchdog.start()
    mark(17, 3)
    for line in sys.stdin:
        if line.startswith("hog"):
            hog = bytearray(500_000_000)
            hog[::4096] = bytes(len(hog[::4096]))
        host, port, secret = line.split()
        watchdog.tell((host, int(port)), secret)
""")


class Conditions:
    """What a server told, to be awaited."""

    def __init__(self, server: LivenessServer) -> None:
        self.told: list[tuple[str, Condition]] = []
        self.details: list[str] = []
        self._changed = asyncio.Condition()
        server.on_change = self._take

    def _take(self, trainer: str, condition: Condition, detail: str) -> None:
        self.told.append((trainer, condition))
        self.details.append(detail)
        asyncio.ensure_future(self._notify())  # noqa: RUF006 (ends at once)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, trainer: str, condition: Condition) -> None:
        async with asyncio.timeout(LIVENESS_S), self._changed:
            await self._changed.wait_for(lambda: (trainer, condition) in self.told)


@pytest.fixture
async def server() -> AsyncIterator[LivenessServer]:
    server = LivenessServer("a1")
    await server.start()
    yield server
    await server.close()


@contextmanager
def process(
    server: LivenessServer, name: str = "t1", secret: str | None = None, group: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [str(server.address[1]), secret or server.sealed.reveal(), name, group]
    started = subprocess.Popen([sys.executable, "-c", TRAINER, *arguments], stdin=subprocess.PIPE)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdin is not None
        started.stdin.close()


async def tell(trainer: subprocess.Popen[bytes], line: str) -> None:
    assert trainer.stdin is not None
    trainer.stdin.write(f"{line}\n".encode())
    trainer.stdin.flush()


def watchdog_of(pid: int) -> int:
    """The pid of a process's watchdog; 0 where there is none."""
    return next((watchdog.pid for watchdog in watchdogs(pid)), 0)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def until(what: Callable[[], bool]) -> None:
    """Poll a predicate of the operating system, which tells no event."""
    async with asyncio.timeout(LIVENESS_S):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_killed_trainer_is_gone_and_its_watchdog_too(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        watchdog = watchdog_of(trainer.pid)
        trainer.kill()
        await told.wait("t1", Condition.GONE)
        await until(lambda: not alive(watchdog))
    assert told.told == [("t1", Condition.RUNNING), ("t1", Condition.GONE)]


async def test_a_stopped_trainer_is_stopped_then_fenced(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        trainer.send_signal(signal.SIGSTOP)
        await told.wait("t1", Condition.STOPPED)
        assert server.condition("t1") is Condition.STOPPED
        assert await server.fence("t1")
        assert await asyncio.to_thread(trainer.wait, LIVENESS_S) == -signal.SIGKILL
        assert await server.fence("t1")


async def test_a_trainer_that_goes_on_is_running_again(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        trainer.send_signal(signal.SIGSTOP)
        await told.wait("t1", Condition.STOPPED)
        told.told.clear()
        trainer.send_signal(signal.SIGCONT)
        await told.wait("t1", Condition.RUNNING)


async def test_a_frozen_node_is_silent(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        watchdog = watchdog_of(trainer.pid)
        os.kill(watchdog, signal.SIGSTOP)
        await told.wait("t1", Condition.SILENT)
        os.kill(watchdog, signal.SIGCONT)


async def test_a_lost_watchdog_is_replaced(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        first = watchdog_of(trainer.pid)
        os.kill(first, signal.SIGKILL)
        await until(lambda: watchdog_of(trainer.pid) not in (0, first))
        trainer.send_signal(signal.SIGSTOP)
        await told.wait("t1", Condition.STOPPED)
        assert await server.fence("t1")


async def test_a_watchdog_finds_its_server_again_and_another_when_told(server: LivenessServer) -> None:
    told = Conditions(server)
    second = LivenessServer("a1")
    await second.start()
    told_second = Conditions(second)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        await server.close()
        await tell(trainer, f"127.0.0.1 {second.address[1]} {second.sealed.reveal()}")
        await told_second.wait("t1", Condition.RUNNING)
        assert await second.fence("t1")
    await second.close()


async def test_the_marked_sub_task_is_told(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server):
        await told.wait("t1", Condition.RUNNING)
        await until(lambda: (b := server.last("t1")) is not None and (b.round, b.sub_task) == (17, 3))


async def test_the_end_is_told_with_what_it_computed(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        await until(lambda: (b := server.last("t1")) is not None and b.sub_task == 3)
        trainer.kill()
        await told.wait("t1", Condition.GONE)
    last = server.last("t1")
    assert last is not None
    assert (last.state, last.round, last.sub_task) == ("X", 17, 3)
    assert told.details[-1] == "its process died, in sub-task 3 of round 17"


async def test_a_kill_for_memory_is_named(server: LivenessServer) -> None:
    told = Conditions(server)
    with memory_limit(300_000_000) as group, process(server, group=str(group)) as trainer:
        await told.wait("t1", Condition.RUNNING)
        await tell(trainer, "hog")
        await told.wait("t1", Condition.GONE)
        assert await asyncio.to_thread(trainer.wait, LIVENESS_S) == -signal.SIGKILL
    assert told.details[-1].startswith("out of memory: the kernel's OOM killer")


async def test_a_fence_is_told_to_whoever_comes_back(server: LivenessServer) -> None:
    """As a trainer does after a partition: nobody could be told when it was fenced."""
    told = Conditions(server)
    second = LivenessServer("a1")
    await second.start()
    with process(server) as trainer, process(server, "t2") as other:
        await told.wait("t1", Condition.RUNNING)
        assert not await second.fence("t1")
        for each in (trainer, other):
            await tell(each, f"127.0.0.1 {second.address[1]} {second.sealed.reveal()}")
        assert await asyncio.to_thread(trainer.wait, LIVENESS_S) == -signal.SIGKILL
        await until(lambda: second.condition("t1") is Condition.GONE)
        await until(lambda: second.condition("t2") is Condition.RUNNING)
        assert await second.fence("t1")
    await second.close()


async def test_faults_are_done_for_real(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server) as trainer:
        await told.wait("t1", Condition.RUNNING)
        with pytest.raises(FaultRefusedError, match="under no raylet"):
            await server.inject("t1", FaultKind.NODE)
        await server.inject("t1", FaultKind.FREEZE)
        await told.wait("t1", Condition.STOPPED)
        await server.inject("t1", FaultKind.TRAINER)
        assert await asyncio.to_thread(trainer.wait, LIVENESS_S) == -signal.SIGKILL
        await told.wait("t1", Condition.GONE)
    with pytest.raises(FaultRefusedError, match="no watchdog"):
        await server.inject("t2", FaultKind.TRAINER)


RAYLET = textwrap.dedent("""
    import subprocess, sys
    with open("/proc/self/comm", "w") as name:
        name.write("raylet")
    subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdin=subprocess.PIPE).wait()
""")


async def test_a_trainer_whose_raylet_dies_has_lost_its_node(server: LivenessServer) -> None:
    """The fault is done for real to whatever is called a raylet; its trainer ends with it, as Ray's workers do."""
    told = Conditions(server)
    arguments = [TRAINER, str(server.address[1]), server.sealed.reveal(), "t1", ""]
    with subprocess.Popen([sys.executable, "-c", RAYLET, *arguments]) as raylet:  # noqa: ASYNC220
        await told.wait("t1", Condition.RUNNING)
        await server.inject("t1", FaultKind.NODE)
        assert await asyncio.to_thread(raylet.wait, LIVENESS_S) == -signal.SIGKILL
        await told.wait("t1", Condition.GONE)
    assert told.details[-1].startswith("its node died")
    assert server.cause_of_death("t1") is DeathCause.NODE


async def test_strangers_are_not_believed(server: LivenessServer) -> None:
    told = Conditions(server)
    with process(server, secret="wrong"), process(server, "t2"):
        await told.wait("t2", Condition.RUNNING)
        reader, writer = await asyncio.open_connection(*server.address)
        await reader.readline()
        writer.write(b"gone\n")
        assert await reader.read() == b""
        writer.close()
    assert not any(trainer == "t1" for trainer, _ in told.told)
    assert not await server.fence("t1")


def test_a_name_with_a_space_is_refused() -> None:
    setup = TrainerSetup(attempt="a1", trainer="t 1", spec=SPEC, liveness=("127.0.0.1", 1))
    with pytest.raises(ValueError, match="'t 1'"):
        start_watchdog(setup, Sealed("x"), os.getpid())


def test_the_watchdog_is_light() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import watchdog; print(*sys.modules)"
    folder = os.path.dirname(sys.modules["surefoot_actors.liveness.watchdog"].__file__ or "")
    modules = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert not {"torch", "pydantic", "ray", "numpy", "asyncio"} & set(modules.stdout.split())
