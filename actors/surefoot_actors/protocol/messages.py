"""What supervisor and trainers tell each other. Every message is idempotent: it may be lost and told again, doubled, or late.

Sub-task sets are bitmasks (bit v: sub-task v). `round` counts every merge since the start of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from surefoot_actors.protocol.data_told import DataTold
from surefoot_actors.protocol.notices import NoticeTaken, Warned

__all__ = [
    "DataTold",
    "Done",
    "Elected",
    "End",
    "EndGeneration",
    "Ended",
    "EnterGeneration",
    "FromTrainer",
    "Generation",
    "GiveSecrets",
    "GroupFailed",
    "Hello",
    "Member",
    "NotRestored",
    "NoticeGiven",
    "NoticeTaken",
    "OnceAsked",
    "OnceDone",
    "OnceTold",
    "Parked",
    "Raised",
    "Report",
    "RequestBoundary",
    "Restore",
    "Restored",
    "Returned",
    "Save",
    "Saved",
    "Snapshot",
    "ToTrainer",
    "Warned",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trainer's place in a generation."""

    trainer: str
    # sub-tasks it owns of the generation's first round; from the next round on, its span
    own: int
    # "settled": at the start round. "behind": one round back, gets the merged vector from `source`.
    # "joining": has no state, gets it in stripes from every settled member.
    role: Literal["settled", "behind", "joining"]
    # rank of the member that gives a "behind" one the vector it missed; None otherwise
    source: int | None = None
    # whether an earlier round has shown that it computes what the others do (cross_checks.py)
    checked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A numbered membership. Only the supervisor makes one."""

    number: int
    # names the process group together with the number, so that a number reused by mistake meets nobody (R3)
    nonce: str
    # round the generation starts with
    start: int
    # in rank order
    members: tuple[Member, ...]
    # where the members meet: the address that rank 0 listens on (engine/group/rendezvous.py)
    store: tuple[str, int]


# ---- supervisor to trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class EndGeneration:
    """The generation is over; report, promising to refuse numbers below `number` and older incarnations (R2)."""

    number: int
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterGeneration:
    """A new generation, of which the receiver is a member."""

    generation: Generation
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBoundary:
    """End generation `number` at the next step boundary: a planned change."""

    number: int
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Elected:
    """The receiver is elected to run the code after the loop."""

    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Leave and end: drained, not needed, or the run is complete. `reason` is for the log."""

    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Read this checkpoint and overwrite the tracked state. Always answered, by Restored or NotRestored, unless the trainer is lost."""

    url: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Have every member save its share at the next step boundary: a bit in the next exchange, at whose step all of them do."""

    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """The receiver is parked: save this share of its state as it is. Answered by Saved. Told again, it is answered again."""

    incarnation: int
    share: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceTold:
    """The answer to OnceAsked: it is done, or (`done` false) the receiver is to do it. Told again, it is the same, or done meanwhile."""

    incarnation: int
    key: str
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveSecrets:
    """The secrets that the user's code is to find in its environment: variable -> value. It waits for them."""

    values: Mapping[str, str] = field(repr=False)


ToTrainer = (
    EndGeneration
    | EnterGeneration
    | RequestBoundary
    | Elected
    | End
    | Restore
    | Snapshot
    | Save
    | OnceTold
    | GiveSecrets
    | NoticeTaken
)

# ---- trainer to supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The train function has reached `steps()`: this trainer can be a member."""

    trainer: str
    # where members can meet if this trainer is rank 0: it listens there (engine/group/rendezvous.py)
    store: tuple[str, int]
    # what must be equal on every trainer, as sorted (name, value) pairs
    fingerprint: tuple[tuple[str, str], ...]
    pid: int
    node: str
    # what the train function asked of `steps()`; None while that depends on how many samples an epoch has
    num_steps: int | None
    # of which kind its node is, for people and for the costs: (name, value) pairs
    node_kind: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """This trainer has come to know how many steps the run has."""

    trainer: str
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer to EndGeneration. Taken in one act with the closing of the generation to commits (R1)."""

    trainer: str
    number: int
    incarnation: int
    # number of the generation this trainer was last a member of; 0: none, it has no state
    generation: int
    # the round it is at: every earlier one is committed here
    round: int
    # whether it holds the merged vector of round - 1
    retained: bool
    # leaves of `round` it holds, folded or not
    held: int
    # what it owned of `round` and may be computing right now
    own: int
    # parked in steps() at a step boundary, optimizer applied: it can give state to joiners (R5)
    parked: bool
    # parked after the last step
    finished: bool
    # mean seconds a sub-task takes here; 0 when unknown
    sub_task_s: float = 0.0
    # where members can meet if this trainer is rank 0: it listens there (engine/group/rendezvous.py)
    store: tuple[str, int] = ("", 0)
    # the step that `round` is part of, and how many there are, for people
    step: int = 0
    num_steps: int | None = None
    # as in Hello: a restarted supervisor has heard none
    fingerprint: tuple[tuple[str, str], ...] | None = None
    # elected: it has gone on past the last step, and what it holds may be the run's state no more
    concluded: bool = False
    # whether a round has shown that it computes what the others do
    checked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """Parked at a step boundary because a flag was latched in this generation's exchange (R7)."""

    trainer: str
    generation: int
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Parked after the last step; `digest` (hex) is of the whole tracked state."""

    trainer: str
    generation: int
    steps: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The elected trainer's train function returned: the run is complete."""

    trainer: str
    # what a person should know of it
    warning: str = ""
    # what ended training before its last step, if anything did
    ended_early: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The user's code raised. The membership machine decides whose fault that is (raising.py)."""

    trainer: str
    kind: str
    message: str
    traceback: str
    # the round it was at, -1: not a member yet; the sub-task that it was computing, -1: none
    round: int = -1
    sub_task: int = -1
    # "file.py:12", the innermost of the user's own lines; empty: none is known
    line: str = ""
    # one alone is believed, where nobody has come past this: what was raised is a word on what all are given
    alone: bool = False
    # it breaks the contract, or the states differ: whoever ran this would raise it
    fatal: bool = False
    # the last events of this trainer's machine, a line each, where the fault is Surefoot's own
    story: tuple[str, ...] = ()
    # it is wrong on this node: never the job's fault, however many say so
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFailed:
    """This member's group of `generation` failed, though nobody has told that it is over: a peer is lost, or its connection."""

    trainer: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """After End: the user's code has unwound, and the process may be killed without harm."""

    trainer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """This trainer's tracked state is the checkpoint's: it can found a generation that starts with `round`, in `step`."""

    trainer: str
    url: str
    round: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRestored:
    """The checkpoint was not restored; the tracked state is untouched.

    "damaged": a file is corrupt; an older checkpoint may be whole. "missing": a file is not there, at least not for this trainer: the
    supervisor looks for itself before it believes it. "refused": it is of another model, seed or number of
    sub-tasks; that is the user's to mend. "unfit": this trainer has another fingerprint than the run. "late": it holds a state of the
    run, or takes part in a generation, so far as it knows.
    """

    trainer: str
    url: str
    cause: Literal["damaged", "missing", "refused", "unfit", "late"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A share of the state at a step boundary is durable, or (`error`) could not be written."""

    trainer: str
    # of the snapshot: the generation, the round and step that training goes on with
    generation: int
    round: int
    step: int
    share: int
    of: int
    # JSON of the manifest's entry for this share (checkpoint/manifest.py); empty with an error
    entry: str = ""
    error: str = ""
    # unix time of the copy, and how long the training thread was held for it
    taken_at: float = 0.0
    stall_s: float = 0.0
    # the answer to Save, not a share of a snapshot that was taken while training went on
    parked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeGiven:
    """This trainer was given notice (SIGTERM, a drained node): it wants to leave at a step boundary, and be replaced."""

    trainer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceAsked:
    """This trainer waits, before its steps, for what one trainer of the job is to do. Answered by OnceTold, at last."""

    trainer: str
    # names the call, the same on every trainer
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceDone:
    """This trainer has done what it was told to by OnceTold."""

    trainer: str
    key: str


FromTrainer = (
    Hello
    | Length
    | Report
    | Parked
    | Done
    | Returned
    | Raised
    | GroupFailed
    | Ended
    | Restored
    | NotRestored
    | Saved
    | NoticeGiven
    | OnceAsked
    | OnceDone
    | Warned
    | DataTold
)
