"""The control plane's REST interface as values: what to send, and how to read the answer. No network here.

A `Call` is one request. A `Flow` is a generator that yields calls and is sent their parsed answers, so that whatever takes several
requests is written once; `Client` and `AsyncClient` only carry the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from surefoot._trace import trace_headers
from surefoot.budget import Budget
from surefoot.errors import (
    ConflictError,
    NotFoundError,
    PackageError,
    ServiceError,
    ServiceUnavailableError,
    SpecError,
    UnauthorizedError,
)
from surefoot.events import FaultKind
from surefoot.logs import LogPage
from surefoot.names import is_job
from surefoot.spec import JobSpec, JobState
from surefoot.system import SystemMetrics
from surefoot.usage import JobUsage
from surefoot.views import (
    CheckpointList,
    EventPage,
    FaultRequest,
    Health,
    JobList,
    JobView,
    LedgerPage,
    PackageView,
    Problem,
    ResizeRequest,
)

__all__ = [
    "EVENTS_PAGE",
    "JOBS_PAGE",
    "ROWS_PAGE",
    "Answer",
    "Call",
    "Flow",
    "PackageAbsentError",
    "ask",
    "cancel_job",
    "check_goes_on",
    "checkpoint_job",
    "clone_job",
    "create_job",
    "delete_job",
    "error_of",
    "field_by_field",
    "get_checkpoints",
    "get_events",
    "get_health",
    "get_job",
    "get_logs",
    "get_row_lines",
    "get_rows",
    "get_system",
    "get_usage",
    "has_package",
    "inject_fault",
    "list_jobs",
    "model_of",
    "pause_job",
    "put_package",
    "receive",
    "resize_job",
    "resume_job",
    "set_budget",
    "spec_error",
]

# a ledger row a line, as JSON
NDJSON = "application/x-ndjson"

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# Items a page: the service's own limits.
JOBS_PAGE, EVENTS_PAGE, ROWS_PAGE = 200, 1_000, 10_000


class PackageAbsentError(SpecError):
    """The control plane has not got the job's package, or has lost it: it is to be uploaded, again perhaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    # where a redirect leads
    location: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request. All of them may be sent again after a lost answer: each is idempotent, submission by its key."""

    method: str
    path: str
    parse: Callable[[Answer], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    # statuses of 400 and above that are an answer, not an error
    expected: frozenset[int] = frozenset()


Flow = Generator[Call[Any], Any, T]


def ask(call: Call[T]) -> Flow[T]:
    """Make a flow of one call, typed: `view = yield from ask(get_job(id))`."""
    answer: T = yield call
    return answer


# ---- the calls


def get_health() -> Call[Health]:
    return Call(method="GET", path="/v1/health", parse=model_of(Health))


def has_package(sha256: str) -> Call[bool]:
    return Call(method="GET", path=f"/v1/packages/{sha256}", parse=_found, expected=frozenset({404}))


def put_package(data: bytes) -> Call[PackageView]:
    return Call(
        method="POST",
        path="/v1/packages",
        parse=model_of(PackageView),
        headers={"content-type": "application/zip"},
        body=data,
    )


def create_job(spec: JobSpec, key: str) -> Call[JobView]:
    """Submit; `key` names this submission, so that sending it twice makes one job."""
    headers = {"content-type": "application/json", "idempotency-key": key, **trace_headers()}
    try:
        body = spec.model_dump_json().encode()
    except ValueError as error:  # of half a surrogate pair: a file's name that is not UTF-8, in the environment say
        raise SpecError(f"this job cannot be sent as JSON: {error}") from None
    return Call(method="POST", path="/v1/jobs", parse=_job, headers=headers, body=body)


def clone_job(job_id: str, changes: Mapping[str, Any], key: str) -> Call[JobView]:
    """Submit another job again, with other values for some fields of its spec."""
    headers = {"content-type": "application/json", "idempotency-key": key, **trace_headers()}
    try:
        body = json.dumps({"from": job_id, "changes": dict(changes)}, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"these changes cannot be sent as JSON: {error}") from None
    return Call(method="POST", path="/v1/jobs", parse=_job, headers=headers, body=body)


def list_jobs(
    *, state: JobState | None = None, limit: int = JOBS_PAGE, before: str | None = None, beginning: str | None = None
) -> Call[JobList]:
    params = _params(state=state, limit=limit, before=before, beginning=beginning)
    return Call(method="GET", path="/v1/jobs", parse=_jobs, params=params)


def get_job(job_id: str) -> Call[JobView]:
    return Call(method="GET", path=f"/v1/jobs/{job_id}", parse=_job)


def resize_job(job_id: str, trainers: int) -> Call[JobView]:
    return _told(job_id, "resize", lambda: ResizeRequest(trainers=trainers))


def _told(job_id: str, what: str, make: Callable[[], BaseModel]) -> Call[JobView]:
    """Tell a job something. Raises SpecError naming the fields that cannot be as they are."""
    try:
        # what is as by default an older service need not know
        body = make().model_dump_json(exclude_defaults=True).encode()
    except ValidationError as error:
        raise SpecError(field_by_field(f"this {what.removesuffix('s')} is not possible", _located(error))) from None
    headers = {"content-type": "application/json"}
    return Call(method="POST", path=f"/v1/jobs/{job_id}/{what}", parse=_job, headers=headers, body=body)


def cancel_job(job_id: str) -> Call[JobView]:
    return Call(method="POST", path=f"/v1/jobs/{job_id}/cancel", parse=_job)


def pause_job(job_id: str) -> Call[JobView]:
    return Call(method="POST", path=f"/v1/jobs/{job_id}/pause", parse=_job)


def resume_job(job_id: str) -> Call[JobView]:
    return Call(method="POST", path=f"/v1/jobs/{job_id}/resume", parse=_job)


def checkpoint_job(job_id: str) -> Call[JobView]:
    return Call(method="POST", path=f"/v1/jobs/{job_id}/checkpoint", parse=_job)


def inject_fault(job_id: str, kind: FaultKind, leave: int) -> Call[JobView]:
    return _told(job_id, "faults", lambda: FaultRequest(kind=kind, leave=leave))


def get_checkpoints(job_id: str) -> Call[CheckpointList]:
    return Call(method="GET", path=f"/v1/jobs/{job_id}/checkpoints", parse=model_of(CheckpointList))


def get_system(job_id: str, *, history: bool = False) -> Call[SystemMetrics]:
    params = {"history": "true"} if history else {}
    return Call(method="GET", path=f"/v1/jobs/{job_id}/system", parse=model_of(SystemMetrics), params=params)


def get_usage(job_id: str) -> Call[JobUsage]:
    return Call(method="GET", path=f"/v1/jobs/{job_id}/usage", parse=model_of(JobUsage))


def set_budget(job_id: str, max_cost: float | None, max_hours: float | None) -> Call[JobView]:
    return _told(job_id, "budget", lambda: Budget(max_cost=max_cost, max_hours=max_hours))


def delete_job(job_id: str, *, checkpoints: bool) -> Call[None]:
    return Call(
        method="DELETE",
        path=f"/v1/jobs/{job_id}",
        parse=lambda _answer: None,
        params=_params(checkpoints=str(checkpoints).lower()),
    )


def get_events(job_id: str, *, after: int = 0, limit: int = EVENTS_PAGE) -> Call[EventPage]:
    return Call(
        method="GET",
        path=f"/v1/jobs/{job_id}/events",
        parse=model_of(EventPage),
        params=_params(after=after, limit=limit),
    )


def get_rows(job_id: str, *, from_step: int = 0, limit: int = ROWS_PAGE) -> Call[LedgerPage]:
    params = _params(from_step=from_step, limit=limit)
    return Call(method="GET", path=f"/v1/jobs/{job_id}/ledger", parse=model_of(LedgerPage), params=params)


def get_row_lines(job_id: str, *, from_step: int = 0, limit: int = ROWS_PAGE) -> Call[list[bytes]]:
    """The same page as the JSON that each row is kept as, unread: a fraction of the time and memory."""
    params = _params(from_step=from_step, limit=limit)
    headers = {"accept": f"{NDJSON}, application/json;q=0.5"}
    return Call(method="GET", path=f"/v1/jobs/{job_id}/ledger", parse=_row_lines, params=params, headers=headers)


def get_logs(job_id: str, *, wait_s: float = 0, **asked: object) -> Call[LogPage]:
    """Printed lines; `asked`: trainer, since, contains, and start with limit, or tail."""
    params = _params(wait_s=wait_s or None, **asked)
    return Call(method="GET", path=f"/v1/jobs/{job_id}/logs", parse=model_of(LogPage), params=params)


# ---- reading answers


def receive(call: Call[T], answer: Answer) -> T:
    """Parse the answer to `call`. Raises the ServiceError (or, for a refused package, PackageError) that its problem stands for."""
    if answer.status >= 300 and answer.status not in call.expected:
        raise error_of(answer)
    try:
        return call.parse(answer)
    except ValidationError as error:
        detail = (
            f"{call.method} {call.path}: {error.error_count()} fields are not as this version of surefoot knows them"
        )
        raise ServiceError("the answer cannot be read", status=answer.status, detail=detail) from error


def error_of(answer: Answer) -> ServiceError | PackageError | SpecError:
    """Return the exception for an error answer (RFC 9457, or whatever a proxy in between made of it)."""
    if answer.status < 400:
        return _redirected(answer)
    problem = _problem(answer)
    if problem.status == 422:
        fields = [(e.field, e.message) for e in problem.errors]
        if any(e.field == "body.package" for e in problem.errors):
            return PackageAbsentError(problem.detail)
        intro = "the control plane refused this" if fields else problem.detail or problem.title
        return SpecError(field_by_field(intro, fields))
    if problem.status == 413:
        return PackageError(problem.detail or "the package is larger than the control plane accepts")
    kind = _KINDS.get(problem.status, ServiceError)
    return kind(problem.title, status=problem.status, detail=problem.detail, problem=problem.model_dump())


def _redirected(answer: Answer) -> ServiceError:
    """It is not followed: the token belongs to the address that was named."""
    to = f"it leads to {answer.location[:500]!r}; " if answer.location else ""
    detail = f"{to}name the control plane's own address by --url or SUREFOOT_URL"
    return ServiceError(f"this address answers with {answer.status}, a redirect", status=answer.status, detail=detail)


def check_goes_on(before: int, now: int) -> None:
    """Raise ServiceError for a page that is no further on than the one before: its pages would never end."""
    if now <= before:
        raise ServiceError(
            "the answer cannot be read", status=502, detail="a page is no further on than the one before"
        )


def field_by_field(intro: str, fields: Iterable[tuple[str, str]]) -> str:
    """Write a validation problem for people: the intro, then a line a field."""
    lines = [f"  {name}: {message}" if name else f"  {message}" for name, message in (_in_words(*f) for f in fields)]
    return "\n".join([f"{intro}:", *lines]) if lines else intro


_KINDS: dict[int, type[ServiceError]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    409: ConflictError,
    502: ServiceUnavailableError,
    503: ServiceUnavailableError,
    504: ServiceUnavailableError,
}


def _problem(answer: Answer) -> Problem:
    try:
        return Problem.model_validate_json(answer.body)
    except ValidationError:
        text = answer.body[:200].decode(errors="replace").strip()
        return Problem(title=f"the control plane answered {answer.status}", status=answer.status, detail=text)


def _in_words(name: str, message: str) -> tuple[str, str]:
    """Drop what only a programmer needs: where in the request a field is, and pydantic's "Value error, "."""
    name = name.removeprefix("body").removeprefix("query").lstrip(".")
    return name, message.removeprefix("Value error, ")


def _located(error: ValidationError) -> list[tuple[str, str]]:
    return [(".".join(str(part) for part in e["loc"]), e["msg"]) for e in error.errors(include_url=False)]


def spec_error(error: ValidationError) -> SpecError:
    """Return what is wrong with a spec, in words, as the control plane would."""
    return SpecError(field_by_field("this job cannot be run", _located(error)))


def model_of(kind: type[M]) -> Callable[[Answer], M]:
    return lambda answer: kind.model_validate_json(answer.body)


def _row_lines(answer: Answer) -> list[bytes]:
    if answer.body.startswith(b'{"rows":'):  # an older service's: one document
        return [row.model_dump_json().encode() for row in LedgerPage.model_validate_json(answer.body).rows]
    return answer.body.splitlines()


def _job(answer: Answer) -> JobView:
    """Read a job. Its id becomes part of paths and file names: one that is none of the service's is refused."""
    view = JobView.model_validate_json(answer.body)
    _check_ids((view,))
    return view


def _jobs(answer: Answer) -> JobList:
    found = JobList.model_validate_json(answer.body)
    _check_ids(found.jobs)
    return found


def _check_ids(views: Iterable[JobView]) -> None:
    for view in views:
        if not is_job(view.id):
            raise ServiceError("the answer cannot be read", status=502, detail=f"{view.id[:100]!r} is no job id")


def _found(answer: Answer) -> bool:
    return answer.status != 404


def _params(**values: object) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
