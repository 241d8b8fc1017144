"""The one place that makes HTTP clients, for the SDK, the actors and the control plane: which way they go, and what goes no further.

A proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY; but for NO_PROXY) sees every request of plain HTTP with its token. So it is
taken by the SDK and CLI alone, for a control plane on another machine. What is on this machine, and what belongs to the cluster, is
gone to directly. A redirect is never followed: it could lead a token to somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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


def direct_client(url: str, **options: Any) -> httpx.Client:
    """Return a client for what belongs to the cluster: no proxy ever sees what is said."""
    return open_client(url, direct=True, **options)


def direct_async_client(url: str, **options: Any) -> httpx.AsyncClient:
    """As `direct_client`, for asyncio."""
    return open_async_client(url, direct=True, **options)


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
