"""A process between a supervisor and its control plane, say, which a test kills and starts again on the same port."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

__all__ = ["Relay"]

_RELAY = """
import asyncio, sys
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    try:
        theirs, ours = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    except OSError:
        return writer.close()
    await asyncio.gather(pump(reader, ours), pump(theirs, writer))
async def main():
    server = await asyncio.start_server(serve, sys.argv[3], int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Relay:
    """Passes on to the port of `url`, on loopback, what comes to its own, which is at `host`."""

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        self._to, self._port, self._host = urlsplit(url).port, 0, host

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Listen; returns when it does."""
        command = [sys.executable, "-c", _RELAY, str(self._port), str(self._to), self._host]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL it: its connections are reset, and new ones refused."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
