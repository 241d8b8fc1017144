"""Where the control plane is and what it lets in: from arguments, the environment, or the data folder of a running `surefoot up`.

A token goes only to the URL that it belongs to: an argument's to the one named with it or by SUREFOOT_URL, SUREFOOT_TOKEN to
SUREFOOT_URL, and the data folder's to the `up` that holds the folder at this moment. None goes to an address that is only a guess.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx

from surefoot._given import any_text
from surefoot._loopback import is_here
from surefoot.errors import UserError

__all__ = ["DEFAULT_URL", "Where", "data_folder", "find", "network_here"]

DEFAULT_URL = "http://127.0.0.1:8470"

# What a header can carry.
_TOKEN = re.compile(r"^[\x21-\x7e]{1,4096}$")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A control plane's address. The token stays out of the repr, which ends up in logs."""

    # without a trailing slash
    url: str
    token: str | None = field(repr=False)
    # it is the `up` of this machine's user: no proxy is between
    own: bool = False
    # why a token that is known was left out, in a sentence; empty: none was
    note: str = ""


def data_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that `surefoot up` keeps everything under: SUREFOOT_DATA, or ~/.surefoot."""
    try:
        return Path(env.get("SUREFOOT_DATA") or "~/.surefoot").expanduser()
    except RuntimeError as error:
        raise UserError(f"the data folder cannot be found: {error}; set SUREFOOT_DATA") from None


def find(url: str | None, token: str | None, env: Mapping[str, str] = os.environ) -> Where:
    """Return where to go: the arguments first, then the environment, then what a running `surefoot up` has written.

    Raises UserError for a URL or a token that is none.
    """
    url = None if url is None else any_text(url, "url", DEFAULT_URL)
    token = None if token is None else any_text(token, "token", "...")
    data = data_folder(env)
    told = env.get("SUREFOOT_URL") or None
    own = _running(data)
    chosen = _checked(url or told or own or DEFAULT_URL)
    is_own = own is not None and _same(chosen, own)
    token, note = _token(token, env.get("SUREFOOT_TOKEN") or None, url, told, own, chosen)
    if token is None and is_own:
        token = _read(data / "token")
    elif token is None and not note and own is not None:
        note = f"the data folder's token belongs to {own}; name {chosen}'s by --token or SUREFOOT_TOKEN"
    if token is not None and not _TOKEN.match(token):
        raise UserError("the token has characters that no token has: blanks, line ends, or letters beyond ASCII")
    return Where(url=chosen, token=token, own=is_own, note=note if token is None else "")


def _token(
    given: str | None, set_: str | None, url: str | None, told: str | None, own: str | None, chosen: str
) -> tuple[str | None, str]:
    """Return the token that was given or is set, if it belongs to `chosen`; else why it is left out, where there is one."""
    guess = url is None and told is None and own is None
    if (given or set_) and guess:
        return (
            None,
            "a token was given without a URL, and is not sent to a guess; name the URL by --url or SUREFOOT_URL",
        )
    if given:
        return given, ""
    if set_ and told is not None and not _same(chosen, told):
        return None, f"SUREFOOT_TOKEN belongs to SUREFOOT_URL; name {chosen}'s token by --token"
    return set_, ""


def _checked(url: str) -> str:
    """Return the URL without a trailing slash. Raises UserError."""
    example = f"it looks like {DEFAULT_URL}"
    parts = _parts(url)
    if parts is None or parts.scheme not in _PORTS or not url.isprintable() or " " in url:
        raise UserError(f"{url!r} is no address of a control plane: {example}")
    if "@" in parts.netloc:
        raise UserError(f"leave the user and password out of the URL: {example}, and its token is given by --token")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise UserError(f"{url!r} is no address of a control plane: {example}, without anything behind it")
    return url.rstrip("/")


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is none
        # and so do these for a name that no network has
        (parts.hostname or "").encode("idna")
        _ = httpx.URL(url).host
    except (ValueError, httpx.InvalidURL):
        return None
    return parts if parts.hostname else None


def _same(one: str, other: str) -> bool:
    """Whether two URLs are the same address. Two names of one machine are two: each may lead to another program."""
    a, b = _parts(one), _parts(other)
    return a is not None and b is not None and _canonical(a) == _canonical(b)


def _canonical(parts: SplitResult) -> tuple[str, str, int | None, str]:
    return (parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/"))


# ---- the `up` that runs


def network_here() -> str:
    """Name the network whose loopback addresses are this process's: a folder may be seen from several machines and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()


def _running(data: Path) -> str | None:
    """Return the URL of the `up` that runs over this data folder at this moment; None: none does, or it is out of reach."""
    text = _read(data / "service.json")
    try:
        found = json.loads(text) if text else None
        url, network = (found["url"], found.get("network")) if isinstance(found, dict) else (None, None)
    except (ValueError, KeyError, RecursionError):
        return None  # half-written, or another version's
    if not isinstance(url, str) or not _is_held(data / "lock"):
        return None
    try:
        _checked(url)
    except UserError:
        return None
    # Of an `up` on another machine that shares the folder, this machine's loopback address is somebody else's.
    return url if network == network_here() or not is_here(url) else None


def _is_held(lock: Path) -> bool:
    """Whether a live `up` holds the folder: the kernel lets go of its lock when it ends, and before that nobody else has its port."""
    try:
        import fcntl
    except ImportError:
        return False  # no `up` runs here
    try:
        handle = os.open(lock, os.O_RDONLY)
    except (OSError, ValueError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
