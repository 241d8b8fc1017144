"""Load on a control plane: a small HTTP/1.1 client that costs little beside what it measures, and clients that ask again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Connection", "Rate", "connected", "load", "percentile"]

# an answer that takes longer is a failure of its own
_LIMIT_S = 60.0


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self.reader, self._writer, self._token = reader, writer, token

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        headers = {"Host": "surefoot", "Authorization": f"Bearer {self._token}", **headers}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """Return the status and the body. Raises OSError or EOFError when the service goes away."""
        self.send(method, path, body, **headers)
        async with asyncio.timeout(_LIMIT_S):
            status, told = await self.head()
            if told.get("transfer-encoding") == "chunked":
                return status, b"".join([chunk async for chunk in self.chunks()])
            return status, await self.reader.readexactly(int(told.get("content-length", 0)))

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        return int(first.split()[1]), fields

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self.reader.readuntil(b"\r\n")), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def json(self, method: str, path: str, content: Any = None, **headers: str) -> Any:
        """Ask, and return the answer, read. Raises RuntimeError for an error."""
        body = b"" if content is None else json.dumps(content).encode()
        status, answer = await self.ask(method, path, body, **headers)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer[:500].decode()}")
        return json.loads(answer) if answer else None

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncIterator[Connection]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=64 * 2**20)
    connection = Connection(reader, writer, token)
    try:
        yield connection
    finally:
        connection.close()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(slots=True)
class Rate:
    """What so many clients got done."""

    clients: int
    seconds: float = 0.0
    # each request's time
    times: list[float] = field(default_factory=list)
    # of the service's process, in all
    cpu_s: float = 0.0

    def figures(self) -> dict[str, float]:
        return {
            "clients": self.clients,
            "per_s": len(self.times) / self.seconds,
            "p50_ms": 1000 * percentile(self.times, 0.5),
            "p99_ms": 1000 * percentile(self.times, 0.99),
            "cpu_ms": 1000 * self.cpu_s / len(self.times),
        }


Ask = Callable[[Connection, int], Awaitable[None]]


async def load(url: str, token: str, clients: int, seconds: float, cpu_s: Callable[[], float], ask: Ask) -> Rate:
    """Have so many clients ask, each again as soon as it is answered; `ask` is given a number that none had before."""
    rate, count = Rate(clients), iter(range(10**9))
    end = time.perf_counter() + seconds

    async def client() -> None:
        async with connected(url, token) as connection:
            while (began := time.perf_counter()) < end:
                await ask(connection, next(count))
                rate.times.append(time.perf_counter() - began)

    before, began = cpu_s(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    rate.seconds, rate.cpu_s = time.perf_counter() - began, cpu_s() - before
    return rate
