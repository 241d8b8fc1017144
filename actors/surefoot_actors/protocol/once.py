"""What only one trainer of the job does (`run.once`), as a pure state machine: `apply(state, event) -> (state, commands)`.

A trainer asks, before its steps, and waits for a word: "run" is given to one trainer at a time, and to another only when the one before
is gone for certain; "done" to all others, and to whoever asks later. Every message may come twice or late. A trainer that waits is no
member yet: a restarted supervisor ends it, and so keeps nothing of who waited, but what is done, and who may still be at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from surefoot_actors.protocol.messages import OnceAsked, OnceDone

__all__ = ["Command", "Gone", "Keep", "Kept", "OnceState", "Tell", "apply"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What outlives a supervisor."""

    done: frozenset[str] = frozenset()
    # by key: the trainer that was told to run it and has not said that it is done
    running: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceState:
    kept: Kept = field(default_factory=Kept)
    # by key: who asked, and has no answer yet, first come first
    waiting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """The trainer's process has ended, as certainly as can be known: what it was at may be begun anew."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Make this durable before what follows is told."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Tell:
    trainer: str
    key: str
    # it is done; False: do it
    done: bool


Event = OnceAsked | OnceDone | Gone
Command = Keep | Tell
Outcome = tuple[OnceState, tuple[Command, ...]]


def apply(state: OnceState, event: Event) -> Outcome:
    """Apply one event."""
    match event:
        case OnceAsked(trainer=trainer, key=key):
            return _asked(state, trainer, key)
        case OnceDone(trainer=trainer, key=key):
            return _done(state, trainer, key)
        case Gone(trainer=trainer):
            return _gone(state, trainer)
        case _:
            assert_never(event)


def _asked(state: OnceState, trainer: str, key: str) -> Outcome:
    runner = state.kept.running.get(key)
    if key in state.kept.done:
        return state, (Tell(trainer, key, True),)
    if runner == trainer:
        return state, (Tell(trainer, key, False),)
    if runner is None:
        return _run(state, trainer, key)
    waiting = state.waiting.get(key, ())
    return state if trainer in waiting else _with_waiting(state, key, (*waiting, trainer)), ()


def _run(state: OnceState, trainer: str, key: str) -> Outcome:
    kept = replace(state.kept, running={**state.kept.running, key: trainer})
    return replace(state, kept=kept), (Keep(kept), Tell(trainer, key, False))


def _done(state: OnceState, trainer: str, key: str) -> Outcome:
    if state.kept.running.get(key) != trainer:
        return state, ()  # told before, or by one that is out
    kept = Kept(done=state.kept.done | {key}, running=_without(state.kept.running, key))
    told = tuple(Tell(t, key, True) for t in state.waiting.get(key, ()))
    return replace(state, kept=kept, waiting=_without(state.waiting, key)), (Keep(kept), *told)


def _gone(state: OnceState, trainer: str) -> Outcome:
    """Have the next one do what it was at."""
    for key, others in state.waiting.items():
        state = _with_waiting(state, key, tuple(t for t in others if t != trainer))
    commands: tuple[Command, ...] = ()
    for key in [k for k, runner in state.kept.running.items() if runner == trainer]:
        kept = replace(state.kept, running=_without(state.kept.running, key))
        state = replace(state, kept=kept)
        waiting = state.waiting.get(key, ())
        more: tuple[Command, ...] = (Keep(kept),)
        if waiting:
            state, more = _run(_with_waiting(state, key, waiting[1:]), waiting[0], key)
        commands += more
    return state, commands


def _with_waiting(state: OnceState, key: str, waiting: tuple[str, ...]) -> OnceState:
    return replace(state, waiting={**state.waiting, key: waiting} if waiting else _without(state.waiting, key))


def _without(mapping: Mapping[str, T], key: str) -> dict[str, T]:
    return {k: value for k, value in mapping.items() if k != key}
