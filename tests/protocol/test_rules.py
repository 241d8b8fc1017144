"""Each rule of DESIGN section 4 is needed: take it away, and exploration finds how a run then goes wrong.

That all is well with the rules, in larger worlds than these, is in test_exhaustive.py.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from surefoot.spec import JobState
from surefoot_actors.protocol.member import machine as member
from surefoot_actors.protocol.member.machine import At, MemberState, Stage
from surefoot_actors.protocol.membership import completion, deadlines, formation, generation, raising, regrouping
from surefoot_actors.protocol.membership import machine as membership
from surefoot_actors.protocol.membership.common import end
from surefoot_actors.protocol.membership.machine import MembershipState, Phase, Record
from surefoot_actors.protocol.messages import Raised

from . import supervisors, trainers
from .explore import explore
from .world import Bounds, Violation


def count_after_the_report(state: MemberState, generation: int) -> bool:
    return state.number == generation


def tell_before_it_is_durable(state: MembershipState, reason: str) -> membership.Outcome:
    state = replace(state, phase=Phase.RESERVING, reports={}, left=frozenset(), done={}, flagged=False)
    return regrouping.reserved(state, state.number + 1, f"n{state.number + 1}")


def record_last(*args: Any, **kwargs: Any) -> membership.Outcome:
    state, commands = _enact(*args, **kwargs)
    return state, tuple(sorted(commands, key=lambda command: isinstance(command, Record)))


_enact = generation.enact


def always(*_: Any) -> bool:
    return True


def never(*_: Any) -> bool:
    return False


def nobody(*_: Any) -> frozenset[str]:
    return frozenset()


def whoever_has_not_reported(state: MembershipState) -> tuple[str, ...]:
    return tuple(t for t in state.members if state.phase is Phase.COLLECTING and t not in state.reports)


def forget_when_sending(state: MemberState, reached: Stage) -> bool:
    return state.retained and reached is Stage.COMPUTE


def leave_when_wanted(state: MemberState) -> bool:
    return state.at is At.BOUNDARY and (state.latched or state.wanted == state.number)


def all_at_once(state: MembershipState, stateful: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(t for t in stateful if t in state.leaving)


def learn_nothing(state: MembershipState, *_: Any) -> MembershipState:
    return state


def end_paused(state: MembershipState) -> membership.Outcome:
    return end(state, JobState.PAUSED, "")


def believe_one(state: MembershipState, message: Raised) -> raising.Verdict:
    return raising.Verdict(fails=message, reason="")


def key_by_generation(step: int, generation: int) -> Any:
    return (step, generation)


class Case(NamedTuple):
    """A rule's place in the code, what takes it away, and a world small enough to show what then happens."""

    where: ModuleType
    name: str
    instead: Any
    bounds: Bounds
    found: str


CASES = {
    "R1 report and closing are one act": Case(
        member, "counts", count_after_the_report, Bounds(freezes=1, steps=(1,)), "a settled member at another round"
    ),
    "R2 a promise is kept": Case(
        member, "refuses", never, Bounds(supervisor_crashes=2, steps=(1,)), "a held leaf was given to another member"
    ),
    "R2 an accepted generation counts at once": Case(
        member, "already_in", never, Bounds(doubles=1, breaks=1, steps=(1,)), "I4: stuck"
    ),
    "R3 a number is durable before it is told": Case(
        membership, "start_over", tell_before_it_is_durable, Bounds(supervisor_crashes=2, steps=(1,)), "I6: number 2"
    ),
    "R4 only members of the newest generation survive": Case(
        membership, "adopts", always, Bounds(freezes=1, supervisor_crashes=1), "a held leaf was given to another member"
    ),
    "R4 a generation is recorded before it is told": Case(
        regrouping, "enact", record_last, Bounds(freezes=1, supervisor_crashes=1), "a held leaf was given to another"
    ),
    "R5 state comes from parked trainers": Case(
        regrouping, "gives_state", always, Bounds(crashes=1, spares=1), "I7: t2 takes stripes"
    ),
    "R5 part of a state founds no run": Case(
        formation, "cut_short", nobody, Bounds(trainers=1, spares=2, resizes=(2,), crashes=1), "I7: t1 founds the run"
    ),
    "R5 a checkpoint's state begins nothing anew": Case(
        formation,
        "may_begin_anew",
        always,
        Bounds(
            trainers=2,
            min_trainers=2,
            spares=1,
            crashes=1,
            damages=1,
            stored=(1,),
            steps=(1,),
            founded=False,
        ),
        "I8: t0 goes on at round 0 with the state of round 1",
    ),
    "R6 the vector is kept for those behind": Case(
        member, "retains", forget_when_sending, Bounds(breaks=1), "nobody holds the merged vector"
    ),
    "R7 the flag is latched": Case(member, "leaves", leave_when_wanted, Bounds(resizes=(1,)), "I4: stuck"),
    "R7 a leaver holds nothing": Case(
        regrouping, "may_leave", always, Bounds(resizes=(1,), breaks=1), "I5: t0 computes (0, 1) of round 0; t1"
    ),
    "R7 the last one with the state does not leave": Case(
        regrouping, "leavers", all_at_once, Bounds(trainers=1, notices=1, spares=1), "I7: t1 joins at 1, and nobody"
    ),
    "what has gone on past the end is not saved": Case(
        regrouping,
        "_learned",
        learn_nothing,
        Bounds(supervisor_crashes=1, saves=True, steps=(1,)),
        "I9: saved while members are at",
    ),
    "a pause saves first": Case(completion, "save", end_paused, Bounds(pauses=1), "I9: paused though t0 holds round 1"),
    "R8 the end is recorded before it is told": Case(
        supervisors, "FINISH", ["end", "record"], Bounds(trainers=1, supervisor_crashes=1, steps=(1,)), "begins again"
    ),
    "R9 the last one is not given up": Case(
        regrouping, "may_decide", always, Bounds(freezes=2, steps=(1,)), "I4: the run is given up though t0 lives"
    ),
    "the silent are waited for no longer than for some time": Case(
        deadlines, "silent", nobody, Bounds(freezes=2, steps=(1,)), "I4: stuck"
    ),
    "R9 nobody is given up whom nobody suspects": Case(
        deadlines,
        "silent",
        whoever_has_not_reported,
        Bounds(freezes=1, steps=(1,)),
        "is given up though nobody suspects it",
    ),
    "who is enough to begin waits for the rest no longer than for some time": Case(
        deadlines, "_waits_for_the_rest", never, Bounds(trainers=2, crashes=1, founded=False), "I4: stuck"
    ),
    "what one alone raises is its loss": Case(
        raising, "judge", believe_one, Bounds(raises=1, steps=(1,)), "I10: the run failed by what one trainer raised"
    ),
    "R10 the ledger is keyed by step": Case(
        trainers, "row_key", key_by_generation, Bounds(crashes=1, steps=(1,)), "R10: step 0 has two rows"
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_without_the_rule_a_run_goes_wrong(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.where, case.name, case.instead)
    with pytest.raises(Violation) as violation:
        explore(case.bounds)
    print(violation.value)
    assert case.found in str(violation.value).splitlines()[0]
