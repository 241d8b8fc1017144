"""How trainers' processes are: the supervisor's own eyes, beside what the cluster says.

A helper process beside each trainer (pulse_helper.py, started by pulse_trainer.py) connects here and beats every 100
ms. `Watch` judges the beats, purely; `PulseServer` is the socket around it. Running is not lost, however long a
trainer's replies take; stopped or silent is a reason for suspicion, gone is certain.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from surefoot_actors.pulse_helper import proof

__all__ = ["Beat", "Change", "Condition", "Pulse", "PulseServer", "Watch"]

# A state "stopped" seen over so long is no passing one.
STOPPED_AFTER_S = 0.2
SILENT_AFTER_S = 1.0
TICK_S = 0.05
# Between two looks of ours so long apart we ourselves were not running: the rest is not the trainers' silence.
STALL_AFTER_S = 0.2
HANDSHAKE_S = 2.0
FENCE_S = 2.0


class Condition(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    SILENT = "silent"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a helper tells of its trainer."""

    # of /proc/PID/stat: R S D T t Z ...
    state: str
    cpu_ms: int
    # the sub-task last started, -1: none
    round: int = -1
    sub_task: int = -1

    @property
    def detail(self) -> str:
        where = f", in sub-task {self.sub_task} of round {self.round}" if self.sub_task >= 0 else ""
        return f"process state {self.state}, {self.cpu_ms / 1000:.1f} s of CPU{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """All that is known of one trainer's process."""

    beat: Beat
    # clock of the last beat
    heard: float
    # clock of the first of the unbroken row of "stopped" beats that `beat` ends; None where it is another
    stopped_since: float | None = None
    gone: bool = False

    def condition(self, now: float) -> Condition:
        if self.gone:
            return Condition.GONE
        if now - self.heard > SILENT_AFTER_S:
            return Condition.SILENT
        if self.stopped_since is not None and self.heard - self.stopped_since >= STOPPED_AFTER_S:
            return Condition.STOPPED
        return Condition.RUNNING

    def after(self, beat: Beat, now: float) -> Pulse:
        stopped = beat.state in "Tt"
        since = (now if self.stopped_since is None else self.stopped_since) if stopped else None
        return replace(self, beat=beat, heard=now, stopped_since=since)

    def shifted(self, by: float) -> Pulse:
        since = None if self.stopped_since is None else self.stopped_since + by
        return replace(self, heard=self.heard + by, stopped_since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    trainer: str
    condition: Condition
    detail: str


class Watch:
    """Judges observations; knows no clock but the `now` it is given, which never goes back.

    Every observation is also a look of our own: where two are further apart than our ticks explain, we stalled, and
    what the trainers did meanwhile is not known; so that time counts neither as silence nor as stopped.
    """

    def __init__(self) -> None:
        self.pulses: dict[str, Pulse] = {}
        self._told: dict[str, Condition] = {}
        self._looked: float | None = None

    def expect(self, trainer: str, now: float) -> None:
        """From now on a trainer's silence counts, though it has never been heard."""
        self._look(now)
        self.pulses.setdefault(trainer, Pulse(beat=Beat(state="?", cpu_ms=0), heard=now))
        self._told.setdefault(trainer, Condition.RUNNING)

    def beat(self, trainer: str, beat: Beat, now: float) -> list[Change]:
        """Take a beat. A trainer that is gone stays gone."""
        self._look(now)
        known = self.pulses.get(trainer)
        self.pulses[trainer] = (known or Pulse(beat=beat, heard=now)).after(beat, now)
        return self._changes(now)

    def gone(self, trainer: str, now: float) -> list[Change]:
        """Take that the process is dead, for certain."""
        self._look(now)
        known = self.pulses.get(trainer) or Pulse(beat=Beat(state="X", cpu_ms=0), heard=now)
        self.pulses[trainer] = replace(known, gone=True)
        return self._changes(now)

    def tick(self, now: float) -> list[Change]:
        """Look at the clock; to be called every TICK_S."""
        self._look(now)
        return self._changes(now)

    def _look(self, now: float) -> None:
        missed = 0.0 if self._looked is None else now - self._looked - TICK_S
        self._looked = now
        if missed > STALL_AFTER_S - TICK_S:
            self.pulses = {trainer: pulse.shifted(missed) for trainer, pulse in self.pulses.items()}

    def _changes(self, now: float) -> list[Change]:
        changes = []
        for trainer, pulse in self.pulses.items():
            condition = pulse.condition(now)
            if self._told.get(trainer) is not condition:
                self._told[trainer] = condition
                changes.append(Change(trainer=trainer, condition=condition, detail=_detail(pulse, condition, now)))
        return changes


def _detail(pulse: Pulse, condition: Condition, now: float) -> str:
    heard = f"last heard {now - pulse.heard:.1f} s ago; " if condition is Condition.SILENT else ""
    return heard + pulse.beat.detail


def _ignore(trainer: str, condition: Condition, detail: str) -> None:
    pass


class PulseServer:
    """The socket that helpers beat to. `on_change` is called on its event loop, once for each change of condition."""

    def __init__(self, attempt: str, host: str = "127.0.0.1", clock: Callable[[], float] = time.monotonic) -> None:
        self.on_change: Callable[[str, Condition, str], None] = _ignore
        self.secret = secrets.token_hex(16)
        self._attempt, self._host, self._clock = attempt, host, clock
        self._watch = Watch()
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._links: dict[str, asyncio.StreamWriter] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._gone: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Listen on a free port of `host`."""
        self._server = await asyncio.start_server(self._serve, self._host, 0, limit=4096)
        self._ticker = asyncio.create_task(self._tick(), name="pulse-tick")

    @property
    def address(self) -> tuple[str, int]:
        """Where helpers are to connect. Only once started."""
        assert self._server is not None
        return self._host, self._server.sockets[0].getsockname()[1]

    def snapshot(self) -> dict[str, tuple[Condition, str]]:
        """The condition, and a sentence, of every trainer heard of."""
        now = self._clock()
        conditions = {trainer: pulse.condition(now) for trainer, pulse in self._watch.pulses.items()}
        return {t: (condition, _detail(self._watch.pulses[t], condition, now)) for t, condition in conditions.items()}

    def last(self, trainer: str) -> Beat | None:
        """The last beat of a trainer."""
        pulse = self._watch.pulses.get(trainer)
        return None if pulse is None else pulse.beat

    def expect(self, trainer: str) -> None:
        """Have a trainer counted as silent if it does not come to beat here: one that an earlier supervisor started."""
        self._watch.expect(trainer, self._clock())

    async def fence(self, trainer: str) -> bool:
        """Kill the trainer's process through its helper. True: it is confirmed gone; False: nobody could confirm it."""
        gone = self._gone.setdefault(trainer, asyncio.Event())
        link = self._links.get(trainer)
        if link is not None and not gone.is_set():
            link.write(b"fence\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(FENCE_S):
                    await gone.wait()
        return gone.is_set()

    async def close(self) -> None:
        """Stop listening and hang up; helpers keep trying until they are told another address."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.close()
            await self._server.wait_closed()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tell(self._watch.tick(self._clock()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                trainer = await self._shake(reader, writer)
            if trainer is not None:
                self._links[trainer] = writer
                await self._listen(trainer, reader)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a stranger, or a helper that will connect anew: the watch notices if it does not
        finally:
            self._links = {name: link for name, link in self._links.items() if link is not writer}
            self._writers.discard(writer)
            writer.close()

    async def _shake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        ours = secrets.token_hex(16)
        writer.write(f"challenge {ours}\n".encode())
        _, attempt, trainer, pid, theirs, mac = (await reader.readline()).decode().split()
        secret = self.secret.encode()
        if attempt != self._attempt or not hmac.compare_digest(
            mac, proof(secret, "helper", ours, theirs, attempt, trainer, pid)
        ):
            return None
        writer.write(f"welcome {proof(secret, 'server', theirs, ours)}\n".encode())
        return trainer

    async def _listen(self, trainer: str, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            match line.decode().split():
                case ["beat", state, cpu_ms, round_, sub_task]:
                    beat = Beat(state=state, cpu_ms=int(cpu_ms), round=int(round_), sub_task=int(sub_task))
                    self._tell(self._watch.beat(trainer, beat, self._clock()))
                case ["gone"]:
                    self._tell(self._watch.gone(trainer, self._clock()))

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            if change.condition is Condition.GONE:
                self._gone.setdefault(change.trainer, asyncio.Event()).set()
            self.on_change(change.trainer, change.condition, change.detail)
