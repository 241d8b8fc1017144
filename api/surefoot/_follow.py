"""Following a job to its end, as a state that is told what happened and says what to do next. No network and no clock here.

The stream is the way; when it breaks it is resumed by its cursor; where it can't be had (a proxy that buffers, an older service) the
same updates are polled. Updates come in the order stored and each once, whichever way they came.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from surefoot._requests import (
    EVENTS_PAGE,
    ROWS_PAGE,
    Answer,
    Flow,
    ask,
    check_goes_on,
    error_of,
    get_events,
    get_job,
    get_rows,
)
from surefoot._sse import Decoder, Message
from surefoot.errors import NotFoundError, ServiceError, ServiceUnavailableError, UnauthorizedError
from surefoot.events import LedgerRow
from surefoot.views import JobView, NumberedEvent

__all__ = ["PATIENCE_S", "POLL_S", "QUIET_S", "Follower", "Update"]

Update = NumberedEvent | LedgerRow | JobView

# A stream that is quiet for longer than this is dead: the service sends a comment every 15 s.
QUIET_S = 45.0
# How often a job is asked for without a stream.
POLL_S = 1.0
# For so long may nobody answer before following ends with an error; jobs go on without a control plane.
PATIENCE_S = 120.0

# So many breaks in a row, without a byte between them, until polling takes over; and so many polls until the stream is tried again.
_BREAKS = 3
_POLLS = 15


class Follower:
    """What is known of one job that is followed."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        #: the newest view of the job; None before the first
        self.view: JobView | None = None
        #: the job has ended and every update was given
        self.done = False
        self._cursor = ""
        self._seq = 0
        self._next_step = 0
        self._decoder = Decoder()
        # the newest message is the view of an ended job: if the stream closes now, that was all
        self._at_end = False
        self._breaks = 0
        self._polls_left = 0
        self._stream_refused = False
        self._silent_since: float | None = None

    # ---- the stream

    @property
    def polling(self) -> bool:
        """Whether to poll now, rather than open the stream."""
        return self._stream_refused or self._polls_left > 0

    @property
    def path(self) -> str:
        return f"/v1/jobs/{self.job_id}/stream"

    def headers(self) -> dict[str, str]:
        """Begin a stream and return its request's headers."""
        self._decoder, self._at_end = Decoder(), False
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        return headers | ({"last-event-id": self._cursor} if self._cursor else {})

    def feed(self, chunk: bytes) -> list[Update]:
        """Take bytes of the stream, return the updates that they complete and that are new."""
        self._heard()
        updates = [update for message in self._decoder.feed(chunk) if (update := self._read(message))]
        if updates:
            self._at_end = isinstance(updates[-1], JobView) and updates[-1].ended
        return self._fresh(updates)

    def closed(self) -> None:
        """The stream came to its own end: which is the job's, if it said so."""
        if self._at_end:
            self.done = True
        else:
            self._broke()

    def refused(self, answer: Answer) -> None:
        """The service answered, but not with a stream: poll from now on.

        Raises the error answered where polling would fare no better.
        """
        error = error_of(answer) if answer.status >= 300 else None
        if isinstance(error, NotFoundError | UnauthorizedError | ServiceUnavailableError):
            raise error
        self._stream_refused = True

    def failed(self, error: Exception, now: float) -> None:
        """Nothing answered, or it broke off; `now` is any clock's seconds. Raises ServiceUnavailableError when patience is at its end."""
        self._broke()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > PATIENCE_S:
            detail = f"nobody has answered for {PATIENCE_S:.0f} s; the job itself may well go on"
            raise ServiceUnavailableError(f"lost sight of job {self.job_id}", status=503, detail=detail) from error

    def pause_s(self) -> float:
        """How long to wait before going on."""
        return POLL_S if self.polling or self._breaks > 1 else 0.1 * self._breaks

    # ---- polling

    def poll(self) -> Flow[list[Update]]:
        """Ask once for whatever is new."""
        # The view first: when it says that the job has ended, everything asked for after it is complete.
        view = yield from ask(get_job(self.job_id))
        events, rows = (yield from self._poll_events()), (yield from self._poll_rows())
        if not view.ended:  # what a gap still hides must come before what is behind it
            rows = [row for row in rows if row.result.step < view.steps_done]
        updates = self._fresh([*events, *rows])
        self._heard()
        self._polls_left = max(0, self._polls_left - 1)
        changed = view != self.view
        self.view, self.done = view, view.ended
        return [*updates, view] if changed else updates

    def _poll_events(self) -> Flow[list[NumberedEvent]]:
        events: list[NumberedEvent] = []
        while True:
            after = events[-1].seq if events else self._seq
            page = (yield from ask(get_events(self.job_id, after=after))).events
            if page:
                check_goes_on(after, page[-1].seq)
            events += page
            if len(page) < EVENTS_PAGE:
                return events

    def _poll_rows(self) -> Flow[list[LedgerRow]]:
        rows: list[LedgerRow] = []
        while True:
            start = rows[-1].result.step + 1 if rows else self._next_step
            page = (yield from ask(get_rows(self.job_id, from_step=start))).rows
            if page:
                check_goes_on(start - 1, page[-1].result.step)
            rows += page
            if len(page) < ROWS_PAGE:
                return rows

    # ---- what both ways share

    def _fresh(self, updates: Iterable[Update]) -> list[Update]:
        return [update for update in updates if self._is_new(update)]

    def _is_new(self, update: Update) -> bool:
        match update:
            case NumberedEvent(seq=seq):
                new, self._seq = seq > self._seq, max(seq, self._seq)
            case LedgerRow(result=result):
                new, self._next_step = result.step >= self._next_step, max(result.step + 1, self._next_step)
            case JobView():
                new, self.view = update != self.view, update
        return new

    def _read(self, message: Message) -> Update | None:
        self._cursor = message.id or self._cursor
        kind = _KINDS.get(message.event)
        if kind is None:
            return None  # of a newer service
        try:
            return kind.model_validate_json(message.data)
        except ValidationError as error:
            title = f"the stream of job {self.job_id} cannot be read by this version of surefoot"
            raise ServiceError(
                title, status=502, detail=f"{error.error_count()} fields of {message.event!r}"
            ) from error

    def _heard(self) -> None:
        self._breaks, self._silent_since = 0, None

    def _broke(self) -> None:
        self._breaks += 1
        if self._breaks >= _BREAKS and not self._polls_left:
            self._polls_left = _POLLS


_KINDS: dict[str, type[NumberedEvent] | type[LedgerRow] | type[JobView]] = {
    "event": NumberedEvent,
    "row": LedgerRow,
    "job": JobView,
}
