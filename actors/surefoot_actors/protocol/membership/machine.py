"""The supervisor's part in the protocol of generations, as a pure state machine: `apply(state, event) -> (state, commands)`.

                ┌──────not whole: an older one──────┐
                ▼                                   │
    FORMING ──enough are ready──▶ RESTORING ──────▶ ┴ ──it has been read──┐
       ▲  └──enough are ready, there is no checkpoint──────────────┐      │
       │                                                           ▼      ▼
       │                                   ┌──────────────────▶ RESERVING ──number is durable──▶ COLLECTING
       │                 a member lost, suspected; a group failed; │                              │      │
       │                 all have left                       the first generation   all live members     │
       │                                   │                       ▼                    reported │       │
       │                                   └──────────────────── RUNNING ◀───────────────────────┘       │
       └───────────────── everyone with state was lost ──────────────│───────────────────────────────────┘
                                                                     ├──all done──▶ SAVING ──saved──▶ CONCLUDING
                                                                     └──to be paused, all have left──▶ SAVING

    CONCLUDING ──the elected one returned──▶ ENDED (succeeded);   SAVING ──saved, to be paused──▶ ENDED (paused)
    SAVING, CONCLUDING ──a member suspected, or none left──▶ RESERVING;   any ──user error, cancel, hopeless──▶ ENDED

Here is what feeds it; what it does is in modules of their own: `formation` (the first generation, restoring), `regrouping` (from one
generation to the next, in `generation`), `completion` (the end, a pause), `losses` and `failures`, `scaling` (how many there should be),
`deadlines` (what is waited for, and how long: the machine commands timers, and is told when one has fired).
Decisions are values with a reason, told as events. Nothing here knows Ray, clocks or the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from pydantic import JsonValue

from surefoot.events import SUPERVISOR_RESTARTED, EventKind
from surefoot.names import trainer_number
from surefoot.spec import JobState
from surefoot_actors.protocol.membership import completion, deadlines, failures, formation, losses, raising, regrouping
from surefoot_actors.protocol.membership.commands import (
    BeginFrom,
    CancelStart,
    CancelTimer,
    Command,
    Emit,
    Finish,
    Kill,
    Outcome,
    Record,
    Reserve,
    SaveState,
    Send,
    SetTimer,
    StartTrainer,
)
from surefoot_actors.protocol.membership.common import end, fail, less, start_over, then
from surefoot_actors.protocol.membership.events import (
    Cancelled,
    CheckpointsFound,
    Committed,
    Event,
    Lost,
    MessageReceived,
    PauseRequested,
    Reserved,
    Resized,
    RestoreSourceMissing,
    RowRecorded,
    Started,
    StateSaved,
    Survivors,
    Suspected,
    SuspicionCleared,
    TimerFired,
)
from surefoot_actors.protocol.membership.scaling import fill, flag_if_wanted, trim
from surefoot_actors.protocol.membership.state import MembershipState, Phase, Timer
from surefoot_actors.protocol.messages import (
    DataTold,
    Done,
    Ended,
    FromTrainer,
    Generation,
    GroupFailed,
    Hello,
    Length,
    Member,
    NoticeGiven,
    NotRestored,
    OnceAsked,
    OnceDone,
    Parked,
    Raised,
    Report,
    Restored,
    Returned,
    Saved,
    Warned,
)

__all__ = [
    "BeginFrom",
    "CancelStart",
    "CancelTimer",
    "Cancelled",
    "CheckpointsFound",
    "Command",
    "Committed",
    "Emit",
    "Event",
    "Finish",
    "Kill",
    "Lost",
    "MembershipState",
    "MessageReceived",
    "Outcome",
    "PauseRequested",
    "Phase",
    "Record",
    "Reserve",
    "Reserved",
    "Resized",
    "RestoreSourceMissing",
    "RowRecorded",
    "SaveState",
    "Send",
    "SetTimer",
    "StartTrainer",
    "Started",
    "StateSaved",
    "Survivors",
    "Suspected",
    "SuspicionCleared",
    "Timer",
    "TimerFired",
    "apply",
    "begin",
    "resume",
]


def begin(state: MembershipState) -> Outcome:
    """Start a new attempt: ask for the trainers."""
    return fill(state)


def resume(state: MembershipState, found: Survivors) -> Outcome:
    """Take over from a supervisor that is gone (R4): members of the newest generation survive, anyone else is ended."""
    if found.finished:
        finish = Finish(found.finished, "finished before this supervisor started")
        return replace(state, phase=Phase.ENDED), (finish,)
    strangers = tuple(t for t in found.trainers if not adopts(found, t))
    reason = "not a member of the newest generation"
    # all are told: until then they count among those that are there, and cost
    missing = (t for t in found.waiting if t not in (*found.trainers, *found.members))
    left = {
        **dict.fromkeys(missing, "it was gone when the supervisor was restarted"),
        **dict.fromkeys(strangers, reason),
    }
    gone = tuple(Emit(EventKind.TRAINER_LEFT, {"trainer": t, "reason": why}) for t, why in left.items())
    kills: tuple[Command, ...] = (*gone, *(Kill(t, reason) for t in strangers))
    seen = (trainer_number(t) + 1 for t in (*found.trainers, *found.members))
    state = replace(state, num_started=max(found.num_started, *seen, 0), number=found.number)
    if not found.members:
        state, more = begin(state)
        return state, kills + more
    survivors = tuple(dict.fromkeys((*found.members, *(t for t in found.trainers if adopts(found, t)))))
    members = tuple(Member(trainer=t, own=0, role="settled") for t in survivors)
    # nobody reads of it more than who its members are; where it started is not known here
    generation = Generation(number=found.number, nonce="", start=-1, members=members, store=("", 0))
    lost = frozenset(found.members) - frozenset(found.trainers)
    state, more = start_over(replace(state, generation=generation, lost=lost), SUPERVISOR_RESTARTED)
    told = tuple(
        Emit(EventKind.TRAINER_LOST, {"trainer": t, "reason": "it died while no supervisor lived"})
        for t in sorted(lost)
    )
    return state, kills + told + more


def adopts(found: Survivors, trainer: str) -> bool:
    """R4: survivors are only members of the newest generation."""
    return trainer in found.members


def apply(state: MembershipState, event: Event) -> Outcome:
    """Apply one event; an attempt that has ended heeds none."""
    return then(state, lambda s: _applied(s, event), deadlines.keep_timers)


def _applied(state: MembershipState, event: Event) -> Outcome:
    match event:
        case MessageReceived(message=message):
            return _received(state, message)
        case Lost():
            return losses.lost(state, event)
        case Suspected(trainer=trainer, reason=reason):
            return losses.suspected(state, trainer, reason)
        case SuspicionCleared(trainer=trainer):
            return losses.suspicion_cleared(state, trainer)
        case Reserved(number=number, nonce=nonce):
            return regrouping.reserved(state, number, nonce)
        case Resized(target=target):
            return then(replace(state, target=target), trim, fill, formation.form_if_enough, flag_if_wanted)
        case Cancelled(reason=reason):
            return end(state, JobState.CANCELLED, reason)
        case TimerFired(timer=timer):
            return deadlines.fired(state, timer)
        case Committed(url=url):
            return failures.committed(state, url), ()
        case CheckpointsFound():
            return formation.checkpoints_found(state, event)
        case RestoreSourceMissing(reason=reason):
            return formation.source_missing(state, reason)
        case RowRecorded(step=newest):
            return failures.row_recorded(state, newest), ()
        case PauseRequested():
            return completion.pause_requested(state)
        case StateSaved(error=error):
            return completion.state_saved(state, error)
        case Started(trainer=trainer):
            # one that was told to have left meanwhile is not told to have started after that
            started = Emit(EventKind.TRAINER_STARTED, {"trainer": trainer})
            return state, (started,) if trainer in state.starting else ()
        case _:
            assert_never(event)


def _received(state: MembershipState, message: FromTrainer) -> Outcome:
    match message:
        case Hello():
            return _hello(state, message)
        case Length(num_steps=num_steps):
            if num_steps == state.num_steps:
                return state, ()
            return replace(state, num_steps=num_steps), (Emit(EventKind.LENGTH, {"num_steps": num_steps}),)
        case Report():
            return regrouping.reported(state, message)
        case Parked():
            return completion.parked(state, message)
        case Done():
            return completion.done(state, message)
        case Returned():
            return completion.returned(state, message)
        case Raised():
            return raising.raised(state, message)
        case GroupFailed(trainer=trainer, generation=number, reason=reason):
            return losses.group_failed(state, trainer, number, reason)
        case Restored():
            return formation.restored(state, message)
        case NotRestored():
            return formation.not_restored(state, message)
        case NoticeGiven(trainer=trainer, reason=reason):
            return losses.noticed(state, trainer, reason)
        case Ended() | Saved() | OnceAsked() | OnceDone() | DataTold() | Warned():
            return state, ()
        case _:
            assert_never(message)


# ---- a trainer is ready


def _hello(state: MembershipState, hello: Hello) -> Outcome:
    trainer = hello.trainer
    if trainer not in state.starting:
        return state, ()
    state = replace(state, starting=less(state.starting, (trainer,)))
    if None not in (state.num_steps, hello.num_steps) and hello.num_steps != state.num_steps:
        return fail(state, trainer, _OTHER_STEPS.format(trainer, hello.num_steps, state.num_steps))
    refused = _differs(state, hello)
    if refused:
        event = Emit(EventKind.TRAINER_REFUSED, {"trainer": trainer, "reason": refused})
        state = failures.count(state, (trainer,))
        state, more = then(state, lambda s: failures.give_up_if_hopeless(s, f"{trainer} was refused: {refused}"), fill)
        return state, (event, Kill(trainer, refused), *more)
    state = replace(
        state,
        ready=(*state.ready, trainer),
        stores={**state.stores, trainer: hello.store},
        fingerprint=hello.fingerprint,
        num_stillborn=0,
        num_steps=state.num_steps if hello.num_steps is None else hello.num_steps,
    )
    data: dict[str, JsonValue] = {"trainer": trainer, "pid": hello.pid, "node": hello.node}
    ready = Emit(EventKind.TRAINER_READY, {**data, **dict(hello.node_kind)})
    state, more = then(state, formation.form_if_enough, flag_if_wanted)
    return state, (ready, *more)


def _differs(state: MembershipState, hello: Hello) -> str:
    if state.fingerprint is None or hello.fingerprint == state.fingerprint:
        return ""
    ours, theirs = dict(state.fingerprint), dict(hello.fingerprint)
    differing = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    return "another fingerprint: " + "; ".join(
        f"{k} is {theirs.get(k)!r}, the run's {ours.get(k)!r}" for k in differing
    )


_OTHER_STEPS = (
    "ContractError: {} asks for run.steps({}) where the others ask for run.steps({}): the number of steps must be the same on every "
    "trainer; take it from run.config"
)
