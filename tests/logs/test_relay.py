"""What the supervisor sends together is always taken: a body that is refused is lost."""

from __future__ import annotations

import asyncio

import pytest

from surefoot_actors.logs.frames import Frames
from surefoot_actors.logs.relay import LogRelay
from surefoot_service.errors import InvalidError
from surefoot_service.logs.told import read_body

pytestmark = pytest.mark.unit

SOURCE = "t0-00000000"


class _ControlPlane:
    """Reads bodies as the service does."""

    def __init__(self) -> None:
        self.lines = 0

    async def logs(self, body: bytes) -> bool:
        try:
            self.lines += sum(told.count for told in read_body(body))
        except InvalidError:
            return False
        return True


async def _server(relay: LogRelay) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay.serve("t0", reader, writer)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("count", "text"),
    [(2_500, "one line a frame\n"), (300, "the same warning again\n" * 10_000)],
    ids=["many small frames", "much text that is small when it is packed"],
)
async def test_what_waited_long_is_taken_whole(count: int, text: str) -> None:
    """As after an outage of the control plane, in which frames wait at the supervisor."""
    plane, frames = _ControlPlane(), Frames()
    for n in range(count):
        frames.add(text, at_ms=n, step=0, stream="stdout")
        frames.close()
    relay = LogRelay(plane)
    async with await _server(relay) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for frame in frames.waiting:
            sizes = f"{frame.lines} {len(frame.content)} {frame.text_bytes}"
            writer.write(f"frame {SOURCE} {frame.first} {sizes}\n".encode() + frame.content)
        await writer.drain()
        relay.start()
        while (await reader.readline()).decode() != f"stored {SOURCE} {frames.waiting[-1].end}\n":
            pass
        writer.write(b"over\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    await relay.close()
    assert plane.lines == count * text.count("\n")
