"""How trainers' processes are: the supervisor's own eyes and hand, beside what the cluster says and does.

A watchdog process beside each trainer (liveness/watchdog.py, started by liveness/watchdog_process.py) connects here and beats every 100
ms. `FailureDetector` (liveness/detector.py) judges the beats, purely; `LivenessServer` is the socket around it. Running is not lost,
however long a trainer's replies take; stopped or silent is a reason for suspicion, gone is certain.

The same line carries orders: "fence" kills the trainer, "inject KIND" does a fault to it or to its node for real.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from surefoot.events import FaultKind
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.liveness.detector import (
    SILENT_AFTER_S,
    STALL_AFTER_S,
    STOPPED_AFTER_S,
    TICK_S,
    Change,
    Condition,
    FailureDetector,
    Heartbeat,
    TrainerHealth,
    cause_of_death,
    killed_by,
)
from surefoot_actors.liveness.watchdog import proof
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.sealed import Sealed

__all__ = [
    "SILENT_AFTER_S",
    "STALL_AFTER_S",
    "STOPPED_AFTER_S",
    "Change",
    "Condition",
    "FailureDetector",
    "Heartbeat",
    "LivenessServer",
    "TrainerHealth",
]

HANDSHAKE_S = 2.0
FENCE_S = 2.0
INJECT_S = 5.0
# the first word of a connection for printed lines (see logs/collector.py)
LOGS = "logs"


def _ignore(trainer: str, condition: Condition, detail: str) -> None:
    pass


class LivenessServer:
    """The socket that watchdogs beat to. `on_change` is called on its event loop, once for each change of condition."""

    def __init__(
        self,
        attempt: str,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.monotonic,
        *,
        port: int = 0,
        secret: str | None = None,
    ) -> None:
        """`port` and `secret`: of the supervisor before this one, so that its watchdogs find their way by themselves."""
        self.on_change: Callable[[str, Condition, str], None] = _ignore
        # takes a trainer's name and a sample of what it uses, as JSON
        self.on_system: Callable[[str, str], None] = lambda trainer, told: None
        # takes the connections over which a process's printed lines come; None: nobody does
        self.on_logs: Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
        self.sealed = Sealed(secret or secrets.token_hex(16))
        self._attempt, self._host, self._clock, self._port = attempt, host, clock, port
        self._detector = FailureDetector()
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._links: dict[str, asyncio.StreamWriter] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._gone: dict[str, asyncio.Event] = {}
        # out for ever: told so again whenever their watchdog comes back, from a partition say
        self._fenced: set[str] = set()
        self._injecting: dict[str, asyncio.Future[str]] = {}

    async def start(self) -> None:
        """Listen on `host`: on the port that was given, if it is still free, or on a free one."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=4096)
        except OSError:
            self._server = await asyncio.start_server(self._serve, self._host, 0, limit=4096)
        self._ticker = asyncio.create_task(self._tick(), name="liveness-tick")

    @property
    def address(self) -> tuple[str, int]:
        """Where watchdogs are to connect. Only once started."""
        assert self._server is not None
        return self._host, self._server.sockets[0].getsockname()[1]

    def last(self, trainer: str) -> Heartbeat | None:
        """The last beat of a trainer."""
        health = self._detector.health.get(trainer)
        return None if health is None else health.beat

    def cause_of_death(self, trainer: str) -> DeathCause:
        """Of what the trainer died, as far as its watchdog has said."""
        health = self._detector.health.get(trainer)
        return DeathCause.PROCESS if health is None else cause_of_death(health)

    def killed_by(self, trainer: str) -> str:
        """By which signal of its own making, and where, the trainer died, as far as its watchdog has said; empty: by none."""
        health = self._detector.health.get(trainer)
        return "" if health is None else killed_by(health)

    def expect(self, trainer: str) -> None:
        """Have a trainer counted as silent if it does not come to beat here: one that an earlier supervisor started."""
        self._detector.expect(trainer, self._clock())

    def condition(self, trainer: str) -> Condition | None:
        """How a trainer is at this moment; None where it was never heard of."""
        health = self._detector.health.get(trainer)
        return None if health is None else health.condition(self._clock())

    def unhealthy_s(self, trainer: str) -> float:
        """For how long a trainer has not been seen running."""
        health = self._detector.health.get(trainer)
        return 0.0 if health is None else health.unhealthy_s(self._clock())

    async def fence(self, trainer: str) -> bool:
        """Kill the trainer's process through its watchdog. True: it is confirmed gone; False: nobody could confirm it.

        A watchdog that cannot be reached now is told as soon as it connects, however much later.
        """
        self._fenced.add(trainer)
        gone = self._gone.setdefault(trainer, asyncio.Event())
        link = self._links.get(trainer)
        if link is not None and not gone.is_set():
            link.write(b"fence\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(FENCE_S):
                    await gone.wait()
        return gone.is_set()

    def is_linked(self, trainer: str) -> bool:
        """Whether the trainer's watchdog is connected."""
        return trainer in self._links

    async def wait_gone(self, trainer: str, within_s: float) -> None:
        """Wait for the watchdog's word that the trainer's process is dead, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._gone.setdefault(trainer, asyncio.Event()).wait()

    async def inject(self, trainer: str, fault: FaultKind) -> None:
        """Have the trainer's watchdog do this to it, or to its node. Raises FaultRefusedError where it cannot be done."""
        link = self._links.get(trainer)
        if link is None:
            raise FaultRefusedError(f"{trainer} has no watchdog that could do it at present")
        answer = self._injecting[trainer] = asyncio.get_running_loop().create_future()
        link.write(f"inject {fault}\n".encode())
        try:
            async with asyncio.timeout(INJECT_S):
                refused = await answer
        except TimeoutError:
            refused = "its watchdog does not answer"
        finally:
            del self._injecting[trainer]
        if refused:
            raise FaultRefusedError(refused)

    async def close(self) -> None:
        """Stop listening and hang up; watchdogs keep trying until they are told another address."""
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
            self._tell(self._detector.tick(self._clock()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                word, trainer = await self._shake(reader, writer)
            if trainer and word == LOGS:
                if self.on_logs is not None:
                    await self.on_logs(trainer, reader, writer)
            elif trainer:
                self._links[trainer] = writer
                if trainer in self._fenced:
                    writer.write(b"fence\n")
                await self._listen(trainer, reader)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a stranger, or a watchdog that will connect anew: the detector notices if it does not
        finally:
            self._links = {name: link for name, link in self._links.items() if link is not writer}
            self._writers.discard(writer)
            writer.close()

    async def _shake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, str]:
        """Return what is to come over the connection, and whose it is; empty for a stranger."""
        ours = secrets.token_hex(16)
        writer.write(f"challenge {ours}\n".encode())
        word, attempt, trainer, pid, theirs, mac = (await reader.readline()).decode().split()
        secret = self.sealed.reveal().encode()
        if attempt != self._attempt or not hmac.compare_digest(
            mac, proof(secret, LOGS if word == LOGS else "helper", ours, theirs, attempt, trainer, pid)
        ):
            return word, ""
        writer.write(f"welcome {proof(secret, 'server', theirs, ours)}\n".encode())
        return word, trainer

    async def _listen(self, trainer: str, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            match line.decode().split():
                case ["beat", state, cpu_ms, round_, sub_task]:
                    beat = Heartbeat(state=state, cpu_ms=int(cpu_ms), round=int(round_), sub_task=int(sub_task))
                    self._tell(self._detector.beat(trainer, beat, self._clock()))
                case ["gone", round_, sub_task, cause]:
                    self._tell(self._detector.gone(trainer, self._clock(), int(round_), int(sub_task), cause))
                case ["system", told]:
                    self.on_system(trainer, told)
                case ["injected", *refused]:
                    if (answer := self._injecting.get(trainer)) is not None and not answer.done():
                        answer.set_result(" ".join(refused))

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            if change.condition is Condition.GONE:
                self._gone.setdefault(change.trainer, asyncio.Event()).set()
            self.on_change(change.trainer, change.condition, change.detail)
