"""Single transitions of a trainer's machine that are worth reading."""

from __future__ import annotations

from dataclasses import replace

from surefoot_actors.protocol.member.machine import (
    At,
    AtBoundary,
    Close,
    Exchanged,
    Form,
    Gathered,
    LeafMade,
    MemberState,
    Merge,
    Opened,
    Resume,
    Stage,
    Stop,
    Tell,
    VectorCame,
    apply,
    may_restore,
    next_sub_task,
)
from surefoot_actors.protocol.messages import (
    Elected,
    End,
    EndGeneration,
    EnterGeneration,
    Generation,
    Member,
    Parked,
    Report,
    RequestBoundary,
)

PAIR = (Member(trainer="t0", own=0b0011, role="settled"), Member(trainer="t1", own=0b1100, role="settled"))


def generation(number: int, start: int = 0, members: tuple[Member, ...] = PAIR) -> Generation:
    return Generation(number=number, nonce=f"n{number}", start=start, members=members, store=("host", 1))


def enter(number: int, start: int = 0, members: tuple[Member, ...] = PAIR) -> EnterGeneration:
    return EnterGeneration(generation=generation(number, start, members), incarnation=1)


def in_round() -> MemberState:
    """t0 in the first round of generation 1, which has begun nothing."""
    state, _ = apply(MemberState(trainer="t0", num_sub_tasks=4), enter(1))
    state, _ = apply(state, Opened())
    return state


def test_a_founder_goes_on_at_once() -> None:
    state, commands = apply(MemberState(trainer="t0", num_sub_tasks=4), enter(1))
    assert (state.at, state.round) == (At.USER, 0)
    assert commands == (Form(generation(1), (), (), "settled"), Resume())


def test_leaves_then_exchange_then_gather_is_a_committed_round() -> None:
    state = in_round()
    assert next_sub_task(state) == 0
    state, _ = apply(state, LeafMade(0))
    assert next_sub_task(state) == 1
    state, commands = apply(state, LeafMade(1))
    assert commands == (Merge(1, 0, False),)
    state, _ = apply(state, Exchanged(1))
    state, commands = apply(state, Gathered(1, False))
    assert (state.at, state.round, state.retained, commands) == (At.USER, 1, True, (Resume(),))


def test_over_reports_and_closes_in_one_act() -> None:
    state, _ = apply(in_round(), LeafMade(0))
    state, commands = apply(state, EndGeneration(number=2, incarnation=1))
    close, tell = commands
    assert close == Close(1)
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Report)
    assert (tell.message.round, tell.message.held, tell.message.own) == (0, 0b01, 0b11)
    assert apply(state, Gathered(1, False)) == (state, ())


def test_a_computed_sub_task_survives_the_generation() -> None:
    state, _ = apply(in_round(), LeafMade(0))
    state, _ = apply(state, EndGeneration(number=2, incarnation=1))
    assert next_sub_task(state) == 1  # it goes on with what it owns
    state, _ = apply(state, LeafMade(1))
    alone = (Member(trainer="t0", own=0b1111, role="settled"),)
    state, commands = apply(state, enter(2, members=alone))
    assert Resume() in commands
    assert next_sub_task(state) == 2


def test_a_promise_is_kept() -> None:
    state, _ = apply(in_round(), EndGeneration(number=3, incarnation=2))
    for late in (
        enter(2),
        EndGeneration(number=2, incarnation=2),
        EndGeneration(number=4, incarnation=1),
        End(incarnation=1, reason=""),
    ):
        assert apply(state, late) == (state, ())


def test_what_is_told_twice_counts_once() -> None:
    state, _ = apply(in_round(), EndGeneration(number=2, incarnation=1))
    state, _ = apply(state, enter(2))
    assert apply(state, enter(2)) == (state, ())
    assert apply(state, EndGeneration(number=2, incarnation=1)) == (state, ())


def test_who_is_behind_commits_by_the_vector_it_missed() -> None:
    state = replace(in_round(), held=0b11, stage=Stage.GATHER)
    state, _ = apply(state, EndGeneration(number=2, incarnation=1))
    ahead = (
        Member(trainer="t1", own=0b0011, role="settled"),
        Member(trainer="t0", own=0b1100, role="behind", source=0),
    )
    state, commands = apply(state, enter(2, start=1, members=ahead))
    assert next_sub_task(state) is None
    assert commands[-1] == Form(generation(2, 1, ahead), (), (), "behind")
    state, commands = apply(state, VectorCame(2))
    assert (state.at, state.round, commands) == (At.USER, 1, (Resume(),))


def test_a_joiner_has_no_state_till_it_has_come() -> None:
    members = (PAIR[0], replace(PAIR[1], role="joining"))
    state, commands = apply(MemberState(trainer="t1", num_sub_tasks=4), enter(1, members=members))
    assert (state.at, state.round) == (At.START, -1)
    assert commands == (Form(generation(1, members=members), (), (), "joining"),)


def committed(state: MemberState) -> MemberState:
    for event in (LeafMade(0), LeafMade(1), Exchanged(state.number), Gathered(state.number, False)):
        state, _ = apply(state, event)
    return state


def test_a_flag_ends_the_generation_at_the_boundary_after_the_next_exchange() -> None:
    state, _ = apply(committed(in_round()), RequestBoundary(number=1, incarnation=1))
    state, commands = apply(state, AtBoundary())
    assert commands == (Resume(),)  # it came too late for the round that is over
    state, _ = apply(state, Opened())
    state = committed(state)
    state, commands = apply(state, AtBoundary())
    assert commands == (Tell(Parked(trainer="t0", generation=1, round=2)),)
    assert state.at is At.BOUNDARY


def test_a_flag_may_come_before_its_generation() -> None:
    state, _ = apply(in_round(), EndGeneration(number=2, incarnation=1))
    state, _ = apply(state, RequestBoundary(number=2, incarnation=1))
    state, _ = apply(state, enter(2))
    state, _ = apply(state, LeafMade(0))
    _, commands = apply(state, LeafMade(1))
    assert commands == (Merge(2, 0, True),)


def test_conclude_is_for_whoever_has_come_to_the_end() -> None:
    state = in_round()
    assert apply(state, Elected(incarnation=1)) == (state, ())
    state, commands = apply(replace(state, at=At.END), Elected(incarnation=1))
    assert (state.at, commands) == (At.CONCLUDED, (Resume(),))
    assert apply(state, Elected(incarnation=1)) == (state, ())


def test_who_was_elected_says_so_when_asked() -> None:
    state = replace(in_round(), at=At.END)
    for at in (At.END, At.CONCLUDED):
        _, commands = apply(replace(state, at=at), EndGeneration(number=2, incarnation=1))
        assert isinstance(commands[1], Tell)
        assert isinstance(commands[1].message, Report)
        assert (commands[1].message.finished, commands[1].message.concluded) == (True, at is At.CONCLUDED)


def test_a_founder_goes_on_from_what_it_restored() -> None:
    alone = (Member(trainer="t0", own=0b1111, role="settled"),)
    state, commands = apply(MemberState(trainer="t0", num_sub_tasks=4), enter(1, start=7, members=alone))
    assert (state.at, state.round, state.retained, commands[-1]) == (At.USER, 7, False, Resume())


def test_after_end_nothing_counts() -> None:
    state, commands = apply(in_round(), End(incarnation=1, reason="drained"))
    assert commands == (Close(1), Stop("drained"))
    assert apply(state, enter(2)) == (state, ())


def test_who_was_cut_short_as_a_joiner_may_read_a_checkpoint_and_who_has_state_may_not() -> None:
    joiner = (Member(trainer="t1", own=0b1100, role="settled"), Member(trainer="t0", own=0b0011, role="joining"))
    fresh = MemberState(trainer="t0", num_sub_tasks=4)
    assert may_restore(fresh)
    joining, _ = apply(fresh, enter(1, 0, joiner))
    assert not may_restore(joining), "a transfer that counts is under way"
    cut_short, _ = apply(joining, EndGeneration(number=2, incarnation=1))
    assert may_restore(cut_short)
    assert not may_restore(apply(cut_short, End(incarnation=1, reason=""))[0])
    founder, _ = apply(fresh, enter(1))
    assert not may_restore(founder)
    assert not may_restore(apply(founder, EndGeneration(number=2, incarnation=1))[0]), "it holds the run's state"
