"""Which addresses are this machine's own. Light to import: trainers do, beside code that may have a module of any name."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import MutableMapping
from urllib.parse import urlsplit

__all__ = ["is_here", "keep_loopback_direct"]

# An IPv4 address as inet_aton takes it: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}$")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_PROXY = ("no_proxy", "NO_PROXY")


def is_here(url: str) -> bool:
    """Whether the URL's host is this machine, under whatever name. Where a proxy is set, names are looked up."""
    host = (urlsplit(url).hostname or "").partition("%")[0].rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    if (address := _address(host)) is not None:
        return _is_loopback(address)
    # imported here: it brings much along
    from urllib.request import getproxies

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
