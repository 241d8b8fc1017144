"""The one place that makes HTTP clients, for the SDK, the actors and the control plane: which way they go, and what goes no further.

A proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY; but for NO_PROXY) sees every request of plain HTTP with its token. So it is
taken by the SDK and CLI alone, for a control plane on another machine. What is on this machine, and what belongs to the cluster, is
gone to directly. A redirect is never followed: it could lead a token to somebody else.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import httpx

from surefoot._loopback import is_here
from surefoot.errors import UserError

__all__ = ["direct_async_client", "direct_client", "open_async_client", "open_client"]

T = TypeVar("T")


def open_client(
    url: str, *, direct: bool, transport: httpx.BaseTransport | None = None, **options: Any
) -> httpx.Client:
    """Return a client for `url` alone. It takes the environment's proxy unless `direct`, or `url` is this machine's.

    Raises UserError where the environment's proxies or certificates cannot be used.
    """
    if transport is None and (direct or is_here(url)):
        transport = _made(httpx.HTTPTransport)
    return _made(lambda: httpx.Client(base_url=url, transport=transport, follow_redirects=False, **options))


def open_async_client(
    url: str, *, direct: bool, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> httpx.AsyncClient:
    """As `open_client`, for asyncio."""
    if transport is None and (direct or is_here(url)):
        transport = _made(httpx.AsyncHTTPTransport)
    return _made(lambda: httpx.AsyncClient(base_url=url, transport=transport, follow_redirects=False, **options))


def direct_client(
    url: str, *, most_bytes: int | None = None, transport: httpx.BaseTransport | None = None, **options: Any
) -> httpx.Client:
    """Return a client for what belongs to the cluster: no proxy ever sees what is said.

    `most_bytes`: an answer that is longer, or packed, ends with httpx.ReadError.
    """
    if most_bytes is not None:
        transport = _Bounded(transport or _made(httpx.HTTPTransport), most_bytes)
    return open_client(url, direct=True, transport=transport, **options)


def direct_async_client(
    url: str, *, most_bytes: int | None = None, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> httpx.AsyncClient:
    """As `direct_client`, for asyncio."""
    if most_bytes is not None:
        transport = _AsyncBounded(transport or _made(httpx.AsyncHTTPTransport), most_bytes)
    return open_async_client(url, direct=True, transport=transport, **options)


class _Count:
    """How much of an answer has come."""

    def __init__(self, response: httpx.Response, most_bytes: int) -> None:
        self._most_bytes, self._size = most_bytes, 0
        # what is packed may be a thousand times as long; it was not asked for
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx.ReadError("the answer is packed, which was not asked for")

    def add(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > self._most_bytes:
            raise httpx.ReadError(f"the answer is longer than {self._most_bytes} bytes")
        return chunk


class _Bounded(httpx.BaseTransport):
    """A transport whose answers have an end."""

    def __init__(self, inner: httpx.BaseTransport, most_bytes: int) -> None:
        self._inner, self._most_bytes = inner, most_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        response = self._inner.handle_request(request)
        stream = response.stream
        assert isinstance(stream, httpx.SyncByteStream)
        try:
            response.stream = _BoundedStream(stream, _Count(response, self._most_bytes))
        except httpx.ReadError:
            stream.close()
            raise
        return response

    def close(self) -> None:
        self._inner.close()


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, count: _Count) -> None:
        self._inner, self._count = inner, count

    def __iter__(self) -> Iterator[bytes]:
        return map(self._count.add, self._inner)

    def close(self) -> None:
        self._inner.close()


class _AsyncBounded(httpx.AsyncBaseTransport):
    """As `_Bounded`, for asyncio."""

    def __init__(self, inner: httpx.AsyncBaseTransport, most_bytes: int) -> None:
        self._inner, self._most_bytes = inner, most_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            response.stream = _AsyncBoundedStream(stream, _Count(response, self._most_bytes))
        except httpx.ReadError:
            await stream.aclose()
            raise
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _AsyncBoundedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, count: _Count) -> None:
        self._inner, self._count = inner, count

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield self._count.add(chunk)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _made(make: Callable[[], T]) -> T:
    try:
        return make()
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        # ImportError: a SOCKS proxy, for which httpx needs another package
        raise UserError(
            f"no connection can be made with this environment's proxies or certificates ({_settings()}): {error}"
        ) from None


def _settings() -> str:
    """The names of what is set; their values may have passwords."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
    return ", ".join(name for name in os.environ if name.lower() in names) or "none of them is set"
