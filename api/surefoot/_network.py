"""The one place that makes HTTP clients, for the SDK, the actors and the control plane: which way they go, and what goes no further.

A proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY; but for NO_PROXY) sees every request of plain HTTP with its token. So it is
taken by the SDK and CLI alone, for a control plane on another machine. What is on this machine, and what belongs to the cluster, is
gone to directly. A redirect is never followed: it could lead a token to somebody else.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from surefoot.errors import UserError

__all__ = [
    "direct_async_client",
    "direct_client",
    "is_here",
    "keep_loopback_direct",
    "open_async_client",
    "open_client",
]

T = TypeVar("T")

# An IPv4 address as inet_aton takes it: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}$")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_PROXY = ("no_proxy", "NO_PROXY")


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


def is_here(url: str) -> bool:
    """Whether the URL's host is this machine, under whatever name. Where a proxy is set, names are looked up."""
    host = (urlsplit(url).hostname or "").partition("%")[0].rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    if (address := _address(host)) is not None:
        return _is_loopback(address)
    return bool(getproxies()) and _leads_here(host)


def keep_loopback_direct(env: MutableMapping[str, str]) -> None:
    """Have other libraries of this process (a storage's) go to this machine's own addresses without the environment's proxy too."""
    named = next((env[name] for name in _NO_PROXY if env.get(name)), "")
    have = [part.strip() for part in named.split(",") if part.strip()]
    if "*" not in have:
        value = ",".join([*have, *(host for host in _LOOPBACK if host not in have)])
        env.update(dict.fromkeys(_NO_PROXY, value))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if _NUMERIC.match(host) else None
    except OSError:
        return None


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    plain = getattr(address, "ipv4_mapped", None) or address
    # Linux takes 0.0.0.0 and :: for the machine itself
    return bool(plain.is_loopback or plain.is_unspecified)


def _leads_here(host: str) -> bool:
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False  # a name that perhaps the proxy knows
    return bool(found) and all(_is_loopback(ipaddress.ip_address(address)) for address in found)


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
