"""What the control plane answers, and the few bodies it takes: shared by service, SDK and the supervisor's uplink.

`GET /v1/jobs/{id}/stream` is a Server-Sent Events stream of three kinds of message, each kind in its order:
`event: event` carries a NumberedEvent, `event: row` a LedgerRow, `event: job` a JobView (on opening, and whenever
state, trainers or generation change). Every message's id is a cursor: sent back as Last-Event-ID, the stream goes on
after it. When the job has ended and all of its events and rows are sent, a last `event: job` follows and the stream
ends.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from surefoot._compat import StrEnum
from surefoot.events import Command, Event, FaultKind, LedgerRow
from surefoot.moments import Moment
from surefoot.spec import JobState
from surefoot.stored_spec import AnySpec, RunnableSpec
from surefoot.words import UnknownWord

__all__ = [
    "AuditAction",
    "AuditEntry",
    "AuditPage",
    "Check",
    "CheckpointList",
    "CheckpointView",
    "Claimed",
    "CommandPage",
    "EventPage",
    "FaultRequest",
    "Health",
    "InvalidField",
    "JobList",
    "JobView",
    "LedgerPage",
    "NotReady",
    "NumberedEvent",
    "PackageView",
    "Problem",
    "Ready",
    "ResizeRequest",
]


class View(BaseModel):
    """An answer: frozen, and open to fields that a newer service adds."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobView(View):
    """A job as it is now."""

    id: str
    spec: AnySpec
    # one that only a newer service knows is its bare name; `ended` says what to make of it
    state: Annotated[JobState | UnknownWord, Field(union_mode="left_to_right")]
    # why it is in this state, in a sentence; empty when there is nothing to say
    reason: str = ""
    created_at: Moment
    # when it first left the queue
    started_at: Moment | None = None
    ended_at: Moment | None = None
    # live members of the present generation; 0 before the first and after the end
    trainers: int = 0
    # how many a resize, or the spec, asks for
    wanted_trainers: int
    generation: int = 0
    # ledger rows stored without a gap
    steps_done: int = 0
    # None until the train function has asked for steps
    num_steps: int | None = None
    # of the final tracked state, once succeeded
    digest: str | None = None
    # of the user's code, where that is what failed
    traceback: str | None = None
    # the newest attempt, if any, and how many there were
    attempt: str | None = None
    attempts: int = 0
    # the newest durable checkpoint: its URL, and the step that training would go on with
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    # where the final model lies, once it is saved
    model: str | None = None
    # what of the stored job this version of the service cannot read, a sentence; empty: it can read all
    unreadable: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job has come to its end. In a state that is not known here it has, if there is a time of its end."""
        return self.state.ended if isinstance(self.state, JobState) else self.ended_at is not None


class JobList(View):
    """Jobs, newest first. `before` of the next page is the last one's id."""

    jobs: tuple[JobView, ...] = ()


class NumberedEvent(Event):
    """An event with the number the control plane stored it under; `after` of the next page is the last one's seq."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int


class EventPage(View):
    """Events of a job in the order stored, oldest first."""

    events: tuple[NumberedEvent, ...] = ()


class LedgerPage(View):
    """Ledger rows of a job, by step."""

    rows: tuple[LedgerRow, ...] = ()


class PackageView(View):
    """A stored code package."""

    # sha256 (hex) of the zip's bytes
    package: str
    bytes: int


class ResizeRequest(BaseModel):
    """How many trainers a job should have from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainers: Annotated[int, Field(ge=1, le=4096)]


class FaultRequest(BaseModel):
    """What is to be done to a job, for real."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind


class CheckpointView(View):
    """A checkpoint that was told to be durable. It may have been removed since: a job keeps the newest few."""

    url: str
    # the step that training goes on with
    step: int | None = None
    at: Moment
    bytes: int | None = None
    # from the snapshot until it was durable
    seconds: float | None = None
    # the longest that a trainer's training thread was held for it
    stall_s: float | None = None
    # why it was made
    reason: str = ""


class CheckpointList(View):
    """Checkpoints of a job, newest first."""

    checkpoints: tuple[CheckpointView, ...] = ()


class AuditAction(StrEnum):
    """What the control plane removed, or could not."""

    JOB_DELETED = "job_deleted"
    # all that lay in the job's own checkpoint place
    CHECKPOINTS_REMOVED = "checkpoints_removed"
    # they were to go, and stay: the detail says why, and where they lie
    CHECKPOINTS_KEPT = "checkpoints_kept"
    # a package that no job refers to
    PACKAGE_REMOVED = "package_removed"
    # one that was recorded and whose file is gone: it can be uploaded again
    PACKAGE_MISSING = "package_missing"
    # a file in the packages' folder that no record tells of
    PACKAGE_STRAY = "package_stray"


class AuditEntry(View):
    """One thing that was removed. It outlives what it is about."""

    n: Annotated[int, Field(ge=1)]
    at: Moment
    # an AuditAction, or one that a newer service knows
    action: str
    # a job's id, or a package's hash
    subject: str
    # the user, or the rule by which it was done
    by: str
    detail: str = ""


class AuditPage(View):
    """Audit entries, oldest first; `after` of the next page is the last one's n."""

    entries: tuple[AuditEntry, ...] = ()


class Claimed(View):
    """What a launcher gets for its claim code."""

    # authorizes this attempt's uplink and commands
    token: str
    spec: RunnableSpec
    # the package's URI in Ray's object store: the trainers' working_dir
    package_uri: str
    # where this job's checkpoints lie, of all its attempts: a folder or an fsspec URL; empty: nowhere
    checkpoints: str = ""
    # every ledger row of a step below this is stored already, from an earlier attempt
    rows_below: int = 0


class CommandPage(View):
    """Commands with n above `after`, oldest first; empty when none came in time."""

    commands: tuple[Command, ...] = ()


class InvalidField(View):
    """One field of a request that cannot be accepted."""

    # where it is: "body.trainers", "query.limit"
    field: str
    message: str


class Problem(View):
    """An error, as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    errors: tuple[InvalidField, ...] = ()


class Health(View):
    """That the service answers, and what it can say of its cluster."""

    status: str = "ok"
    version: str
    # whether the Ray cluster answered when last asked; None: no cluster is configured, or it was not asked yet
    ray: bool | None = None


class Check(View):
    """One of the things that the service needs."""

    # "database", "migrations", "packages", "storage", "cluster"
    name: str
    ok: bool
    # what is wrong with it; empty where nothing is
    detail: str = ""


class Ready(View):
    """That the service can do its work."""

    checks: tuple[Check, ...] = ()


class NotReady(Problem):
    """That it cannot, and why."""

    checks: tuple[Check, ...] = ()
