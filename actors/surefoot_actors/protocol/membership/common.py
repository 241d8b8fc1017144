"""What the moves of the membership machine are made of: one after the other, the end of a generation, the end of the attempt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.membership.commands import Command, Emit, Finish, Move, Outcome, Reserve
from surefoot_actors.protocol.membership.state import MembershipState, Phase
from surefoot_actors.protocol.messages import Generation

__all__ = ["end", "fail", "left", "less", "lost", "names", "number", "start_over", "then", "warn"]


def then(state: MembershipState, *moves: Move) -> Outcome:
    """Make moves one after the other, till one ends the attempt."""
    commands: tuple[Command, ...] = ()
    for move in moves:
        if state.ended:
            break
        state, more = move(state)
        commands += more
    return state, commands


def start_over(state: MembershipState, reason: str) -> Outcome:
    """End the generation: first the next number is made durable (R3)."""
    state = replace(state, phase=Phase.RESERVING, reports={}, left=frozenset(), done={}, flagged=False, reason=reason)
    return state, (Reserve(),)


def end(state: MembershipState, outcome: JobState, reason: str) -> Outcome:
    return replace(state, phase=Phase.ENDED, reason=reason), (Finish(outcome, reason),)


def fail(state: MembershipState, trainer: str, reason: str) -> Outcome:
    """Fail the job for what would happen again and again."""
    state, commands = end(state, JobState.FAILED, reason)
    return state, (Emit(EventKind.FAILED, {"reason": reason, "traceback": "", "trainer": trainer}), *commands)


# ---- events for people


def lost(trainer: str, reason: str, traceback: str = "", story: tuple[str, ...] = ()) -> Emit:
    more: dict[str, JsonValue] = {"traceback": traceback} if traceback else {}
    return Emit(EventKind.TRAINER_LOST, {"trainer": trainer, "reason": reason, **more, **told(story)})


def told(story: tuple[str, ...]) -> dict[str, JsonValue]:
    """What an event says of a fault of Surefoot's own."""
    return {"story": list(story)} if story else {}


def left(trainer: str, step: int, reason: str) -> Emit:
    return Emit(EventKind.TRAINER_LEFT, {"trainer": trainer, "step": step, "reason": reason})


def warn(message: str) -> Emit:
    return Emit(EventKind.WARNING, {"message": message})


# ---- names and numbers


def number(state: MembershipState) -> int:
    return state.generation.number if state.generation else 0


def names(generation: Generation | None) -> tuple[str, ...]:
    return tuple(m.trainer for m in generation.members) if generation else ()


def less(trainers: tuple[str, ...], gone: Collection[str]) -> tuple[str, ...]:
    return tuple(t for t in trainers if t not in gone)
