"""What a short process of ours prints: shown where it is shown anyway, and kept, to be sent once it is known to whom."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from surefoot.logs import FrameHead
from surefoot_actors.logs.folding import Folder
from surefoot_actors.logs.frames import LOST, Frames

__all__ = ["OwnOutput", "own_output"]

# of what is kept, the beginning
_MOST_BYTES = 256 * 1024
_STREAMS = {1: "stdout", 2: "stderr"}


class OwnOutput:
    """Lines of this process so far. See `own_output`."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._lock = threading.Lock()
        self._room = _MOST_BYTES

    def body(self, name: str) -> bytes:
        """Return what was printed, as it is posted to the control plane; the process is about to end."""
        with self._lock:
            self._frames.add("the process has ended\n", at_ms=_now_ms(), step=-1, stream=LOST)
            self._frames.close()
            source = f"{name}-{os.urandom(4).hex()}"
            parts = []
            for frame in self._frames.waiting:
                head = FrameHead(source=source, first=frame.first, count=frame.lines, bytes=len(frame.content))
                parts += [head.model_dump_json().encode(), b"\n", frame.content]
            return b"".join(parts)

    def copy(self, reading: int, shown: int, stream: str) -> None:
        """Show and keep what comes, to its end."""
        folder = Folder()
        while data := os.read(reading, 65536):
            os.write(shown, data)
            self._keep(folder.feed(data), stream)
        self._keep(folder.flush(), stream)

    def _keep(self, pieces: list[tuple[int, str]], stream: str) -> None:
        with self._lock:
            for _, text in pieces:
                self._room -= len(text)
                if self._room > 0:
                    self._frames.add(text, at_ms=_now_ms(), step=-1, stream=stream)


@contextmanager
def own_output() -> Iterator[OwnOutput]:
    """Keep what this process prints inside the block, at its file descriptors."""
    kept, threads = OwnOutput(), []
    before = {number: os.dup(number) for number in _STREAMS}
    for number, stream in _STREAMS.items():
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(writing)
        threads.append(threading.Thread(target=kept.copy, args=(reading, before[number], stream), daemon=True))
        threads[-1].start()
    try:
        yield kept
    finally:
        for number, shown in before.items():
            os.dup2(shown, number)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
