"""When a job has made no progress for too long, judged purely: it knows no clock but the `now` it is given.

What is waited for has a name, a token that changes with every progress, and a time that it may take. It is told when that is over, again
after twice as long, and so on, and once more when it goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

from surefoot_actors.protocol.membership.machine import MembershipState, Phase

__all__ = ["FEWEST_S", "START_S", "Awaited", "GoesOn", "StallWatch", "Stalled", "allowed_s", "awaited"]

# Before the first step, and wherever nothing is known of how long it takes: imports, data and compilation may take their time.
START_S = 300.0
# A step may take so many times the median of those before, and so many times the longest (evaluation is part of a step), but is not
# told of before so long.
MEDIANS, LONGEST, FEWEST_S = 20.0, 3.0, 30.0
# It is told again at least so often.
MOST_PAUSE_S = 3600.0
THE_JOB = "the job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """Something that is bound to happen."""

    # changes with every progress
    token: Hashable
    allowed_s: float
    # what happens at present, for people; and the trainers that it is up to
    what: str
    trainers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    name: str
    seconds: float
    awaited: Awaited


@dataclass(frozen=True, slots=True, kw_only=True)
class GoesOn:
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Wait:
    token: Hashable
    since: float
    # when it is to be told next
    due: float
    told: bool = False


class StallWatch:
    """To be asked every second or so."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    def look(self, now: float, expected: Mapping[str, Awaited]) -> list[Stalled | GoesOn]:
        """Return what is to be told."""
        told: list[Stalled | GoesOn] = []
        self._waits = {name: wait for name, wait in self._waits.items() if name in expected}
        for name, awaited_ in expected.items():
            wait = self._waits.get(name)
            if wait is None or wait.token != awaited_.token:
                if wait is not None and wait.told:
                    told.append(GoesOn(name=name, seconds=now - wait.since))
                self._waits[name] = _Wait(awaited_.token, now, now + awaited_.allowed_s)
            elif now >= wait.due:
                seconds = now - wait.since
                told.append(Stalled(name=name, seconds=seconds, awaited=awaited_))
                self._waits[name] = replace(wait, due=now + min(seconds, MOST_PAUSE_S), told=True)
        return told


def allowed_s(seconds: Iterable[float]) -> float:
    """Return how long a step may take, after steps that took these seconds."""
    known = tuple(seconds)
    if not known:
        return START_S
    return max(FEWEST_S, MEDIANS * statistics.median(known), LONGEST * max(known))


def awaited(
    state: MembershipState,
    newest_row: int | None,
    seconds: Iterable[float],
    running: Iterable[str],
    *,
    copies: int = 0,
    copying: Collection[str] = (),
) -> dict[str, Awaited]:
    """Return what is awaited, by name. `running`: trainers whose processes run.

    `copies` changes as data is copied, by the trainers `copying`: what others of their nodes wait for.
    """
    expected = {
        t: Awaited(
            token=(t, copies),
            allowed_s=START_S,
            what=f"{t} {'copies data' if t in copying else 'runs the code'} before run.steps() and has not come to it",
            trainers=(t,),
        )
        for t in state.starting
        if t in set(running)
    }
    job = _of_the_job(state, newest_row, tuple(seconds))
    return {**expected, THE_JOB: job} if job is not None else expected


def _of_the_job(state: MembershipState, newest_row: int | None, seconds: tuple[float, ...]) -> Awaited | None:
    token = (state.phase, state.number, newest_row, len(state.done), len(state.reports))
    what, trainers, allowed = "", state.members, START_S
    match state.phase:
        case Phase.RUNNING:
            after = "the first step" if newest_row is None else f"the step after step {newest_row}"
            what, allowed = f"{after} has not ended", allowed_s(seconds)
        case Phase.CONCLUDING:
            what = f"{state.elected} runs the code after the loop"
            trainers = (state.elected,) if state.elected else ()
        case Phase.RESTORING:
            what, trainers = f"{state.restorer} reads the checkpoint {state.restoring}", ()
        case Phase.SAVING:
            what, trainers = "the parked state is being saved", ()
        case Phase.RESERVING:
            what, trainers = "the next generation's number is being recorded", ()
        case Phase.COLLECTING:
            what = "members have not reported where they are"
            trainers = tuple(t for t in state.members if t not in state.reports)
        case Phase.FORMING | Phase.ENDED:
            return None  # it is up to trainers that start, or to the cluster's room, which is told elsewhere
    return Awaited(token=token, allowed_s=allowed, what=what, trainers=trainers)
