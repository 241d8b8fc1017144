"""Server-Sent Events from bytes, in whatever pieces they arrive. No network here.

A decoder of our own because it must work on chunks: a comment the server sends to keep the line alive has to reach the caller as
"something came", which httpx-sse's iterators swallow, and lines end at CR and LF only (`str.splitlines` would cut JSON at U+2028).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from surefoot.errors import ServiceError

__all__ = ["MOST_BYTES", "Decoder", "Message"]

# A message that is longer is none of a control plane's: an event holds a million characters.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One dispatched event. `id` is the last id seen, as the specification has it."""

    event: str
    data: str
    id: str


@dataclass(slots=True)
class Decoder:
    """Follows https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation."""

    # of the line that is not whole yet
    _pieces: list[bytes] = field(default_factory=list)
    _event: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str = ""
    # bytes since the last message
    _size: int = 0

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes, return the messages they complete. Raises ServiceError for a message that does not end."""
        self._size += len(chunk)
        if self._size > MOST_BYTES:
            raise ServiceError("a message of the stream does not end", status=502, detail="is that a control plane?")
        # a line that is not whole is not copied for each of its pieces
        self._pieces.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and not self._pieces[0].endswith(b"\r"):
            return []
        text, self._pieces = b"".join(self._pieces), []
        # A CR at the end may be half of a CRLF: it waits for the next chunk.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._pieces = [rest] if (rest := lines.pop() + held) else []
        return [message for line in lines if (message := self._line(line.decode(errors="replace")))]

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data, self._size = "", [], 0
        return Message(event=event, data="\n".join(data), id=self._id) if data else None
