"""What takes several requests, written once for both clients. No network here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from surefoot._given import a_text, a_whole_number
from surefoot._requests import (
    JOBS_PAGE,
    ROWS_PAGE,
    Flow,
    PackageAbsentError,
    ask,
    check_goes_on,
    clone_job,
    create_job,
    get_events,
    get_job,
    get_row_lines,
    has_package,
    list_jobs,
    put_package,
)
from surefoot.errors import JobFailedError, NotFoundError, UserError
from surefoot.events import LedgerRow
from surefoot.ledger import read_row, step_of
from surefoot.names import is_job
from surefoot.spec import JobState
from surefoot.submission import Submission, changes_of
from surefoot.views import JobView, NumberedEvent

__all__ = [
    "RowPages",
    "all_events",
    "all_rows",
    "conclude",
    "id_of",
    "jobs",
    "resolve",
    "rests",
    "submit",
    "submit_from",
]


def submit(submission: Submission) -> Flow[JobView]:
    """Upload the package unless the service has it, then submit; upload it again if the service has lost it meanwhile."""
    package, spec = submission.package, submission.spec
    if spec.restore is not None:
        spec = spec.model_copy(update={"restore": (yield from _restored(spec.restore))})
    if not (yield from ask(has_package(package.sha256))):
        yield from ask(put_package(package.data))
    try:
        return (yield from ask(create_job(spec, submission.key)))
    except PackageAbsentError:
        yield from ask(put_package(package.data))
    return (yield from ask(create_job(spec, submission.key)))


def _restored(restore: str) -> Flow[str]:
    """What a job is to begin from: a checkpoint's place as it is, or the id of the job that is meant."""
    if not is_job(restore):
        return restore
    try:
        return (yield from resolve(restore)).id
    except NotFoundError:
        return restore  # the control plane says what else it may be


def id_of(job: object) -> str:
    """The id of a job that is given as one, or by its id. Raises UserError."""
    ref = a_text(getattr(job, "id", job), "job", "3f2a")
    if not is_job(ref):
        raise _no_job(ref)
    return ref


def _no_job(ref: str) -> UserError:
    return UserError(f'{ref[:200]!r} is no job id: `surefoot ls` lists them, and "last" is the newest')


def submit_from(ref: str, options: Mapping[str, Any]) -> Flow[JobView]:
    """Submit the job that `ref` means again, with these options of `submit` changed."""
    changes = changes_of(options)
    job = yield from resolve(ref)
    if isinstance(restore := changes.get("restore"), str):
        changes["restore"] = yield from _restored(restore)
    return (yield from ask(clone_job(job.id, changes, uuid4().hex)))


def jobs(state: JobState | None, limit: int) -> Flow[list[JobView]]:
    """List jobs, newest first, at most `limit`."""
    found: list[JobView] = []
    a_whole_number(limit, "limit")
    while len(found) < limit:
        asked = min(JOBS_PAGE, limit - len(found))
        page = (yield from ask(list_jobs(state=state, limit=asked, before=found[-1].id if found else None))).jobs
        found += page
        if len(page) < asked:
            break
    return found


# of jobs whose ids begin alike
_MOST_NAMED = 4


def resolve(ref: str) -> Flow[JobView]:
    """Find the job that `ref` means: an id, a unique beginning of one, or "last" for the newest.

    Raises NotFoundError, and UserError for a beginning that several jobs share.
    """
    if a_text(ref, "job", "last") == "last":
        newest = (yield from ask(list_jobs(limit=1))).jobs
        if not newest:
            raise NotFoundError("there is no job yet", status=404, detail="submit one with `surefoot submit`")
        return newest[0]
    if not is_job(ref):
        raise _no_job(ref)
    try:
        return (yield from ask(get_job(ref)))
    except NotFoundError:
        return (yield from _resolve_prefix(ref))


def _resolve_prefix(ref: str) -> Flow[JobView]:
    found = (yield from ask(list_jobs(beginning=ref, limit=_MOST_NAMED + 1))).jobs
    matching = [view for view in found if view.id.startswith(ref)]  # an older control plane lists its newest
    if not matching:
        raise NotFoundError(f"there is no job {ref!r}", status=404, detail="`surefoot ls` lists them")
    if len(matching) > 1:
        named = [view.id for view in matching[:_MOST_NAMED]] + ["..."] * (len(matching) > _MOST_NAMED)
        raise UserError(f"{ref!r} is the beginning of several jobs ({', '.join(named)}): give more of it")
    return matching[0]


def all_events(job_id: str) -> Flow[list[NumberedEvent]]:
    """All events so far, oldest first."""
    events: list[NumberedEvent] = []
    while page := (yield from ask(get_events(job_id, after=(after := events[-1].seq if events else 0)))).events:
        check_goes_on(after, page[-1].seq)
        events += page
    return events


@dataclass(slots=True)
class RowPages:
    """A ledger read page by page, whatever its length: ask for `next` until it is `done`. Rows are the JSON they are kept as."""

    job_id: str
    from_step: int = 0
    page: int = ROWS_PAGE
    done: bool = False

    def __post_init__(self) -> None:
        a_whole_number(self.from_step, "from_step")

    def next(self) -> Flow[list[bytes]]:
        """The next rows, by step."""
        lines = yield from ask(get_row_lines(self.job_id, from_step=self.from_step, limit=self.page))
        self.done = len(lines) < self.page
        if lines:
            last = step_of(lines[-1])
            check_goes_on(self.from_step - 1, last)
            self.from_step = last + 1
        return lines


def all_rows(job_id: str) -> Flow[list[LedgerRow]]:
    """The whole ledger so far, by step."""
    rows: list[LedgerRow] = []
    pages = RowPages(job_id)
    while not pages.done:
        rows += map(read_row, (yield from pages.next()))
    return rows


def rests(view: JobView) -> bool:
    """Whether the job does nothing any more, unless somebody asks."""
    return view.ended or view.state is JobState.PAUSED


def conclude(view: JobView, *, raise_on_failure: bool) -> JobView:
    """Return the view of an ended job. Raises JobFailedError, with the traceback, for one that did not succeed."""
    if raise_on_failure and view.state is not JobState.SUCCEEDED:
        reason = view.reason or "no reason was recorded"
        raise JobFailedError(view.id, view.state.value, reason, view.traceback)
    return view
