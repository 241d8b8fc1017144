"""Bodies of printed lines, read strictly: what does not add up is refused as a whole. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from surefoot.logs import FrameHead, LogStream, Run
from surefoot_service.errors import InvalidError

__all__ = ["ENDED", "Told", "read_body"]

# of a head's JSON
_LONGEST_HEAD = 1000
# of a body's text, unpacked: what a supervisor sends together has a tenth of it
_MOST_TEXT = 64 * 1024 * 1024
_MOST_FRAMES = 1000
# what a collector says last
ENDED = "the process has ended\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One frame: lines `first` to `first + count - 1` of a source."""

    source: str
    first: int
    count: int
    runs: tuple[Run, ...]

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def is_last(self) -> bool:
        """Whether the source says in it that its process has ended."""
        last = self.runs[-1]
        return last.f is LogStream.SUREFOOT and last.x == ENDED

    def since(self, below: int) -> Told | None:
        """What of it has numbers of `below` or more; None: nothing."""
        known = max(0, below - self.first)
        if not known:
            return self
        runs: list[Run] = []
        left = known
        for run in self.runs:
            lines = run.x.count("\n")
            if left >= lines:
                left -= lines
            elif left:
                rest = run.x.split("\n", left)[left]
                runs.append(run.model_copy(update={"x": rest}))
                left = 0
            else:
                runs.append(run)
        return replace(self, first=below, count=self.count - known, runs=tuple(runs)) if runs else None


def read_body(body: bytes) -> list[Told]:
    """Return the frames. Raises InvalidError for what is none, or does not add up."""
    found: list[Told] = []
    room = _MOST_TEXT
    for head, packed in _frames(body):
        text = _unpacked(packed, room)
        room -= len(text)
        found.append(_told(head, text))
        if len(found) > _MOST_FRAMES:
            raise InvalidError("body", f"it has more than {_MOST_FRAMES} frames")
    return found


def _frames(body: bytes) -> Iterator[tuple[FrameHead, memoryview]]:
    view, at = memoryview(body), 0
    while at < len(body):
        end = body.find(b"\n", at, at + _LONGEST_HEAD)
        if end < 0:
            raise InvalidError("body", f"at byte {at} there is no frame's head")
        try:
            head = FrameHead.model_validate_json(body[at:end])
        except ValidationError as error:
            raise InvalidError("body", f"at byte {at}: {error.errors(include_url=False)[0]['msg']}") from None
        at = end + 1 + head.bytes
        if at > len(body):
            raise InvalidError("body", f"the frame of {head.source} is cut")
        yield head, view[end + 1 : at]


def _unpacked(packed: memoryview, room: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(packed, room + 1)
    except zlib.error as error:
        raise InvalidError("body", f"a frame's bytes are no zlib: {error}") from None
    if len(text) > room:
        raise InvalidError("body", f"its lines have more than {_MOST_TEXT} bytes")
    if not reader.eof:
        raise InvalidError("body", "a frame's bytes end before their zlib does")
    return text


def _told(head: FrameHead, text: bytes) -> Told:
    try:
        runs = tuple(Run.model_validate_json(line) for line in text.split(b"\n"))
    except ValidationError as error:
        raise InvalidError("body", f"a run of {head.source}: {error.errors(include_url=False)[0]['msg']}") from None
    if not all(run.x.endswith("\n") for run in runs) or sum(run.x.count("\n") for run in runs) != head.count:
        raise InvalidError("body", f"the frame of {head.source} has not the {head.count} lines that its head says")
    return Told(source=head.source, first=head.first, count=head.count, runs=runs)
