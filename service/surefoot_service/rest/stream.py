"""A job as a stream of Server-Sent Events, resumable by a cursor. The messages are described in `surefoot.views`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from fastapi.sse import format_sse_event
from sqlalchemy.orm import Session

from surefoot.views import JobView, NumberedEvent
from surefoot_service.errors import NotFoundError
from surefoot_service.parts import Service
from surefoot_service.store import events, jobs
from surefoot_service.store.database import StoreAwayError
from surefoot_service.wakeups import news_of

__all__ = ["Cursor", "follow"]

_PAGE = 1000
# a word now and then keeps proxies from closing a quiet stream, and finds what another replica wrote
_QUIET_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a stream is: events up to `seq` and rows of steps below `step` are sent."""

    seq: int = 0
    step: int = 0

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        if text is None:
            return cls()
        seq, _, step = text.partition("-")
        return cls(seq=int(seq), step=int(step))

    def __str__(self) -> str:
        return f"{self.seq}-{self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    view: JobView
    events: Sequence[NumberedEvent]
    rows: Sequence[tuple[int, str]]

    @property
    def more(self) -> bool:
        return len(self.events) == _PAGE or len(self.rows) == _PAGE

    def reached(self, cursor: Cursor) -> Cursor:
        """Where a stream is that has sent this."""
        seq = self.events[-1].seq if self.events else cursor.seq
        step = self.rows[-1][0] + 1 if self.rows else cursor.step
        return Cursor(seq=seq, step=step)


async def follow(service: Service, job: str, cursor: Cursor) -> AsyncIterator[bytes]:
    """Yield the job's messages after the cursor until it has ended and all is sent, or the service closes."""
    seen: tuple[object, ...] | None = None
    with service.wakeups.listen(news_of(job)) as news:
        while True:
            try:
                found = await service.database.read(_read, job, cursor)
            except StoreAwayError:
                return  # whoever follows comes back with the cursor
            except NotFoundError:
                return  # the job was deleted: whoever comes back is told so
            for message in _messages(found, cursor):
                yield message
            cursor = found.reached(cursor)
            if found.more:
                continue
            if seen != _face(found.view):
                yield _message("job", found.view.model_dump_json(), cursor)
                seen = _face(found.view)
            if found.view.ended:
                return
            if not await news.wait(_QUIET_S):
                if service.wakeups.closed:
                    return
                yield format_sse_event(comment="quiet")


def _read(session: Session, job: str, cursor: Cursor) -> _News:
    row = jobs.load(session, job)
    # Rows go out without a gap, so that the cursor is one number; what has gaps at the very end goes out as it is.
    below = None if jobs.has_ended(row) else row.steps_done
    return _News(
        view=jobs.view(session, row),
        events=events.events_after(session, job, cursor.seq, _PAGE),
        rows=events.rows_from(session, job, cursor.step, _PAGE, below),
    )


def _messages(found: _News, cursor: Cursor) -> Iterator[bytes]:
    for event in found.events:
        cursor = replace(cursor, seq=event.seq)
        yield _message("event", event.model_dump_json(), cursor)
    for step, row in found.rows:
        cursor = replace(cursor, step=step + 1)
        yield _message("row", row, cursor)


def _message(kind: str, data: str, cursor: Cursor) -> bytes:
    return format_sse_event(event=kind, data_str=data, id=str(cursor))


def _face(view: JobView) -> tuple[object, ...]:
    """What of a job is worth a message of its own; steps are told by the rows."""
    return view.state, view.reason, view.trainers, view.wanted_trainers, view.generation, view.num_steps
