"""Where stored things lie, read strictly: a URL that this module takes means what it says, and nothing else.

fsspec follows chains ("zip::http://..."), reads references to other files, and knows protocols that reach any host. The control plane
opens only URLs of protocols that are allowed, and of those that training code told only such as lie below the job's own place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from surefoot.errors import UserError

__all__ = ["PROTOCOLS", "Place", "RefusedUrlError", "belongs", "read_place", "refusal"]

# What is allowed unless the settings say otherwise: folders, and the stores of the clouds.
PROTOCOLS = ("file", "s3", "gs", "az", "abfs")

# Other names of the same protocol.
_SAME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
_LONGEST = 4096
_SCHEME = re.compile(r"^([^/]*?):")
_PROTOCOL = re.compile(r"^[a-z][a-z0-9+.-]*$")
# Of an object store. Whatever could be a password or a port is none.
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
# Azure writes the account behind the container.
_CONTAINER = re.compile(r"^[A-Za-z0-9$][A-Za-z0-9_-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?$")
# A dot, slash, backslash, percent sign or control character in disguise: whether it is taken off depends on who reads it.
_DISGUISED = re.compile(r"%(2e|2f|5c|25|[01][0-9a-f]|7f)", re.IGNORECASE)


class RefusedUrlError(UserError):
    """A URL that is not opened; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder or file in a storage."""

    protocol: str
    # of a store: the bucket first; of local files: from the root on. Each is one plain name.
    parts: tuple[str, ...]

    def holds(self, other: Place) -> bool:
        """Whether `other` is this place, or lies below it."""
        return self.protocol == other.protocol and other.parts[: len(self.parts)] == self.parts


def read_place(url: str, protocols: Collection[str] | None = None) -> Place:
    """Return the place that a path or URL names. `protocols`: those that are allowed; None: any.

    Raises RefusedUrlError for whatever could be read in two ways, leads somewhere else, or is not allowed.
    """
    _refuse_odd_characters(url)
    protocol, rest = _split(url)
    if protocols is not None and protocol not in {_SAME.get(p, p) for p in protocols}:
        raise RefusedUrlError(
            f"{_shown(url)}: the protocol {protocol!r} is not allowed here, but {', '.join(protocols)}; "
            "who runs the control plane allows others by SUREFOOT_STORAGE_PROTOCOLS"
        )
    parts = _parts(url, rest, local=protocol == "file")
    if protocol != "file":
        _check_store(url, protocol, parts)
    return Place(protocol=protocol, parts=parts)


def belongs(url: str, place: str) -> bool:
    """Whether `url` is the folder `place`, or lies below it; False for anything that is not plainly so. Pure: looks at no storage."""
    try:
        return read_place(place).holds(read_place(url))
    except RefusedUrlError:
        return False


def refusal(url: str, protocols: Collection[str]) -> str:
    """Say why a URL would not be opened; empty: it would."""
    try:
        read_place(url, protocols)
    except RefusedUrlError as error:
        return str(error)
    return ""


def _refuse_odd_characters(url: str) -> None:
    if not url or len(url) > _LONGEST:
        raise RefusedUrlError(f"a path or URL has 1 to {_LONGEST} characters, this one {len(url)}")
    odd = next((c for c in url if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")), None)
    if odd is not None:
        raise RefusedUrlError(f"{_shown(url)}: it has the character U+{ord(odd):04X}, which no path or URL has")
    if "\\" in url:
        raise RefusedUrlError(f"{_shown(url)}: it has a backslash; folders are told apart by slashes")
    if "::" in url:
        raise RefusedUrlError(f'{_shown(url)}: it is a chain ("::"); name the storage itself')
    if found := _DISGUISED.search(url):
        raise RefusedUrlError(f"{_shown(url)}: {found[0]!r} may mean another character; write that one")


def _split(url: str) -> tuple[str, str]:
    """Return the protocol, "file" for a path, and what follows it."""
    found = _SCHEME.match(url)
    if found is None:
        return "file", url
    protocol, rest = found[1], url[found.end() :]
    if not _PROTOCOL.match(protocol) or not rest.startswith("//"):
        raise RefusedUrlError(
            f'{_shown(url)}: it is neither a path from the root on, nor a URL like "s3://bucket/runs"'
        )
    return _SAME.get(protocol, protocol), rest[2:]


def _parts(url: str, rest: str, *, local: bool) -> tuple[str, ...]:
    if local and not rest.startswith("/"):
        raise RefusedUrlError(f'{_shown(url)}: write the whole path, from the root on ("/data/runs"), or a URL')
    parts = rest.rstrip("/").split("/") if rest.rstrip("/") else []
    if local:
        parts = [part for part in parts if part]  # the kernel takes several slashes for one
    for part in parts:
        if part in ("", ".", ".."):
            raise RefusedUrlError(f"{_shown(url)}: {part!r} is no name of a folder; write the path without it")
    return tuple(parts)


def _check_store(url: str, protocol: str, parts: tuple[str, ...]) -> None:
    bucket = _CONTAINER if protocol in ("az", "abfs") else _BUCKET
    if not parts or not bucket.match(parts[0]):
        raise RefusedUrlError(f"{_shown(url)}: a URL names a bucket, without passwords, ports and blanks")
    if any(c in part for part in parts for c in "?#*[]"):
        raise RefusedUrlError(f"{_shown(url)}: leave out ?, #, *, [ and ]: they mean something else in a URL")


def _shown(url: str) -> str:
    """The URL as it may be told: its beginning, with whatever is odd as an escape, and without what may be a password."""
    plain = re.sub(r"//[^/@]*:[^/@]*@", "//***@", url)
    return repr(plain if len(plain) <= 200 else f"{plain[:200]}...")
