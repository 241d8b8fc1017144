"""The supervisor's part: takes frames from collectors, sends them up together, and tells each collector what is stored.

Nothing is kept here that a collector would not send again: so a supervisor that dies loses no line. Memory is bounded, since each
collector has one window of frames on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from surefoot.logs import FrameHead
from surefoot_actors.process_log import log
from surefoot_actors.tasks import Tasks

__all__ = ["LogRelay", "LogSink"]

# Frames travel together for so long: a body a second and not one a trainer. And for longer after a body with so much text, which nobody
# reads as it comes, unless there is a body's worth of it before.
_TOGETHER_S = 0.5
_LONG_TOGETHER_S, _MUCH_TEXT_BYTES = 2.0, 256 * 1024
# Of a body. What is refused is lost, and the control plane takes no more than ten times as much text, and five times as many frames.
_BODY_BYTES = 512 * 1024
_BODY_FRAMES = 200
_BODY_TEXT_BYTES = 6 * 1024 * 1024
_LONGEST_FRAME = 4 * 1024 * 1024
_SOURCE = re.compile(r"^[a-z][a-z0-9]{0,20}-[0-9a-f]{8}$")


class LogSink(Protocol):
    """Where lines go."""

    async def logs(self, body: bytes) -> bool:
        """Return once they are stored; False: they are refused for good."""


@dataclass(frozen=True, slots=True, eq=False)
class _Arrived:
    head: FrameHead
    content: bytes
    # of its lines, unpacked
    text_bytes: int
    link: asyncio.StreamWriter


class LogRelay:
    """Used on the supervisor's event loop. `serve` is what a LivenessServer's `on_logs` calls."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink
        self._arrived: deque[_Arrived] = deque()
        self._work, self._enough, self._quiet = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # of frames that wait to travel; whether they wait for no others, as the attempt ends
        self._bytes, self._hurry = 0, False
        # names of the processes whose collectors are connected, and have not said that all is told
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._quiet.set()
        self._tasks = Tasks("logs")

    def start(self) -> None:
        self._tasks.spawn(self._send())

    async def serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one collector's frames until it hangs up."""
        self._open[writer] = name
        self._quiet.clear()
        try:
            while line := await reader.readline():
                match line.decode().split():
                    case ["frame", source, first, count, size, text_bytes] if self._is_of(source, name):
                        head = FrameHead(source=source, first=int(first), count=int(count), bytes=int(size))
                        if head.bytes > _LONGEST_FRAME:
                            return
                        content = await reader.readexactly(head.bytes)
                        self._add(_Arrived(head, content, int(text_bytes), writer))
                    case ["over"]:
                        return
                    case _:
                        return  # no collector of ours
        finally:
            self._open.pop(writer, None)
            if not self._open:
                self._quiet.set()

    def _add(self, frame: _Arrived) -> None:
        self._arrived.append(frame)
        self._bytes += len(frame.content)
        self._work.set()
        if self._hurry or self._bytes >= _BODY_BYTES:
            self._enough.set()

    @staticmethod
    def _is_of(source: str, name: str) -> bool:
        return _SOURCE.match(source) is not None and source.rpartition("-")[0] == name

    async def settle(self, within_s: float) -> None:
        """Wait, so long at most, until every collector has told all and hung up."""
        self._hurry = True
        self._enough.set()
        try:
            async with asyncio.timeout(within_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("lines_left", of=sorted(set(self._open.values())))

    async def close(self) -> None:
        self._tasks.cancel()

    async def _send(self) -> None:
        together_s = _TOGETHER_S
        while True:
            await self._work.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), together_s)
            self._work.clear()
            self._enough.clear()
            self._bytes, text_bytes = 0, sum(frame.text_bytes for frame in self._arrived)
            together_s = _LONG_TOGETHER_S if text_bytes >= _MUCH_TEXT_BYTES else _TOGETHER_S
            while self._arrived:
                frames = self._some()
                body = b"".join(part for f in frames for part in (f.head.model_dump_json().encode(), b"\n", f.content))
                # refused for good, or stored: there is no use in sending it again
                await self._sink.logs(body)
                for frame in frames:
                    self._tell(frame)

    def _some(self) -> list[_Arrived]:
        """Take the oldest that fit into one body, one at least."""
        some = [self._arrived.popleft()]
        room, text_room = _BODY_BYTES - len(some[0].content), _BODY_TEXT_BYTES - some[0].text_bytes
        while self._arrived and len(some) < _BODY_FRAMES:
            room, text_room = room - len(self._arrived[0].content), text_room - self._arrived[0].text_bytes
            if room < 0 or text_room < 0:
                break
            some.append(self._arrived.popleft())
        return some

    @staticmethod
    def _tell(frame: _Arrived) -> None:
        if not frame.link.is_closing():
            below = frame.head.first + frame.head.count
            frame.link.write(f"stored {frame.head.source} {below}\n".encode())
