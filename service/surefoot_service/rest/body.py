"""Bodies of requests: how long they may be and take, and JSON that is read without harm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from surefoot_service.rest.problems import ProblemError, invalid
from surefoot_service.settings import KIB, Settings

__all__ = ["MAX_DEPTH", "MAX_MEMBERS", "MAX_VALUES", "BodyKind", "BoundedBody", "JsonRequest", "parse", "takes"]

# how deep the values of any body may be nested
MAX_DEPTH = 32
# how many members an object in a body may have
MAX_MEMBERS = 5_000
# how many values there may be in a body: validating them holds the loop. A supervisor halves its batches at 413.
MAX_VALUES = 60_000
# above it a body is parsed on a thread
_SMALL_BYTES = 64 * KIB
# what any route takes that says nothing else: commands of a few fields, and claims
_COMMAND_BYTES = 4 * KIB
# a secret of 16 KiB, of which JSON may make six characters each
_SECRET_BYTES = 128 * KIB
# Nothing waits on these threads, they only compute: two are enough for all.
_threads = ThreadPoolExecutor(2, thread_name_prefix="parse")

F = TypeVar("F", bound=Callable[..., Any])


class BodyKind(Enum):
    """What a route takes."""

    COMMAND = auto()
    SPEC = auto()
    UPLINK = auto()
    PACKAGE = auto()
    LOGS = auto()
    SECRET = auto()

    def max_bytes(self, settings: Settings) -> int:
        match self:
            case BodyKind.COMMAND:
                return _COMMAND_BYTES
            case BodyKind.SPEC:
                return min(settings.max_spec_bytes, settings.max_body_bytes)
            case BodyKind.UPLINK | BodyKind.LOGS:
                return settings.max_body_bytes
            case BodyKind.PACKAGE:
                return settings.max_package_bytes
            case BodyKind.SECRET:
                return _SECRET_BYTES


_KIND = "surefoot_body_kind"


def takes(kind: BodyKind) -> Callable[[F], F]:
    """Mark an endpoint as one that takes bodies of this kind; without a mark it takes a small command."""

    def mark(endpoint: F) -> F:
        setattr(endpoint, _KIND, kind)
        return endpoint

    return mark


def kind_of(endpoint: Callable[..., Any]) -> BodyKind:
    found = getattr(endpoint, _KIND, BodyKind.COMMAND)
    assert isinstance(found, BodyKind)
    return found


class BoundedBody:
    """Receives a request's body: 413 for more bytes than are taken, 408 for a sender that keeps the service waiting.

    Only the time is counted in which the service waits for the sender, not that in which it works.
    """

    def __init__(self, receive: Receive, *, max_bytes: int, grace_s: float, bytes_per_s: float) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._grace_s, self._bytes_per_s = grace_s, bytes_per_s
        self._size, self._waited_s, self._whole = 0, 0.0, False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        message = await self._next()
        self._size += len(message.get("body", b""))
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._whole = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            async with asyncio.timeout(self._grace_s + self._size / self._bytes_per_s - self._waited_s):
                return await self._receive()
        except TimeoutError:
            raise ProblemError(
                408, f"the body came too slowly: {self._size} bytes, then nothing more in time"
            ) from None
        finally:
            self._waited_s += clock() - start


def too_large(max_bytes: int) -> ProblemError:
    return ProblemError(413, f"the body is above {max_bytes} bytes")


class JsonRequest(Request):
    """A request whose JSON is parsed without holding up others, and is nested no deeper than MAX_DEPTH."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) <= _SMALL_BYTES:
                self._json = parse(body)
            else:
                self._json = await asyncio.get_running_loop().run_in_executor(_threads, parse, body)
        return self._json


def parse(body: bytes) -> Any:
    """Return the JSON value. Raises JSONDecodeError, or a problem for what is JSON and cannot be taken."""
    try:
        value = json.loads(body.decode())
    except UnicodeDecodeError:
        raise invalid("body", "the body is not UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        # a whole number of thousands of digits
        raise invalid("body", str(error)) from None
    _check_shape(value)
    return value


def _check_shape(value: Any) -> None:
    """Raise a problem for what is nested too deep, or has too many members or values, looked at level by level."""
    level = [value] if isinstance(value, dict | list) else []
    number = 0
    for _ in range(MAX_DEPTH):
        if not level:
            return
        if any(len(c) > MAX_MEMBERS for c in level if isinstance(c, dict)):
            raise invalid("body", f"an object in the body has more than {MAX_MEMBERS} members")
        number += sum(map(len, level))
        if number > MAX_VALUES:
            raise ProblemError(413, f"the body has more than {MAX_VALUES} values")
        inner: list[Any] = []
        for container in level:
            values = container.values() if isinstance(container, dict) else container
            inner.extend(v for v in values if isinstance(v, dict | list))
        level = inner
    if level:
        raise _too_deep()


def _too_deep() -> ProblemError:
    return invalid("body", f"the body is nested more than {MAX_DEPTH} levels deep")
