"""What both clients share about carrying bytes: headers, timeouts, which failures are worth another try. The shells stay thin."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from tenacity import retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from surefoot._follow import QUIET_S
from surefoot._given import a_number
from surefoot._requests import Call
from surefoot._where import Where
from surefoot.errors import ServiceError, ServiceUnavailableError, SurefootError, UnauthorizedError, UserError

__all__ = [
    "AS_IT_IS",
    "RETRY",
    "TRANSIENT",
    "Body",
    "Deadline",
    "Download",
    "client_options",
    "part_of",
    "request_options",
    "stream_timeout",
    "telling",
    "unreachable",
    "version_here",
]

# Nothing answered, or something in between said to come back.
TRANSIENT = (httpx.TransportError, ServiceUnavailableError)

# About two seconds in all: a control plane restarts in one. Every call may be sent again.
RETRY: dict[str, Any] = {
    "retry": retry_if_exception_type(TRANSIENT),
    "stop": stop_after_attempt(5),
    "wait": wait_exponential(multiplier=0.1, max=1.0) + wait_random(0.0, 0.1),
    "reraise": True,
}

# Nothing came of a connection: whatever else fails fails on one that stood.
_NOBODY = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

# Generous for an upload of 100 MiB; a connection that cannot be made is known soon.
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)

# of what is to be whole, byte by byte: nobody in between packs it anew
AS_IT_IS = {"accept-encoding": "identity"}

# An answer that is larger, or comes for longer, is none of a control plane's.
_MOST_BYTES = 128 * 1024 * 1024
_LONGEST_S = 300.0

_LENGTH = re.compile(r"[0-9]{1,18}")

# Below this much time left, a read is not cut shorter.
_SHORTEST_READ_S = 0.2


@dataclass(slots=True)
class Deadline:
    """An end of waiting, in this process's monotonic seconds. None: there is none."""

    timeout_s: float | None
    _begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            a_number(self.timeout_s, "timeout")

    @property
    def left_s(self) -> float | None:
        return None if self.timeout_s is None else self.timeout_s - (time.monotonic() - self._begun)

    @property
    def passed(self) -> bool:
        left = self.left_s
        return left is not None and left <= 0

    def cap(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less."""
        left = self.left_s
        return seconds if left is None else max(0.0, min(seconds, left))

    def nearer_than(self, timeout: httpx.Timeout) -> bool:
        """Whether a read with this timeout could end too late."""
        left = self.left_s
        return left is not None and timeout.read is not None and left < timeout.read

    def cut(self, error: Exception) -> bool:
        """Whether `error` is only that a read was cut short for the deadline's sake."""
        left = self.left_s
        return isinstance(error, httpx.ReadTimeout) and left is not None and left < QUIET_S


def version_here() -> str:
    """Return the installed version, or "unknown" in a tree that was never installed."""
    try:
        return version("surefoot")
    except PackageNotFoundError:
        return "unknown"


def client_options(where: Where) -> dict[str, Any]:
    headers = {"user-agent": f"surefoot/{version_here()}", "accept": "application/json"}
    if where.token:
        headers["authorization"] = f"Bearer {where.token}"
    return {"headers": headers, "timeout": _TIMEOUT}


def request_options(call: Call[Any]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params),
        "headers": dict(call.headers),
        "content": call.body,
    }


def stream_timeout(deadline: Deadline) -> httpx.Timeout:
    """How long a read of a stream may be quiet.

    Half of what is left, so that a read that began in time ends in time; whoever reads opens the stream anew (it is resumed where it
    was) once less than that is left.
    """
    left = deadline.left_s
    quiet = QUIET_S if left is None else min(QUIET_S, max(_SHORTEST_READ_S, left / 2))
    return httpx.Timeout(10.0, connect=5.0, read=quiet)


@dataclass(slots=True)
class Body:
    """An answer's body as it comes, bounded in size and time."""

    where: Where
    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0
    _begun: float = field(default_factory=time.monotonic)

    def take(self, chunk: bytes) -> None:
        """Raises ServiceError for one that does not end."""
        self._size += len(chunk)
        if self._size > _MOST_BYTES or time.monotonic() - self._begun > _LONGEST_S:
            raise ServiceError(
                f"the answer of {self.where.url} does not end", status=502, detail="is that a control plane's address?"
            )
        self._parts.append(chunk)

    @property
    def content(self) -> bytes:
        return b"".join(self._parts)


@contextmanager
def telling(where: Where, http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """Raise errors of ours for whatever a request can end with, but for what is TRANSIENT."""
    if http.is_closed:
        raise UserError("this client is closed: make another, or use one inside its `with` block")
    try:
        yield
    except UnauthorizedError as error:
        if not where.note:
            raise
        detail = "; ".join(part for part in (error.detail, where.note) if part)
        raise UnauthorizedError(error.title, status=error.status, detail=detail, problem=error.problem) from None
    except httpx.TransportError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise ServiceError(
            f"the answer of {where.url} cannot be read", status=502, detail=f"{type(error).__name__}: {error}"
        ) from error
    except RuntimeError as error:
        if not http.is_closed:
            raise
        raise UserError("this client was closed while it was in use") from error


@contextmanager
def part_of(to: Path) -> Iterator[BinaryIO]:
    """Yield a file beside `to`, which takes its place once it is whole. Raises UserError where it cannot be written.

    Its name is nobody's: what is fetched beside it may have any, and as long a one as there may be.
    """
    part = to.with_name(f".{secrets.token_hex(8)}.part") if to.name else to
    try:
        if not to.name or to.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if to.exists() and not to.is_file():
            # a file would take its place, for whoever may do that
            raise OSError(0, "it is a device, a pipe or a socket")
        try:
            with part.open("xb") as file:
                yield file
            part.replace(to)
        finally:
            with suppress(OSError, ValueError):
                part.unlink(missing_ok=True)
    except SurefootError:
        raise
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{to} cannot be written: {why}; name another file") from None


class Download:
    """The bytes of a file that is downloaded: as many as were listed, or as the answer itself says, and no more."""

    def __init__(self, where: Where, response: httpx.Response, num_bytes: int | None) -> None:
        """Raises ServiceError for an answer of which it cannot be seen whether all of it came, or of another length than was listed."""
        self._where, self._came = where, 0
        told = response.headers.get("content-length", "")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._unreadable("it was packed on the way: it could be cut without a trace")
        if not _LENGTH.fullmatch(told) and (num_bytes is None or told):
            raise self._unreadable("it does not say how long it is: it could be cut without a trace")
        self._num_bytes = int(told) if num_bytes is None else num_bytes
        if told and int(told) != self._num_bytes:
            raise self._unreadable(f"it has {int(told)} bytes, and was listed with {self._num_bytes}")

    def take(self, chunk: bytes) -> bytes:
        """Count what came. Raises ServiceError for more than there is to come."""
        self._came += len(chunk)
        if self._came > self._num_bytes:
            raise self._unreadable(f"it is longer than the {self._num_bytes} bytes that it is to have")
        return chunk

    def end(self) -> None:
        """Raise ServiceError where not all has come."""
        if self._came < self._num_bytes:
            raise self._unreadable(f"it ends after {self._came} of {self._num_bytes} bytes")

    def _unreadable(self, why: str) -> ServiceError:
        return ServiceError(f"the answer of {self._where.url} cannot be read", status=502, detail=why)


def unreachable(where: Where, error: Exception) -> ServiceUnavailableError:
    """Return the error for a control plane that does not answer, or stops in the midst of it."""
    if isinstance(error, ServiceUnavailableError):
        return error
    if not isinstance(error, _NOBODY):
        detail = f"its answer did not come whole: try again ({_named(error)})"
        return ServiceUnavailableError(f"the connection to {where.url} broke off", status=503, detail=detail)
    again = "jobs, logs and files of an earlier one are there again then"
    detail = f"start one with `surefoot up` ({again}), or name another by --url or SUREFOOT_URL"
    return ServiceUnavailableError(
        f"no control plane answers at {where.url}", status=503, detail=f"{detail} ({_named(error)})"
    )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
