"""The uplink over HTTP: batched posts and a long poll, tried for ever while the control plane is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from surefoot._network import direct_async_client
from surefoot.events import Command, EventKind, LedgerRow, SentBatch, UplinkAck
from surefoot.logs import LOGS_TYPE
from surefoot.secrets import HandedSecrets
from surefoot.system import MAX_SAMPLES, SystemSample
from surefoot.views import CommandPage
from surefoot_actors.journal.journal import Journal
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.process_log import log
from surefoot_actors.sealed import Sealed
from surefoot_actors.uplink.batch_size import BatchSize
from surefoot_actors.uplink.outbox import Outbox
from surefoot_actors.uplink.ports import SecretsAwayError
from surefoot_actors.uplink.unsent_events import UnsentEvents

__all__ = ["HttpUplink"]

BATCH_S = 0.25
POLL_S = 20.0
# samples of trainers wait for others so long at most, where there is nothing else to send
SAMPLES_S = 5.0
MOST_ROWS = 1000
# of an answer: a thousand commands are a tenth of it
MOST_BYTES = 2 * 1024 * 1024
# Who waits for news of the job waits for these.
_URGENT = frozenset({EventKind.STATE, EventKind.FAILED, EventKind.FINISHED})
# The control plane knows this attempt no more: fenced, deleted, or its token is not ours. Only a problem of its own says so: a proxy
# without a backend, or another program at its address, answers these too.
_GONE = frozenset({401, 403, 404, 410})
_PROBLEM = "application/problem+json"
_TOO_LARGE = 413
# No proxy finds this too large: whoever says so is another program, and nothing is given up by its word.
_SMALL_BYTES = 64 * 1024
# It understands what is said, and does not take it: a fault of ours, or a newer version's word.
_INVALID = 422
# How it begins to be told that something could not be.
_UNTOLD = "the control plane refused"
_TIMEOUT = httpx.Timeout(10.0)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class _AwayError(Exception):
    """The control plane could not be reached, or was not well: to be tried again."""


class _GoneError(Exception):
    """The control plane refuses this attempt, for good."""


class HttpUplink:
    """An attempt's line to `url`. `start` before use, on the event loop that uses it."""

    def __init__(
        self,
        url: str,
        attempt: str,
        token: str | Sealed,
        source: str,
        *,
        client: httpx.AsyncClient | None = None,
        journal: Journal | None = None,
    ) -> None:
        """`journal` takes what is not stored yet, for the supervisor after this one."""
        self.gone = asyncio.Event()
        self.gone_reason = ""
        # takes the job's secrets out of what events tell
        self.mask: Callable[[JsonValue], JsonValue] = lambda value: value
        # what has flowed: grows with seconds, not with steps
        self.posts = 0
        self.sent_bytes = 0
        self._path = f"{url.rstrip('/')}/v1/attempts/{attempt}"
        # The control plane is the cluster's: no proxy of the environment hears the token.
        self._client = client or direct_async_client(url, timeout=_TIMEOUT, most_bytes=MOST_BYTES)
        self._token = token if isinstance(token, Sealed) else Sealed(token)
        self._outbox = Outbox(source)
        self._kept = UnsentEvents(journal or MemoryJournal())
        self._size = BatchSize(MOST_ROWS)
        # the newest of each trainer that is not sent; what is sent is forgotten, whatever comes of it
        self._samples: dict[str, SystemSample] = {}
        self._samples_due: asyncio.TimerHandle | None = None
        self._after = 0
        self._work, self._urgent, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to send; the first post, an empty one at least, tells how many rows are stored."""
        self._outbox.adopt(await self._kept.start())
        self._hurry()
        self._sender = asyncio.create_task(self._send(), name="uplink")

    @property
    def rows_below(self) -> int:
        return self._outbox.rows_below

    def event(self, kind: EventKind, /, **data: JsonValue) -> None:
        told = {name: self.mask(value) for name, value in data.items()}
        self._kept.add(self._outbox.event(kind, told, datetime.now(UTC)))
        self._note_work()
        if kind in _URGENT:
            self._urgent.set()

    def rows(self, rows: Iterable[LedgerRow]) -> None:
        self._outbox.rows(rows)
        if not self._outbox.empty:
            self._note_work()

    def system(self, sample: SystemSample) -> None:
        self._samples[sample.trainer] = sample
        if self._samples_due is None:
            self._samples_due = asyncio.get_running_loop().call_later(SAMPLES_S, self._note_work)

    async def commands(self) -> AsyncIterator[Command]:
        while not self.gone.is_set():
            asked = time.monotonic()
            page = await self._poll()
            for command in page.commands:
                self._after = command.n
                yield command
            if not page.commands and time.monotonic() - asked < BATCH_S:
                await asyncio.sleep(BATCH_S)  # it does not wait, since it is shutting down: no busy loop

    async def logs(self, body: bytes) -> bool:
        """Send printed lines (see `surefoot.logs`). Returns once they are stored, or False: they are refused for good."""

        async def post() -> int:
            response = await self._ask("POST", "/logs", content=body, headers={"Content-Type": LOGS_TYPE})
            is_refused = _is_over(response) or _is_refused(response, len(body))
            if not response.is_success and not is_refused:
                raise _AwayError(f"{response.status_code}: {response.text[:500]}")
            if is_refused:
                log.warning("lines_refused", status=response.status_code, why=response.text[:500])
            return response.status_code

        return 200 <= await self._retried(post) < 300

    async def flush(self, deadline_s: float) -> bool:
        self._hurry()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self.gone)]
        try:
            await asyncio.wait(waits, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._outbox.empty and not self.gone.is_set()

    async def close(self) -> None:
        if self._samples_due is not None:
            self._samples_due.cancel()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
        await self._kept.close()
        await self._client.aclose()

    def _note_work(self) -> None:
        self._idle.clear()
        self._work.set()

    def _hurry(self) -> None:
        self._note_work()
        self._urgent.set()

    async def _send(self) -> None:
        """The sender: one post at a time, at most one every BATCH_S unless urgent, until gone."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                self._urgent.clear()
                try:
                    await self._retried(self._post)
                except _GoneError:
                    raise
                except Exception as error:  # noqa: BLE001  the task's edge: without a sender the attempt would be given up as silent
                    log.warning("not_sent", error=repr(error))
                if self._outbox.empty:
                    self._idle.set()
                else:
                    self._work.set()
                await self._pause()
        except _GoneError as error:
            self._end(str(error))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(BATCH_S):
                await self._urgent.wait()
        except TimeoutError:
            pass

    async def _post(self) -> None:
        batch = self._size.cut(self._outbox.batch(self._size.most))
        body = batch.model_copy(update={"system": self._take_samples()}).model_dump_json().encode()
        self.posts += 1
        self.sent_bytes += len(body)
        response = await self._ask("POST", "/uplink", content=body, headers={"Content-Type": "application/json"})
        if _is_refused(response, len(body)):
            too_large = response.status_code == _TOO_LARGE
            give_up = self._size.too_large(batch) if too_large else self._size.refused(batch)
            if not give_up:
                raise _AwayError(f"the batch was refused: {response.text[:500]}")
            self._give_up(batch, response.text[:500])
            self._size.gave_up()
        else:
            self._outbox.stored(batch, _read(UplinkAck, response).rows_below)
            self._kept.stored(batch.events)
            self._size.stored()

    def _take_samples(self) -> tuple[SystemSample, ...]:
        taken = tuple(self._samples.pop(trainer) for trainer in tuple(self._samples)[:MAX_SAMPLES])
        if self._samples_due is not None:
            self._samples_due.cancel()
        later = asyncio.get_running_loop().call_later
        self._samples_due = later(SAMPLES_S, self._note_work) if self._samples else None
        return taken

    def _give_up(self, batch: SentBatch, why: str) -> None:
        """Forget the one event or row that is refused for good, so that all others go on; it is told that it could not be."""
        log.error("refused", events=[e.kind for e in batch.events], rows=[r.result.step for r in batch.rows], why=why)
        self._outbox.stored(batch, self._outbox.rows_below)
        self._kept.stored(batch.events)
        for event in batch.events:
            if not str(event.data.get("message", "")).startswith(_UNTOLD):
                self.event(EventKind.WARNING, message=f"{_UNTOLD} an event {event.kind} of {event.at}: {why}")
        for row in batch.rows:
            self.event(EventKind.WARNING, message=f"{_UNTOLD} the ledger row of step {row.result.step}: {why}")

    async def _poll(self) -> CommandPage:
        async def poll() -> CommandPage:
            params = {"after": str(self._after), "wait_s": str(POLL_S)}
            timeout = httpx.Timeout(10.0, read=POLL_S + 10.0)
            response = await self._ask("GET", "/commands", params=params, timeout=timeout)
            return _read(CommandPage, response)

        try:
            return await self._retried(poll)
        except _GoneError as error:
            self._end(str(error))
            return CommandPage()

    async def secrets(self) -> dict[str, str]:
        try:
            response = await self._ask("POST", "/secrets")
        except _AwayError as error:
            raise SecretsAwayError(str(error)) from None
        if not response.is_success:
            raise SecretsAwayError(f"{response.status_code}: {response.text[:500]}")
        try:
            return HandedSecrets.model_validate_json(response.content).values
        except ValidationError:  # nothing of the answer is told: it may be them
            raise SecretsAwayError("what the control plane answers are no secrets") from None

    async def _ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        request = self._client.build_request(method, self._path + path, headers=headers, **options)
        request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        # A poll stands for twenty seconds: the token is not to lie in it for so long.
        request.extensions["trace"] = _Forgetting(request).trace
        try:
            return await self._client.send(request)
        except httpx.TransportError as error:
            raise _AwayError(repr(error)) from error

    async def _retried(self, ask: Callable[[], Awaitable[T]]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_AwayError),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            before_sleep=_tell,
        )
        return await retrying(ask)

    def _end(self, reason: str) -> None:
        if not self.gone.is_set():
            log.warning("control_plane_refuses_attempt", reason=reason)
            self.gone_reason = reason
            self.gone.set()


def _is_refused(response: httpx.Response, num_bytes: int) -> bool:
    """Whether what was sent is refused, now and always: by the control plane itself, or for its size by a proxy before it."""
    if response.status_code not in (_TOO_LARGE, _INVALID):
        return False
    is_problem = response.headers.get("Content-Type", "").startswith(_PROBLEM)
    return is_problem or (response.status_code == _TOO_LARGE and num_bytes > _SMALL_BYTES)


def _is_over(response: httpx.Response) -> bool:
    """Whether the control plane itself knows this attempt no more."""
    return response.status_code in _GONE and response.headers.get("Content-Type", "").startswith(_PROBLEM)


class _Forgetting:
    """Takes the token out of a request once that is sent."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._headers: list[tuple[bytes, bytes]] = []

    async def trace(self, name: str, info: dict[str, Any]) -> None:
        """What httpcore tells of the request's way."""
        if name.endswith("send_request_headers.started"):
            self._headers = info["request"].headers
        elif name.endswith("send_request_headers.complete"):
            self._request.headers.pop("Authorization", None)
            self._headers[:] = [(key, value) for key, value in self._headers if key.lower() != b"authorization"]


def _read(model: type[M], response: httpx.Response) -> M:
    if _is_over(response):
        raise _GoneError(f"the control plane answers {response.status_code}: {response.text[:500]}")
    if not response.is_success:
        raise _AwayError(f"{response.status_code}: {response.text[:500]}")
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise _AwayError(f"not an answer of the control plane: {response.text[:500]}") from error


def _tell(state: RetryCallState) -> None:
    """Log the first failure of a row; the rest would say the same."""
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("control_plane_away", error=str(state.outcome.exception()))
