"""What the control plane answers, and the few bodies it takes: shared by service, SDK and the supervisor's uplink.

`GET /v1/jobs/{id}/stream` is a Server-Sent Events stream of three kinds of message, each kind in its order:
`event: event` carries a NumberedEvent, `event: row` a LedgerRow, `event: job` a JobView (on opening, and whenever
state, trainers or generation change). Every message's id is a cursor: sent back as Last-Event-ID, the stream goes on
after it. When the job has ended and all of its events and rows are sent, a last `event: job` follows and the stream
ends.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from surefoot._compat import StrEnum
from surefoot.events import Command, Event, FaultKind, LedgerRow
from surefoot.moments import Moment
from surefoot.names import JOB_PATTERN
from surefoot.node_groups import NodeGroup
from surefoot.output import DEFAULT_MAX_OUTPUT_BYTES
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
    "CloneRequest",
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

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class JobView(View):
    """A job as it is now."""

    id: str
    """The name that the service gave the job."""
    spec: AnySpec
    """What was submitted, with the trainers that are wanted now; as far as this version can read it."""
    state: Annotated[JobState | UnknownWord, Field(union_mode="left_to_right")]
    """Where the job is in its life. A state that only a newer service knows is its bare name; `ended_at` says what to make of it."""
    reason: str = ""
    """Why it is in this state, in a sentence; empty when there is nothing to say."""
    created_at: Moment
    """When it was submitted."""
    started_at: Moment | None = None
    """When it first left the queue."""
    ended_at: Moment | None = None
    """When it came to its end; null while it has not."""
    trainers: int = 0
    """Live members of the present generation; 0 before the first and after the end."""
    wanted_trainers: int
    """How many trainers a resize, or the spec, asks for."""
    generation: int = 0
    """The number of the present generation; 0 before the first."""
    steps_done: int = 0
    """Ledger rows that are stored without a gap."""
    num_steps: int | None = None
    """How many steps the run has; null until the train function has asked for steps."""
    digest: str | None = None
    """The hash of the final tracked state, once the job has succeeded."""
    traceback: str | None = None
    """Of the user's code, where that is what failed."""
    attempt: str | None = None
    """The newest attempt's name, if there is one."""
    attempts: int = 0
    """How many attempts there were."""
    checkpoint: str | None = None
    """The URL of the newest durable checkpoint."""
    checkpoint_step: int | None = None
    """The step that training would go on with from it."""
    model: str | None = None
    """Where the final model lies, once it is saved."""
    unreadable: str = ""
    """What of the stored job this version of the service cannot read, a sentence; empty: it can read all."""

    @property
    def ended(self) -> bool:
        """Whether the job has come to its end. In a state that is not known here it has, if there is a time of its end."""
        return self.state.ended if isinstance(self.state, JobState) else self.ended_at is not None


class JobList(View):
    """Jobs, newest first. `before` of the next page is the last one's id."""

    jobs: tuple[JobView, ...] = ()
    """The jobs of this page."""


class NumberedEvent(Event):
    """An event with the number the control plane stored it under; `after` of the next page is the last one's seq."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    seq: int
    """Counts the events of all jobs in the order stored; a job's own have gaps between them."""


class EventPage(View):
    """Events of a job in the order stored, oldest first."""

    events: tuple[NumberedEvent, ...] = ()
    """The events of this page."""


class LedgerPage(View):
    """Ledger rows of a job, by step."""

    rows: tuple[LedgerRow, ...] = ()
    """The rows of this page."""


class PackageView(View):
    """A stored code package."""

    package: str
    """The SHA-256, in hex, of the zip's bytes: its name."""
    bytes: int
    """The size of the zip."""


class ResizeRequest(BaseModel):
    """How many trainers a job should have from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trainers: Annotated[int, Field(ge=1, le=4096)]
    """The number wanted, between the spec's `min_trainers` and `max_trainers`; any other is refused."""


class CloneRequest(BaseModel):
    """Another job again, with something changed: of the same package, unless that is changed too."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    from_: Annotated[str, Field(alias="from", pattern=JOB_PATTERN)]
    """The job's id."""
    changes: Annotated[dict[str, JsonValue], Field(max_length=100)] = Field(default_factory=dict)
    """Fields of its spec with other values. What is given of config, env, secrets, resources and checkpoint goes over what there is,
    name by name; all else replaces it."""


class FaultRequest(BaseModel):
    """What is to be done to a job, for real."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: FaultKind
    """The fault."""
    leave: Annotated[int, Field(ge=0, le=4096)] = 1
    """How many trainers that hold the run's state it leaves alive at the least: it is not done, and a warning says so, where fewer would
    be left. 0: it may end the last, and the job goes on from its newest checkpoint, or from step 0."""


class CheckpointView(View):
    """A checkpoint that was told to be durable. It may have been removed since: a job keeps the newest few."""

    url: str
    """Where it lies: a folder or an fsspec URL."""
    step: int | None = None
    """The step that training goes on with when it is restored."""
    at: Moment
    """When it was told to be durable."""
    bytes: int | None = None
    """The size of all its files."""
    seconds: float | None = None
    """Seconds from the snapshot until it was durable."""
    stall_s: float | None = None
    """The longest, in seconds, that a trainer's training thread was held for it."""
    reason: str = ""
    """Why it was made."""


class CheckpointList(View):
    """Checkpoints of a job, newest first."""

    checkpoints: tuple[CheckpointView, ...] = ()
    """The checkpoints, as many as were asked for at most."""


class AuditAction(StrEnum):
    """What the control plane removed, or could not; and what was done with secrets."""

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
    SECRET_SET = "secret_set"
    # it has another value
    SECRET_ROTATED = "secret_rotated"
    SECRET_REMOVED = "secret_removed"
    # an attempt was given its value, for its trainers
    SECRET_HANDED = "secret_handed"
    # all secrets were encrypted anew
    SECRETS_KEY_ROTATED = "secrets_key_rotated"


class AuditEntry(View):
    """One thing that was removed, or done with a secret. It outlives what it is about."""

    n: Annotated[int, Field(ge=1)]
    """Counts the entries, from 1."""
    at: Moment
    """When it was done."""
    action: str
    """What was done, one of: job_deleted, checkpoints_removed, checkpoints_kept (they were to go, and could not), package_removed
    (no job referred to it), package_missing (its file was gone) and package_stray (a file that no record tells of); of secrets
    secret_set, secret_rotated, secret_removed, secret_handed (to an attempt) and secrets_key_rotated. A newer service may know others."""
    subject: str
    """A job's id, a package's hash, or a secret's name."""
    by: str
    """The user, the rule by which it was done, or the attempt that was handed a secret."""
    detail: str = ""
    """Why, and where what stayed lies; empty where there is nothing to say."""


class AuditPage(View):
    """Audit entries, oldest first; `after` of the next page is the last one's n."""

    entries: tuple[AuditEntry, ...] = ()
    """The entries of this page."""


class Claimed(View):
    """What a launcher gets for its claim code."""

    token: str
    """Authorizes this attempt's uplink and commands."""
    spec: RunnableSpec
    """The job's spec."""
    package_uri: str
    """The package's URI in Ray's object store: the trainers' working directory."""
    checkpoints: str = ""
    """Where this job's checkpoints lie, of all its attempts: a folder or an fsspec URL; empty: nowhere."""
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    """So many bytes of the files in `run.output_dir` are kept of the job."""
    rows_below: int = 0
    """Every ledger row of a step below this is stored already, from an earlier attempt."""
    node_groups: dict[str, NodeGroup] = Field(default_factory=dict)
    """The kinds of nodes that the cluster has or can be given, by name; empty: that is not known."""
    node_wait_s: float = 300.0
    """How long a trainer waits for a node of one of these groups before a dearer one is asked for."""


class CommandPage(View):
    """Commands with n above `after`, oldest first; empty when none came in time."""

    commands: tuple[Command, ...] = ()
    """The commands that the supervisor has not had yet."""


class InvalidField(View):
    """One field of a request that cannot be accepted."""

    field: str
    """Where it is: "body.trainers", "query.limit"."""
    message: str
    """What is wrong with it."""


class Problem(View):
    """An error, as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    """Always "about:blank": the status says what kind of problem it is."""
    title: str
    """The status, in words."""
    status: int
    """The HTTP status."""
    detail: str = ""
    """What happened, and what to do; empty where the title says all."""
    errors: tuple[InvalidField, ...] = ()
    """The fields that cannot be accepted, the first few of them."""


class Health(View):
    """That the service answers, and what it can say of its cluster."""

    status: str = "ok"
    """Always "ok"."""
    version: str
    """The version of surefoot that answers."""
    ray: bool | None = None
    """Whether the Ray cluster answered when last asked; null: no cluster is configured, or it was not asked yet."""


class Check(View):
    """One of the things that the service needs."""

    name: str
    """Which: "database", "migrations", "packages", "storage" or "cluster"."""
    ok: bool
    """Whether it can be used."""
    detail: str = ""
    """What is wrong with it; empty where nothing is."""


class Ready(View):
    """That the service can do its work."""

    checks: tuple[Check, ...] = ()
    """What was looked at."""


class NotReady(Problem):
    """That it cannot, and why."""

    checks: tuple[Check, ...] = ()
    """What was looked at, what is in order too."""
