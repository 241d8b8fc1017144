"""From what probes and attempts saw to findings: pure.

Causes are tried in an order: each is told by the one thing in which its probe differs from the reference, and what a cause already
explains is not told again. A process that differs from itself explains every other difference. A scenario that raises is told as one
that raises, apart from those that end with other bits; where neither tells the cause, it may be Surefoot's fault as well as the code's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surefoot_actors.check.children import AGAIN, BACKWARDS, HASHES, REFERENCE, VARIED, joined_at, joiners
from surefoot_actors.check.pins import Factor
from surefoot_actors.check.probe import BROKEN, RAISED, Failure, Held, Seen
from surefoot_actors.check.report import Finding, Kind, Scenario

__all__ = ["Difference", "difference", "judge", "notes", "scenarios"]

_MOST_LINES = 4
_UNKNOWN = "; what it is was not seen: it may be in the training code, in a library or in Surefoot"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two trainings part."""

    # -1: before the first step
    step: int
    # a tensor's name, "the logged ...", or "" where only a merge tells
    tensor: str

    def __str__(self) -> str:
        where = f"step {self.step}" if self.step >= 0 else "before the first step"
        return f"{where}: {self.tensor}" if self.tensor else where


def difference(reference: Seen, other: Seen) -> Difference | None:
    """Return the first step, and the first tensor in it, that is not the same; None where all that both have is."""
    steps = sorted((set(other.rows) | set(other.digests)) & (set(reference.rows) | set(reference.digests)))
    for step in steps:
        tensor = _other_tensor(reference.digests.get(step), other.digests.get(step))
        mine, theirs = reference.rows.get(step), other.rows.get(step)
        rows_differ = mine is not None and theirs is not None and mine != theirs
        if tensor is not None or rows_differ:
            return Difference(step, tensor or "the merge or a logged value")
    return None


def _other_tensor(mine: Mapping[str, str] | None, theirs: Mapping[str, str] | None) -> str | None:
    if mine is None or theirs is None:
        return None
    return next((name for name in (*mine, *theirs) if mine.get(name) != theirs.get(name)), None)


def scenarios(seen: Mapping[str, Seen], names: Sequence[str]) -> tuple[Scenario, ...]:
    """Return each scenario's result, the reference being the first of `names`."""
    reference = seen.get(names[0])
    return tuple(_scenario(name, reference, seen.get(name)) for name in names)


def _scenario(name: str, reference: Seen | None, seen: Seen | None) -> Scenario:
    if seen is None or reference is None:
        return Scenario(name=name, same=None, detail="", seconds=0.0)
    if seen.failure is not None:
        detail = seen.failure.message.splitlines()[0][:200] if seen.failure.message else seen.failure.kind
        return Scenario(name=name, same=False, detail=detail, seconds=seen.seconds, fails=True)
    apart = difference(reference, seen)
    return Scenario(name=name, same=apart is None, detail=str(apart or ""), seconds=seen.seconds)


def judge(seen: Mapping[str, Seen]) -> tuple[Finding, ...]:
    """Return what is wrong, and why."""
    reference = seen[REFERENCE]
    if reference.failure is not None:
        return (_failed(reference.failure, seen.get(AGAIN)),)
    found = [
        *_by_own_sources(reference, seen),
        *_by_hash(reference, seen),
    ]
    if not found:
        found += _not_repeatable(reference, seen)
    if not found:
        found += _by_order(reference, seen)
    found += _by_untracked(reference, seen, explained=bool(found))
    found += _by_raising(seen, explained=bool(found))
    return tuple(found or _by_trainers(reference, seen))


def _failed(failure: Failure, again: Seen | None) -> Finding:
    lines = (failure.line,) if failure.line else ()
    if failure.kind == BROKEN:
        return Finding(kind=Kind.BROKEN_RULE, message=failure.message, mend="as the message says", lines=lines)
    told = f"{failure.kind}: {failure.message}\n{failure.traceback}".rstrip()
    if again is not None and again.failure is None:
        return Finding(
            kind=Kind.RAISES_IN_SOME,
            message=f"the first process that ran it failed, and a second one like it did not: {told}",
            mend="look for what the first one left to the second (files it made), and for what is only there at times",
            lines=lines,
        )
    return Finding(
        kind=Kind.RAISES,
        message=f"it fails however it is run, with one trainer and nobody lost: {told}",
        mend=_missing_config(failure)
        or "have the train function run to its end in one process; only then can trainers be compared",
        lines=lines,
    )


def _missing_config(failure: Failure) -> str:
    """Return what to do where the code asks the job's config for what it has not got; "" where it does not."""
    if failure.kind != "KeyError" or "config" not in failure.traceback:
        return ""
    key = failure.message.strip("'\"")
    return f"if {key} is of the job's config, give it as you would to `surefoot submit`: surefoot check ... --set {key}=VALUE"


def _by_raising(seen: Mapping[str, Seen], *, explained: bool) -> list[Finding]:
    """Scenarios in which the code raises although the reference ran through. What attempts raise may have been explained."""
    failures = {
        name: other.failure
        for name, other in seen.items()
        if other.failure is not None
        and (name in _UNLIKE or name in joiners(seen) or other.failure.kind in (RAISED, BROKEN))
    }
    if not failures or (explained and not any(name in _UNLIKE for name in failures)):
        return []
    name, failure = next(iter(failures.items()))
    others = ", ".join(list(failures)[1:])
    broken = failure.kind == BROKEN
    return [
        Finding(
            kind=Kind.BROKEN_RULE if broken else Kind.RAISES_IN_SOME,
            message=f"it trains in one process from its start, and fails in {name!r}{f' (also: {others})' if others else ''}: "
            f"{failure.message}" + ("" if broken else f"\n{failure.traceback}".rstrip()),
            mend=_unlike(name),
            step=max(seen[name].rows, default=-1) + 1 if seen[name].rows else None,
            lines=(failure.line,) if failure.line else (),
        )
    ]


# What a scenario has that the reference does not.
_UNLIKE = {
    AGAIN: "it is a second process like the first: look for what the first one left (files it made), and for what is there only at times",
    HASHES: "only PYTHONHASHSEED is unlike there: look for the order of a set, or hash()",
    VARIED[Factor.ENTROPY]: "only what the operating system's random numbers are is unlike there",
    VARIED[Factor.CLOCK]: "only the time is unlike there, and how fast it passes",
    VARIED[Factor.IDENTITY]: "only pid, thread ids and host name are unlike there",
    BACKWARDS: "only the order of sub-tasks is unlike there, one being computed twice: a sub-task must need nothing that another leaves",
}


def _unlike(name: str) -> str:
    if name in _UNLIKE:
        return _UNLIKE[name]
    if name in joiners([name]):
        return (
            "a trainer that joins runs the code before run.steps() and goes on at that step with the state of what is tracked: make "
            "whatever else the loop needs before the loop, for any step"
        )
    return "look for what the processes share or do not share: files they write, ports, environment variables"


_SOURCES = {
    Factor.ENTROPY: (
        Kind.OWN_RANDOMNESS,
        "the result depends on random numbers that the operating system seeds, other in every process",
        "draw from torch, numpy's global functions or random, which Surefoot seeds for every sub-task, "
        "or seed a generator from run.seed and step.number inside the sub-task",
    ),
    Factor.IDENTITY: (
        Kind.OWN_RANDOMNESS,
        "the result depends on which process or machine computes it: its pid, thread or host name",
        "seed from run.seed, not from the process; Surefoot seeds torch, numpy and random for every sub-task already",
    ),
    Factor.CLOCK: (
        Kind.WALL_CLOCK,
        "the result depends on when, or how fast, it is computed: a clock is read",
        "decide by step.number, step.every(n) or step.merged, which are the same on every trainer and at any time",
    ),
}


def _by_own_sources(reference: Seen, seen: Mapping[str, Seen]) -> list[Finding]:
    found = []
    for factor, name in VARIED.items():
        apart = _apart(reference, seen.get(name))
        if apart is not None:
            kind, message, mend = _SOURCES[factor]
            lines = tuple(reference.calls.get(factor, ())[:_MOST_LINES])
            found.append(
                Finding(kind=kind, message=message, mend=mend, step=apart.step, tensor=apart.tensor, lines=lines)
            )
    return found


def _by_hash(reference: Seen, seen: Mapping[str, Seen]) -> list[Finding]:
    apart = _apart(reference, seen.get(HASHES))
    # A process that differs from itself under the same PYTHONHASHSEED has another cause.
    if apart is None or _apart(reference, seen.get(AGAIN)) is not None:
        return []
    return [
        Finding(
            kind=Kind.HASH_ORDER,
            message="the result depends on PYTHONHASHSEED: on the order of a set, or on hash()",
            mend="sort before iterating, as in `for name in sorted(names)`, or keep a list or a dict, whose order is that of insertion",
            step=apart.step,
            tensor=apart.tensor,
            lines=tuple(reference.set_lines[:_MOST_LINES]),
        )
    ]


def _not_repeatable(reference: Seen, seen: Mapping[str, Seen]) -> list[Finding]:
    apart = _apart(reference, seen.get(AGAIN))
    if apart is None:
        return []
    return [
        Finding(
            kind=Kind.NOT_REPEATABLE,
            message="the same steps in a second process make other bits, though clocks, entropy and PYTHONHASHSEED are the same: "
            "threads that race, an order by memory address (a set of objects, id()), or files that change, in the training code, in a "
            "library or in Surefoot",
            mend="make the train function repeatable in one process first: compute in one thread, iterate over lists",
            step=apart.step,
            tensor=apart.tensor,
            lines=tuple(reference.set_lines[:_MOST_LINES]),
        )
    ]


def _by_order(reference: Seen, seen: Mapping[str, Seen]) -> list[Finding]:
    apart = _apart(reference, seen.get(BACKWARDS))
    if apart is None:
        return []
    held = reference.within_steps
    return [
        Finding(
            kind=Kind.PROCESS_STATE,
            message=f"a sub-task's result depends on what this process computed before it{_carried(held) or _UNKNOWN}",
            mend="compute it from step.number and the batch, or draw it from torch, numpy or random, which Surefoot seeds for "
            "every sub-task; gather over a step with step.log and read step.merged after the loop",
            step=apart.step,
            tensor=apart.tensor,
            lines=_lines(held),
        )
    ]


def _by_untracked(reference: Seen, seen: Mapping[str, Seen], *, explained: bool) -> list[Finding]:
    late = next(((n, found) for n in joiners(seen) if (found := _apart(reference, seen[n])) is not None), None)
    apart = late[1] if late else None
    if reference.untracked:
        names = ", ".join(f"{held.name} ({held.kind})" for held in reference.untracked[:_MOST_LINES])
        mend = ", ".join(f"{held.name.rpartition('.')[2]}={held.name}" for held in reference.untracked[:_MOST_LINES])
        return [
            Finding(
                kind=Kind.UNTRACKED_STATE,
                message=f"training changes {names}, which run.track() was not given: a trainer that joins begins with a fresh one",
                mend=f"run.track(..., {mend})",
                step=apart.step if apart else None,
                tensor=apart.tensor if apart else "",
                lines=_lines(reference.untracked),
            )
        ]
    if late is None or explained:
        return []
    held = reference.between_steps
    return [
        Finding(
            kind=Kind.UNTRACKED_STATE,
            message=f"a trainer that joins at step {joined_at(late[0])} makes other bits: something is carried from step to step "
            f"that run.track() was not given{_carried(held) or _UNKNOWN}",
            mend="compute it from step.number, or keep it in an object with state_dict and load_state_dict and track that",
            step=late[1].step,
            tensor=late[1].tensor,
            lines=_lines(held),
        )
    ]


def _by_trainers(reference: Seen, seen: Mapping[str, Seen]) -> list[Finding]:
    for name, other in seen.items():
        apart = None if other.failure else _apart(reference, other)
        if apart is None and other.failure is None:
            continue
        what = f"it fails: {other.failure.message}" if other.failure else "it makes other bits than one trainer alone"
        return [
            Finding(
                kind=Kind.TRAINER_DEPENDENCE,
                message=f"{name}: {what}, and no probe tells why: the training code or Surefoot"
                + (f"\n{other.failure.traceback}".rstrip() if other.failure else ""),
                mend=f"{_unlike(name)}. If there is nothing of the kind, it is Surefoot's fault: please report it",
                step=apart.step if apart else None,
                tensor=apart.tensor if apart else "",
            )
        ]
    return []


def notes(reference: Seen) -> tuple[str, ...]:
    """Return what is worth a look: values carried on that made no difference, and what was not reached in these few steps."""
    carried = {held.name: held for held in (*reference.within_steps, *reference.between_steps) if held.line}
    found = [
        f"{held.name} ({held.line}) is carried on and not tracked: a trainer that joins begins with a fresh one. It made no difference here"
        for held in list(carried.values())[:_MOST_LINES]
    ]
    if 0 < (made := len(reference.rows)) < reference.epoch_steps:
        found.append(
            f"{made} steps were tried, and an epoch has {reference.epoch_steps}: what changes at its end was not seen; "
            f"try it with --steps {reference.epoch_steps + 1}"
        )
    return tuple(found)


def _apart(reference: Seen, other: Seen | None) -> Difference | None:
    """Where bits differ; None for a scenario that failed, which is told as that."""
    return None if other is None or other.failure is not None else difference(reference, other)


def _carried(held: Sequence[Held]) -> str:
    names = ", ".join(f"`{h.name}`" for h in held[:_MOST_LINES])
    return f"; what changes meanwhile: {names}" if names else ""


def _lines(held: Sequence[Held]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(h.line for h in held if h.line))[:_MOST_LINES]
