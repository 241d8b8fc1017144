"""A trainer's part in the protocol of generations, as a pure state machine: `apply(state, event) -> (state, commands)`.

Three parties feed it: the supervisor (messages), the training thread (where it has come to), and the data plane (what came of a
command). The shell (`trainer/trainer.py`) calls `step` under one lock, the commit lock, so that reporting, promising and closing the
generation to commits are one act (R1).

Where the training thread is (`At`):

    START ──admitted──▶ USER ◀──────committed───── ROUND
                         │ ▲  ──opens a round──────▶
                         │ └──resumed── BOUNDARY ◀─┐
                         ├──────comes round────────┘
                         └──after the last step──▶ END ──elected──▶ CONCLUDED

Within a round (`Stage`): COMPUTE ─▶ EXCHANGE ─▶ GATHER ─▶ committed; BEHIND waits for the merged vector it missed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from surefoot_actors.protocol.member.state import (
    At,
    AtBoundary,
    AtEnd,
    Close,
    Command,
    Event,
    Exchanged,
    Form,
    Gathered,
    LeafMade,
    MemberState,
    Merge,
    Opened,
    Outcome,
    OwnGroupFailed,
    Resume,
    Stage,
    StateCame,
    StateServed,
    Stop,
    Tell,
    VectorCame,
)
from surefoot_actors.protocol.messages import (
    Done,
    Elected,
    End,
    EndGeneration,
    EnterGeneration,
    Generation,
    GroupFailed,
    Parked,
    Report,
    RequestBoundary,
)
from surefoot_actors.protocol.spans import owned

__all__ = [
    "At",
    "AtBoundary",
    "AtEnd",
    "Close",
    "Command",
    "Event",
    "Exchanged",
    "Form",
    "Gathered",
    "LeafMade",
    "MemberState",
    "Merge",
    "Opened",
    "OwnGroupFailed",
    "Resume",
    "Stage",
    "StateCame",
    "StateServed",
    "Stop",
    "Tell",
    "VectorCame",
    "apply",
    "may_restore",
    "next_sub_task",
]


def apply(state: MemberState, event: Event) -> Outcome:
    """Apply one event."""
    if state.stopped:
        return state, ()
    match event:
        case EndGeneration() | EnterGeneration() | RequestBoundary() | Elected() | End():
            return _message(state, event)
        case Opened() | LeafMade() | AtBoundary() | AtEnd():
            return _thread(state, event)
        case Exchanged() | Gathered() | VectorCame() | StateCame() | StateServed() | OwnGroupFailed():
            return _data_plane(state, event) if counts(state, event.generation) else (state, ())
        case _:
            assert_never(event)


def next_sub_task(state: MemberState) -> int | None:
    """Return the lowest sub-task that is owned and not computed, in a round that is being computed."""
    todo = state.own & ~state.held
    if state.at is not At.ROUND or state.stage is not Stage.COMPUTE or not todo:
        return None
    return (todo & -todo).bit_length() - 1


# ---- the rules, one function each, so that a test can take one away


def refuses(state: MemberState, number: int, incarnation: int) -> bool:
    """R2: whoever has reported refuses lower numbers and older incarnations."""
    return incarnation < state.incarnation or number < state.promised


def already_in(state: MemberState, number: int) -> bool:
    """R2: an accepted "enter" counts at once, even if queued: a repeated "over" for it is ignored."""
    return number <= max(state.number, state.pending.number if state.pending else 0)


def counts(state: MemberState, generation: int) -> bool:
    """R1: after the report nothing of that generation's group counts."""
    return state.live and state.number == generation


def latch(state: MemberState) -> bool:
    """R7: the flag is read once an exchange, when it is sent."""
    return state.latched or state.wanted == state.number


def leaves(state: MemberState) -> bool:
    """R7: only a latched flag counts, so that all members leave at the same step."""
    return state.at is At.BOUNDARY and state.latched


def retains(state: MemberState, reached: Stage) -> bool:
    """R6: the merged vector is kept until the next exchange has shown that every member has committed that round."""
    return state.retained and reached is not Stage.GATHER


def can_serve(state: MemberState) -> bool:
    """R5: state comes only from trainers parked with the optimizer applied."""
    return state.at is not At.USER


def may_restore(state: MemberState) -> bool:
    """Only who has no state of the run, and no part in a generation that counts, reads a checkpoint over what it holds.

    A joiner that was cut short is such a one too: what it may have received of a state is overwritten in whole.
    """
    return state.at is At.START and state.round < 0 and not state.live and not state.stopped


# ---- messages


def _message(state: MemberState, message: EndGeneration | EnterGeneration | RequestBoundary | Elected | End) -> Outcome:
    match message:
        case EndGeneration():
            return _over(state, message)
        case EnterGeneration():
            return _accept(state, message)
        case RequestBoundary():
            if message.incarnation < state.incarnation:
                return state, ()
            return replace(state, wanted=max(state.wanted, message.number)), ()
        case Elected():
            if state.at is not At.END or message.incarnation < state.incarnation:
                return state, ()
            return replace(state, at=At.CONCLUDED), (Resume(),)
        case End():
            if message.incarnation < state.incarnation:
                return state, ()
            stopped = replace(state, stopped=True, live=False, incarnation=message.incarnation)
            return stopped, (Close(state.number), Stop(message.reason))
        case _:
            assert_never(message)


def _over(state: MemberState, over: EndGeneration) -> Outcome:
    if refuses(state, over.number, over.incarnation) or already_in(state, over.number):
        return state, ()
    report = Report(
        trainer=state.trainer,
        number=over.number,
        incarnation=over.incarnation,
        generation=state.number if state.round >= 0 else 0,
        round=state.round,
        retained=state.retained,
        held=state.held if state.at is At.ROUND else 0,
        own=state.own if state.at is At.ROUND and state.stage is not Stage.BEHIND else 0,
        parked=state.settled,
        finished=state.at in (At.END, At.CONCLUDED),
        concluded=state.at is At.CONCLUDED,
    )
    parked = replace(state, incarnation=over.incarnation, promised=over.number, live=False, pending=None, serving=False)
    return parked, (Close(state.number), Tell(report))


def _accept(state: MemberState, enter: EnterGeneration) -> Outcome:
    generation = enter.generation
    if already_in(state, generation.number) or refuses(state, generation.number, enter.incarnation):
        return state, ()
    state = replace(state, incarnation=enter.incarnation, promised=generation.number)
    if not can_serve(state):
        return replace(state, pending=generation, live=False), (Close(state.number),)
    return _enter(state, generation)


def _enter(state: MemberState, generation: Generation) -> Outcome:
    """Become a member. The group is formed and the roles are played by the data plane, while a sub-task may still be computing."""
    old = state.number
    state = replace(state, generation=generation, pending=None, live=True, latched=False)
    role = generation.members[state.rank].role
    joiners = tuple(k for k, m in enumerate(generation.members) if m.role == "joining")
    behind = tuple(k for k, m in enumerate(generation.members) if m.role == "behind" and m.source == state.rank)
    form = Form(generation, behind, joiners if role == "settled" else (), role)
    commands: tuple[Command, ...] = (Close(old), form) if old else (form,)
    if role == "joining":
        return replace(state, round=-1), commands
    if role == "behind":
        assert state.round == generation.start - 1, "a member more than one round behind"
        return replace(state, stage=Stage.BEHIND), commands
    if state.at is At.START:  # the founder: its own state is the run's, or the one that it has restored
        state = replace(state, round=generation.start)
    assert state.round == generation.start, "a settled member at another round"
    state, more = _go_on(replace(state, serving=bool(joiners)))
    return state, commands + more


def _go_on(state: MemberState) -> Outcome:
    """Continue in a live generation, from wherever the training thread is."""
    if state.serving:
        return state, ()
    match state.at:
        case At.START | At.BOUNDARY:
            return replace(state, at=At.USER), (Resume(),)
        case At.ROUND:
            return _compute(state)
        case At.END | At.CONCLUDED:
            return state, (_done(state),)
        case At.USER:
            return state, ()
        case _:
            assert_never(state.at)


def _done(state: MemberState) -> Tell:
    assert state.final is not None
    steps, digest = state.final
    return Tell(Done(trainer=state.trainer, generation=state.number, steps=steps, digest=digest))


def _compute(state: MemberState) -> Outcome:
    """Own the round's sub-tasks in this generation; merge when they are all there."""
    assert state.generation is not None
    own = owned(state.generation, state.rank, state.round, state.num_sub_tasks)
    assert not state.held & ~own, "a held leaf was given to another member"
    return _merge_if_all(replace(state, own=own, stage=Stage.COMPUTE))


def _merge_if_all(state: MemberState) -> Outcome:
    if not state.live or state.own & ~state.held:
        # woken, since there may be more to compute
        return state, (Resume(),) if state.live else ()
    state = _reach(replace(state, latched=latch(state)), Stage.EXCHANGE)
    return state, (Merge(state.number, state.round, state.latched),)


def _reach(state: MemberState, stage: Stage) -> MemberState:
    return replace(state, stage=stage, retained=retains(state, stage))


# ---- the training thread


def _thread(state: MemberState, event: Opened | LeafMade | AtBoundary | AtEnd) -> Outcome:
    match event:
        case Opened():
            assert state.at is At.USER
            return _arrive(replace(state, at=At.ROUND, stage=Stage.COMPUTE, own=0, held=0))
        case LeafMade(sub_task=v):
            if state.at is not At.ROUND or not state.own >> v & 1:
                return state, ()
            state = replace(state, held=state.held | 1 << v)
            return _merge_if_all(state) if state.stage is Stage.COMPUTE else (state, ())
        case AtBoundary():
            assert state.at is At.USER
            return _arrive(replace(state, at=At.BOUNDARY))
        case AtEnd(steps=steps, digest=digest):
            assert state.at is At.USER
            return _arrive(replace(state, at=At.END, final=(steps, digest)))
        case _:
            assert_never(event)


def _arrive(state: MemberState) -> Outcome:
    """The training thread has come to a place where it may be held."""
    if state.pending:
        return _enter(state, state.pending)
    if not state.live:
        return state, ()
    if leaves(state):
        return state, (Tell(Parked(trainer=state.trainer, generation=state.number, round=state.round)),)
    return _go_on(state)


# ---- the data plane


def _data_plane(
    state: MemberState, event: Exchanged | Gathered | VectorCame | StateCame | StateServed | OwnGroupFailed
) -> Outcome:
    match event:
        case Exchanged():
            return _reach(state, Stage.GATHER), ()
        case Gathered(flag=flag):
            return _commit(replace(state, latched=state.latched or flag))
        case VectorCame():
            return _commit(state)
        case StateCame(retained=retained):
            assert state.generation is not None
            start = state.generation.start
            return _go_on(replace(state, round=start, retained=retained))
        case StateServed():
            return _go_on(replace(state, serving=False))
        case OwnGroupFailed(reason=reason):
            return state, (Tell(GroupFailed(trainer=state.trainer, generation=state.number, reason=reason)),)
        case _:
            assert_never(event)


def _commit(state: MemberState) -> Outcome:
    """The merged vector is whole: the round is committed here. Retained as a private copy for those behind (R6)."""
    assert state.at is At.ROUND
    return replace(state, at=At.USER, round=state.round + 1, own=0, held=0, retained=True), (Resume(),)
