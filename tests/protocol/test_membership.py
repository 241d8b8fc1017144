"""Single transitions of the supervisor's machine that are worth reading, and those that exploration once found wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_actors.protocol.death_cause import DeathCause
from surefoot_actors.protocol.membership.machine import (
    BeginFrom,
    Cancelled,
    CancelStart,
    CancelTimer,
    CheckpointsFound,
    Committed,
    Emit,
    Finish,
    Kill,
    Lost,
    MembershipState,
    MessageReceived,
    Outcome,
    PauseRequested,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    RowRecorded,
    SaveState,
    Send,
    SetTimer,
    Started,
    StartTrainer,
    StateSaved,
    Survivors,
    Suspected,
    SuspicionCleared,
    apply,
    begin,
    resume,
)
from surefoot_actors.protocol.messages import (
    Done,
    Elected,
    End,
    EndGeneration,
    Generation,
    Hello,
    NoticeGiven,
    NotRestored,
    Parked,
    Raised,
    Report,
    RequestBoundary,
    Restore,
    Restored,
    Returned,
)


def after(state: MembershipState, *events: Any) -> Outcome:
    """Apply events, answering Reserve as the shell does. Return the last state and what the last event gave rise to, timers aside."""
    commands: tuple[Any, ...] = ()
    for event in events:
        state, commands = apply(state, event)
        if Reserve() in commands:
            state, more = apply(state, Reserved(state.number + 1, f"n{state.number + 1}"))
            commands += more
    return state, tuple(c for c in commands if not isinstance(c, Emit | SetTimer | CancelTimer))


def hello(trainer: str, fingerprint: str = "a", num_steps: int = 9) -> MessageReceived:
    return MessageReceived(
        Hello(
            trainer=trainer,
            store=(trainer, 1),
            fingerprint=(("torch", fingerprint),),
            pid=1,
            node="node",
            num_steps=num_steps,
        )
    )


def report(trainer: str, state: MembershipState, **said: Any) -> MessageReceived:
    usual: dict[str, Any] = {"round": 3, "retained": True, "held": 0, "own": 0, "parked": False, "finished": False}
    told: dict[str, Any] = {
        "number": state.number,
        "incarnation": state.incarnation,
        "generation": 1,
        "store": (trainer, 1),
    }
    return MessageReceived(Report(trainer=trainer, **(told | usual | said)))


def founded(target: int = 2) -> MembershipState:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=target, min_trainers=1))
    state, _ = after(state, *(hello(f"t{k}") for k in range(target)))
    return state


def collecting(target: int = 2) -> MembershipState:
    """Generation 2 is to follow; nobody has reported."""
    state, _ = after(founded(target), Suspected("t0", ""), SuspicionCleared("t0"))
    assert state.phase is Phase.COLLECTING
    return state


def made(commands: tuple[Any, ...]) -> Generation:
    return next(c.generation for c in commands if isinstance(c, Record))


def test_the_first_generation_takes_its_state_from_one() -> None:
    state, commands = begin(MembershipState(num_sub_tasks=4, target=2, min_trainers=1))
    assert commands == (StartTrainer("t0"), StartTrainer("t1"))
    _, commands = after(state, hello("t0"), hello("t1"))
    generation = made(commands)
    assert [(m.trainer, m.role, m.own) for m in generation.members] == [
        ("t0", "settled", 0b11),
        ("t1", "joining", 0b1100),
    ]
    assert generation.store == ("t0", 1)


def test_a_generation_is_recorded_before_anyone_is_told() -> None:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=1, min_trainers=1))
    _, commands = after(state, hello("t0"))
    kinds = [type(c) for c in commands]
    assert kinds == [Reserve, Record, Send]


def test_a_lost_trainer_is_replaced_and_its_leaves_are_divided() -> None:
    state, commands = after(founded(), Lost("t1", "killed"))
    assert StartTrainer("t2") in commands
    assert Send("t0", EndGeneration(number=2, incarnation=1)) in commands
    state, commands = after(state, report("t0", state, held=0b01, own=0b11))
    assert [(m.trainer, m.own) for m in made(commands).members] == [("t0", 0b1111)]
    assert state.phase is Phase.RUNNING


def test_who_is_behind_gets_the_vector_from_one_that_holds_it() -> None:
    state = collecting()
    _, commands = after(state, report("t0", state, round=4), report("t1", state, round=3, held=0b1100))
    ahead, behind = made(commands).members
    assert (ahead.trainer, ahead.role) == ("t0", "settled")
    assert (behind.trainer, behind.role, behind.source) == ("t1", "behind", 0)


def test_the_first_stays_the_first_also_when_it_is_behind() -> None:
    """It is elected: the files of the job are in its folder, and nowhere else as new."""
    state = collecting()
    _, commands = after(state, report("t0", state, round=3, held=0b0011), report("t1", state, round=4))
    behind, ahead = made(commands).members
    assert (behind.trainer, behind.role, behind.source) == ("t0", "behind", 1)
    assert (ahead.trainer, ahead.role) == ("t1", "settled")


def test_a_joiner_waits_for_a_step_boundary() -> None:
    state, commands = after(founded(1), Resized(2), hello("t1"))
    assert commands == (Send("t0", RequestBoundary(number=1, incarnation=1)),)
    state, commands = after(state, MessageReceived(Parked(trainer="t0", generation=1, round=3)))
    assert Send("t0", EndGeneration(number=2, incarnation=1)) in commands
    _, commands = after(state, report("t0", state, parked=True))
    assert [(m.trainer, m.role) for m in made(commands).members] == [("t0", "settled"), ("t1", "joining")]


def test_down_again_takes_back_what_was_asked_for() -> None:
    state, commands = after(founded(1), Resized(3))
    assert commands == (StartTrainer("t1"), StartTrainer("t2"))
    _, commands = after(state, hello("t1"), Resized(1))
    assert set(commands) == {CancelStart("t2"), Send("t1", End(incarnation=1, reason="not wanted any more"))}


def gone(commands: tuple[Any, ...]) -> list[Any]:
    """Who is told to be there no more."""
    ends = (EventKind.TRAINER_LOST, EventKind.TRAINER_LEFT, EventKind.TRAINER_REFUSED)
    return [c.data["trainer"] for c in commands if isinstance(c, Emit) and c.kind in ends]


def test_whoever_was_told_to_be_there_is_told_to_be_gone() -> None:
    """What a job has cost is read from it: one that is taken back costs no more."""
    state, _ = after(founded(1), Resized(4), hello("t1"))
    state, commands = apply(state, Started("t2"))
    assert [c.kind for c in commands if isinstance(c, Emit)] == [EventKind.TRAINER_STARTED]
    state, commands = apply(state, Resized(1))
    assert sorted(gone(commands)) == ["t1", "t2", "t3"]
    # it had started when it was taken back, which came to be known later
    assert apply(state, Started("t3"))[1] == ()


def _said(state: MembershipState, what: str, trainer: str, number: int) -> Any:
    """Something that may happen to this trainer, as the generation is now."""
    generation = state.generation.number if state.generation else 1
    match what:
        case "hello":
            return hello(trainer)
        case "parked":
            return MessageReceived(Parked(trainer=trainer, generation=generation, round=3))
        case "report":
            return report(trainer, state, generation=generation, parked=number % 2 == 0)
        case "stateless":
            return report(trainer, state, generation=generation, round=-1, retained=False)
        case "resized":
            return Resized(1 + number)
        case "notice":
            return notice(trainer)
        case "suspected":
            return Suspected(trainer, "silent")
        case "lost":
            return Lost(trainer, "killed")
        case _:
            return Started(trainer)


_WHAT = ("started", "hello", "parked", "report", "stateless", "resized", "notice", "suspected", "lost")


@given(
    target=st.integers(1, 3),
    story=st.lists(st.tuples(st.sampled_from(_WHAT), st.integers(0, 2), st.integers(0, 2)), max_size=40),
)
def test_only_who_is_there_is_told_to_be_there(target: int, story: list[tuple[str, int, int]]) -> None:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=target, min_trainers=1, max_failures=99))
    told: set[str] = set()
    for what, which, number in story:
        there = (*state.members, *state.ready, *state.starting)
        if not there:
            break
        state, commands = apply(state, _said(state, what, there[which % len(there)], number))
        if Reserve() in commands:
            state, more = apply(state, Reserved(state.number + 1, f"n{state.number + 1}"))
            commands += more
        if state.ended:
            break
        began = (EventKind.TRAINER_STARTED, EventKind.TRAINER_READY)
        told |= {str(c.data["trainer"]) for c in commands if isinstance(c, Emit) and c.kind in began}
        told -= set(gone(commands))
        assert told <= {*state.members, *state.ready, *state.starting}


def test_a_drain_waits_till_nobody_is_in_a_round() -> None:
    state = replace(collecting(), target=1)
    in_round = (report("t0", state, parked=True), report("t1", state, held=0b1))
    _, commands = after(state, *in_round)
    assert len(made(commands).members) == 2
    _, commands = after(state, report("t0", state, parked=True), report("t1", state, parked=True))
    assert len(made(commands).members) == 1
    assert Send("t1", End(incarnation=1, reason="drained")) in commands


def test_another_fingerprint_is_refused() -> None:
    state, _ = after(founded(1), Resized(2))
    state, events = apply(state, hello("t1", fingerprint="b"))
    assert any(isinstance(c, Kill) and "'b', the run's 'a'" in c.reason for c in events)
    assert any(isinstance(c, Emit) and c.kind is EventKind.TRAINER_REFUSED for c in events)
    assert "t1" not in state.ready


def test_suspicion_ends_the_waiting_but_not_without_state() -> None:
    state = collecting()
    state, commands = after(state, Suspected("t0", "silent"), Suspected("t1", "silent"))
    assert commands == ()
    state, commands = after(state, report("t1", state))
    assert Kill("t0", "did not report in time") in commands
    assert [m.trainer for m in made(commands).members] == ["t1"]


def test_the_end_is_concluded_by_one() -> None:
    done = [MessageReceived(Done(trainer=t, generation=1, steps=9, digest="d")) for t in ("t0", "t1")]
    state, commands = after(founded(), *done)
    assert commands == (Send("t0", Elected(incarnation=1)),)
    state, commands = after(state, Lost("t0", "killed"))
    assert commands == (Send("t1", Elected(incarnation=1)),)
    _, commands = after(state, MessageReceived(Returned(trainer="t1")))
    assert isinstance(commands[0], Finish)
    assert commands[0].outcome == "succeeded"


def test_other_bytes_at_the_end_fail_the_job() -> None:
    done = [MessageReceived(Done(trainer=t, generation=1, steps=9, digest=t)) for t in ("t0", "t1")]
    _, commands = after(founded(), *done)
    assert isinstance(commands[0], Finish)
    assert commands[0].outcome == "failed"


def raises(trainer: str, **what: Any) -> MessageReceived:
    fields = {"kind": "ValueError", "message": "no", "traceback": f"of {trainer}", "round": 3, "line": "train.py:7"}
    return MessageReceived(Raised(trainer=trainer, **{**fields, **what}))


def failure(commands: tuple[Any, ...]) -> str:
    return next((c.reason for c in commands if isinstance(c, Finish) and c.outcome == "failed"), "")


def test_what_one_raises_is_its_loss_where_others_train() -> None:
    state, commands = after(founded(), raises("t1"))
    assert not failure(commands)
    assert Kill("t1", "its code raised ValueError: no at train.py:7; others hold the same state and go on") in commands
    assert state.members == ("t0",)
    assert StartTrainer("t2", 1.0, ("t1",)) in commands


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        # whatever it is that a sub-task does to those who compute it
        ({"kind": "KeyError", "line": "train.py:8", "sub_task": 2}, {"sub_task": 2}),
        # of sub-tasks of their own
        ({"sub_task": 0}, {"sub_task": 3}),
    ],
)
def test_what_two_raise_fails_the_job_with_what_the_first_raised(first: dict[str, Any], second: dict[str, Any]) -> None:
    state, _ = after(founded(3), raises("t2", message="the first", **first))
    outcome = apply(state, raises("t1", message="the second", **second))
    assert "the first" in failure(outcome[1])
    [failed] = [c for c in outcome[1] if isinstance(c, Emit)]
    assert failed.data["traceback"] == "of t2"


@pytest.mark.parametrize("other", [{"kind": "KeyError"}, {"line": "train.py:9"}, {"round": 4}])
def test_two_that_raise_each_its_own_are_two_losses(other: dict[str, Any]) -> None:
    state, commands = after(founded(3), raises("t2"), raises("t1", **other))
    assert not failure(commands)
    assert state.members == ("t0",)


def test_the_last_that_trains_and_raises_fails_the_job() -> None:
    state, _ = after(founded(2), raises("t1"))
    assert failure(apply(state, raises("t0", kind="KeyError"))[1])
    assert failure(after(founded(1), raises("t0"))[1]) == "ValueError: no"


def test_what_breaks_the_contract_fails_the_job_at_once() -> None:
    assert failure(after(founded(3), raises("t1", kind="ContractError", fatal=True))[1]) == "ContractError: no"


def test_a_replacement_that_raises_is_tried_again_and_again_ever_more_seldom() -> None:
    state, _ = after(founded(2), Lost("t1", "killed"))
    waits = []
    for k in range(2, 9):
        state, commands = after(state, raises(f"t{k}", round=-1))
        [asked] = [c for c in commands if isinstance(c, StartTrainer)]
        waits.append(asked.after_s)
        state = replace(state, failures_in_row=0)  # a step in between
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    state, _ = after(state, hello("t9"))
    assert state.num_stillborn == 0


def test_replacements_that_raise_with_no_step_in_between_fail_the_job_in_the_end_with_the_traceback() -> None:
    state, _ = after(replace(founded(2), max_failures=2), Lost("t1", "killed"))
    state, commands = after(state, raises("t2", round=-1))
    assert not failure(commands)
    _, commands = apply(state, raises("t3", round=-1))
    assert "3 times in a row" in failure(commands)
    assert [c.data["traceback"] for c in commands if isinstance(c, Emit) and c.kind is EventKind.FAILED] == ["of t3"]


def test_what_all_raise_before_their_first_step_fails_the_job_with_the_second_one() -> None:
    fresh = MembershipState(num_sub_tasks=4, target=2, min_trainers=2)
    state, _ = begin(fresh)
    state, commands = after(state, raises("t1", round=-1))
    assert not failure(commands)
    assert failure(apply(state, raises("t0", round=-1))[1]) == "ValueError: no"
    alone, _ = begin(replace(fresh, target=1, min_trainers=1))
    assert failure(apply(alone, raises("t0", round=-1))[1])


def test_trainers_that_only_ever_die_end_the_attempt() -> None:
    state = founded(1)
    commands: tuple[Any, ...] = ()
    for k in range(20):
        state, commands = after(state, Lost(f"t{k}", "killed"))
        if state.ended:
            break
        state, commands = after(state, hello(f"t{k + 1}"))
    assert isinstance(commands[-1], Finish)
    assert commands[-1].outcome == "failed"


# ---- a supervisor after another


def resumed(trainers: tuple[str, ...], members: tuple[str, ...], finished: JobState | None = None) -> Outcome:
    fresh = MembershipState(num_sub_tasks=4, target=2, min_trainers=1, incarnation=2)
    state, commands = resume(fresh, Survivors(trainers, 5, members, finished))
    if Reserve() in commands:
        state, more = apply(state, Reserved(7, "n7"))
        commands += more
    return state, commands


def test_only_members_of_the_newest_generation_survive() -> None:
    state, commands = resumed(("t0", "t3"), ("t0", "t1"))
    assert Kill("t3", "not a member of the newest generation") in commands
    assert sorted(gone(commands)) == ["t1", "t3"]
    assert Send("t0", EndGeneration(number=7, incarnation=2)) in commands
    assert state.members == ("t0",)


def test_a_finished_job_is_not_mourned() -> None:
    state, commands = resumed((), ("t0", "t1"), finished=JobState.SUCCEEDED)
    assert state.ended
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["succeeded"]


# ---- what exploration found


def test_the_elected_ones_answer_counts_for_the_next_supervisor_too() -> None:
    """It was ignored, since this supervisor had elected nobody; the trainer does not return a second time."""
    state, _ = resumed(("t0", "t1"), ("t0", "t1"))
    state, commands = after(state, MessageReceived(Returned(trainer="t0")))
    assert isinstance(commands[0], Finish)


def test_a_supervisor_that_saw_nobody_knows_by_the_number_that_others_came_past_the_first_step() -> None:
    """The first trainer after the loss of supervisor and members raised, and one that trained before was forgotten."""
    state, _ = resumed((), ("t0", "t1"))
    [trainer, *_] = state.starting
    _, commands = after(state, raises(trainer, round=-1, alone=True))
    assert not failure(commands)
    assert any(isinstance(c, Kill) and "others came past this line before" in c.reason for c in commands)


def test_who_reports_and_then_stops_is_not_taken_along() -> None:
    """Its report cleared the suspicion, which nobody tells twice: the next generation waited for it for ever."""
    state = collecting()
    state, _ = after(state, Suspected("t1", "stopped"), report("t1", state))
    _, commands = after(state, report("t0", state))
    assert [m.trainer for m in made(commands).members] == ["t0"]
    assert Kill("t1", "did not report in time") in commands


def test_suspected_ones_are_asked_again_once_one_of_them_is_trusted() -> None:
    """Both had stopped and were taken along, since nobody else had state; one of them stopped for good."""
    state = collecting(3)
    state, _ = after(state, report("t0", state), report("t1", state), Suspected("t0", ""), Suspected("t1", ""))
    state, commands = after(state, Lost("t2", "killed"))
    assert [m.trainer for m in made(commands).members] == ["t0", "t1"]
    state, commands = after(state, SuspicionCleared("t0"))
    assert Send("t0", EndGeneration(number=3, incarnation=1)) in commands


def test_a_suspected_joiner_founds_nothing() -> None:
    """Everyone with state was lost; a joiner that had reported and stopped became a founding member."""
    state = founded(3)
    state, _ = after(state, Lost("t0", "killed"), Suspected("t2", "stopped"))
    state, _ = after(state, report("t2", state, round=-1, retained=False))
    state, commands = after(state, report("t1", state, round=-1, retained=False))
    assert Kill("t2", "did not report in time") in commands
    assert "t2" not in state.ready


def test_a_founder_needs_no_hello_to_this_supervisor() -> None:
    """Its store's address was known only to the supervisor before: a KeyError."""
    state, _ = resumed(("t1",), ("t0", "t1"))
    state = replace(state, target=1, generation=replace(state.generation, start=0)) if state.generation else state
    state, commands = after(state, report("t1", state, round=-1, retained=False))
    assert made(commands).store == ("t1", 1)


def test_part_of_a_lost_state_founds_no_run() -> None:
    """A joiner was cut short at round 3; then the only one with state was lost, and the joiner began from round 0."""
    state, _ = after(founded(1), Resized(2), hello("t1"), MessageReceived(Parked(trainer="t0", generation=1, round=3)))
    state, _ = after(state, report("t0", state, parked=True), Lost("t0", "killed"))
    state, commands = apply(state, report("t1", state, round=-1, retained=False))
    assert Kill("t1", "it may hold part of a state that is lost") in commands
    assert gone(commands) == ["t1"]
    assert state.ready == ()


# ---- from a checkpoint


def restoring(*checkpoints: str, target: int = 1, **said: Any) -> Outcome:
    """All wanted trainers are ready, and there are checkpoints."""
    fresh = MembershipState(num_sub_tasks=4, target=target, min_trainers=target, checkpoints=checkpoints, **said)
    state, _ = begin(fresh)
    return after(state, *(hello(f"t{k}") for k in range(target)))


def test_one_reads_the_newest_checkpoint_and_founds_the_run() -> None:
    state, commands = restoring("c7", "c4", target=2)
    assert (state.phase, commands) == (Phase.RESTORING, (Send("t0", Restore(url="c7", incarnation=1)),))
    state, commands = after(state, MessageReceived(Restored(trainer="t0", url="c7", round=7, step=3)))
    generation = made(commands)
    assert (generation.start, [(m.trainer, m.role) for m in generation.members]) == (
        7,
        [("t0", "settled"), ("t1", "joining")],
    )


def test_what_is_restored_is_told_with_its_step() -> None:
    state, _ = restoring("c7")
    state, _ = apply(state, MessageReceived(Restored(trainer="t0", url="c7", round=7, step=3)))
    _, commands = apply(state, Reserved(1, "n1"))
    told = {c.kind: c.data for c in commands if isinstance(c, Emit)}
    assert told[EventKind.RESTORED] == {"step": 3, "url": "c7", "trainer": "t0"}
    assert told[EventKind.GENERATION]["step"] == 3


def test_a_run_that_begins_from_another_jobs_checkpoint_makes_that_durable_before_anyone_is_told() -> None:
    state, _ = after(restoring(searching=True)[0], CheckpointsFound(("own", "other"), frozenset({"other"})))
    state, _ = after(state, no("own", "damaged"))
    state, _ = apply(state, MessageReceived(Restored(trainer="t0", url="other", round=7, step=3)))
    _, commands = apply(state, Reserved(1, "n1"))
    told: dict[str, JsonValue] = {"step": 3, "url": "other", "trainer": "t0", "first_step": 3}
    assert commands[:2] == (BeginFrom("other", 3), Emit(EventKind.RESTORED, told))
    assert isinstance(commands[2], Record)


def test_a_run_that_goes_on_from_its_own_checkpoint_begins_nowhere_else() -> None:
    state, _ = after(restoring(searching=True)[0], CheckpointsFound(("own", "other"), frozenset({"other"})))
    state, _ = apply(state, MessageReceived(Restored(trainer="t0", url="own", round=7, step=3)))
    _, commands = apply(state, Reserved(1, "n1"))
    assert not [c for c in commands if isinstance(c, BeginFrom)]


def no(url: str, cause: Any) -> MessageReceived:
    return MessageReceived(NotRestored(trainer="t0", url=url, cause=cause, reason="share 0 is cut"))


def test_a_damaged_checkpoint_is_skipped() -> None:
    state, _ = restoring("c7", "c4")
    state, commands = apply(state, no("c7", "damaged"))
    assert commands == (
        Emit(EventKind.CHECKPOINT_SKIPPED, {"url": "c7", "reason": "share 0 is cut"}),
        Send("t0", Restore(url="c4", incarnation=1)),
    )
    assert apply(state, no("c7", "damaged")) == (state, ())  # told twice
    assert apply(state, MessageReceived(Restored(trainer="t0", url="c7", round=7, step=3))) == (state, ())
    _, commands = after(state, no("c4", "damaged"))
    assert made(commands).start == 0


def test_a_run_that_is_to_go_on_from_a_checkpoint_does_not_begin_without() -> None:
    state, _ = restoring("c7", from_checkpoint=True)
    state, commands = after(state, no("c7", "damaged"))
    [ended] = [c for c in commands if isinstance(c, Finish)]
    assert ended.outcome == "failed"
    assert "share 0 is cut" in ended.reason


def test_a_checkpoint_of_another_model_fails_the_job() -> None:
    state, _ = restoring("c7", "c4")
    _, commands = apply(state, no("c7", "refused"))
    assert [c.kind for c in commands if isinstance(c, Emit)] == [EventKind.FAILED]
    assert commands[-1] == Finish(JobState.FAILED, "share 0 is cut")


def test_a_restorer_with_another_fingerprint_makes_room_for_one_with_the_runs() -> None:
    """Its fingerprint had become the run's, as the first to say hello: every fit trainer was refused for ever."""
    state, _ = restoring("c7")
    state, commands = after(state, no("c7", "unfit"))
    assert Kill("t0", "share 0 is cut") in commands
    assert StartTrainer("t1") in commands
    _, commands = after(state, hello("t1", fingerprint="b"))
    assert commands == (Send("t1", Restore(url="c7", incarnation=1)),)


def test_another_reads_on_when_the_restorer_is_lost() -> None:
    state, _ = restoring("c7", target=2)
    state, commands = after(state, Suspected("t0", "silent"))
    assert Kill("t0", "silent") in commands
    assert state.phase is Phase.FORMING
    _, commands = after(state, hello("t2"))
    assert commands == (Send("t1", Restore(url="c7", incarnation=1)),)


def test_everyone_lost_goes_on_from_the_newest_checkpoint() -> None:
    state, _ = after(founded(1), Committed("c4"), Committed("c7"), Committed("c4"))
    assert state.checkpoints == ("c4", "c7")
    state, _ = after(state, Lost("t0", "killed"))
    _, commands = after(state, hello("t1"))
    assert commands == (Send("t1", Restore(url="c4", incarnation=1)),)


def test_nothing_is_founded_while_checkpoints_are_looked_for() -> None:
    """A supervisor that was restarted lost its last member before the storage answered, and began from step 0."""
    state, commands = after(restoring(searching=True)[0], Committed("c9"))
    assert (state.phase, commands) == (Phase.FORMING, ())
    state, commands = after(state, CheckpointsFound(("c7", "c4")))
    assert commands == (Send("t0", Restore(url="c9", incarnation=1)),)
    assert state.checkpoints == ("c9", "c7", "c4")


# ---- the end, and pauses


def ended(saves: bool = True) -> Outcome:
    done = [MessageReceived(Done(trainer=t, generation=1, steps=9, digest="d")) for t in ("t0", "t1")]
    return after(replace(founded(), saves=saves), *done)


def test_the_end_is_saved_before_the_code_after_the_loop_runs() -> None:
    state, commands = ended()
    assert commands == (SaveState(members=("t0", "t1"), generation=1, pausing=False),)
    assert after(state, StateSaved())[1] == (Send("t0", Elected(incarnation=1)),)
    assert after(state, StateSaved("the disk is full"))[1] == (Finish(JobState.FAILED, "the disk is full"),)
    _, commands = after(state, Lost("t0", "killed"))
    assert commands == (SaveState(members=("t1",), generation=1, pausing=False),)


def test_who_has_gone_on_past_the_end_is_not_saved_again() -> None:
    """A restarted supervisor had its state saved, though the code after the loop might have changed it."""
    state, _ = resumed(("t0", "t1"), ("t0", "t1"))
    state = replace(state, saves=True)
    state, _ = after(state, report("t0", state, finished=True))
    state, _ = after(state, report("t1", state, finished=True, concluded=True))
    done = [MessageReceived(Done(trainer=t, generation=7, steps=9, digest="d")) for t in ("t0", "t1")]
    _, commands = after(state, *done)
    assert commands == (Send("t1", Elected(incarnation=2)),)


def pausing(target: int = 2) -> MembershipState:
    state, commands = after(founded(target), PauseRequested())
    assert commands == tuple(Send(f"t{k}", RequestBoundary(number=1, incarnation=1)) for k in range(target))
    return state


def test_a_pause_saves_at_the_boundary_and_ends() -> None:
    state, commands = after(
        pausing(), *(MessageReceived(Parked(trainer=t, generation=1, round=3)) for t in ("t0", "t1"))
    )
    assert commands == (SaveState(members=("t0", "t1"), generation=1, pausing=True),)
    _, commands = after(state, StateSaved())
    assert commands == (Finish(JobState.PAUSED, "stopped at a step boundary, and saved"),)


def test_a_loss_while_pausing_is_not_replaced() -> None:
    state, commands = after(pausing(), Lost("t1", "killed"))
    assert not any(isinstance(c, StartTrainer) for c in commands)
    _, commands = after(state, report("t0", state))
    assert Send("t0", RequestBoundary(number=2, incarnation=1)) in commands
    _, commands = after(pausing(1), Lost("t0", "killed"))
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["paused"]


def test_a_pause_before_anything_was_trained_is_at_once() -> None:
    _, commands = after(restoring("c7")[0], PauseRequested())
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["paused"]


def test_cancel_wins_over_pause() -> None:
    _, commands = after(pausing(), Cancelled("asked"))
    assert commands == (Finish(JobState.CANCELLED, "asked"),)


# ---- notices and spares


def notice(trainer: str) -> MessageReceived:
    return MessageReceived(NoticeGiven(trainer=trainer, reason="drained"))


def test_who_was_given_notice_leaves_at_the_boundary_and_is_replaced() -> None:
    state, commands = after(founded(), notice("t0"))
    assert commands[0] == StartTrainer("t2")
    assert Send("t0", RequestBoundary(number=1, incarnation=1)) in commands
    state, _ = after(state, *(MessageReceived(Parked(trainer=t, generation=1, round=3)) for t in ("t0", "t1")))
    state, _ = after(state, report("t0", state, parked=True, step=2))
    state, commands = apply(state, report("t1", state, parked=True, step=2))
    assert [m.trainer for m in made(commands).members] == ["t1"]
    assert (state.newest_round, state.newest_step) == (3, 2)
    assert Emit(EventKind.TRAINER_LEFT, {"trainer": "t0", "step": 2, "reason": "drained"}) in commands
    assert not state.leaving


def test_the_only_one_stays_till_another_has_the_state() -> None:
    state, commands = after(founded(1), notice("t0"))
    assert commands == (StartTrainer("t1"),)
    state, commands = after(state, hello("t1"))
    assert commands == (Send("t0", RequestBoundary(number=1, incarnation=1)),)
    state, _ = after(state, MessageReceived(Parked(trainer="t0", generation=1, round=3)))
    state, commands = after(state, report("t0", state, parked=True))
    assert [(m.trainer, m.role) for m in made(commands).members] == [("t0", "settled"), ("t1", "joining")]
    assert Send("t0", RequestBoundary(number=2, incarnation=1)) in commands
    state, _ = after(state, *(MessageReceived(Parked(trainer=t, generation=2, round=4)) for t in ("t0", "t1")))
    _, commands = after(state, *(report(t, state, round=4, parked=True) for t in ("t0", "t1")))
    assert [m.trainer for m in made(commands).members] == ["t1"]
    assert Send("t0", End(incarnation=1, reason="drained")) in commands


def test_who_is_not_a_member_yet_ends_at_once_on_notice() -> None:
    state, _ = after(founded(1), Resized(3), hello("t1"))
    assert after(state, notice("t1"))[1][:1] == (Send("t1", End(incarnation=1, reason="drained")),)
    assert after(state, notice("t2"))[1] == (CancelStart("t2"), StartTrainer("t3"))


def test_a_spare_waits_and_joins_at_the_boundary_after_a_loss() -> None:
    state, commands = begin(MembershipState(num_sub_tasks=4, target=2, min_trainers=1, spares=1))
    assert commands == tuple(StartTrainer(f"t{k}") for k in range(3))
    state, _ = after(state, hello("t0"), hello("t1"))
    state, commands = after(state, hello("t2"))
    assert (commands, state.ready) == ((), ("t2",))
    state, commands = after(state, Lost("t1", "killed"))
    assert StartTrainer("t3") in commands
    _, commands = after(state, report("t0", state, held=0b1))
    assert Send("t0", RequestBoundary(number=2, incarnation=1)) in commands


# ---- failures


def test_all_that_die_at_once_have_failed_once() -> None:
    state = replace(founded(4), max_failures=1)
    state, _ = after(state, *(Lost(f"t{k}", "killed") for k in range(4)))
    assert not state.ended
    state, commands = after(state, Lost("t4", "killed"))
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["failed"]
    assert "max_failures is 1" in state.reason
    assert "t4 was lost: killed" in state.reason


def test_max_failures_0_bears_no_loss_and_a_step_resets_the_count() -> None:
    assert after(replace(founded(), max_failures=0), Lost("t0", "killed"))[0].ended
    state = replace(founded(1), max_failures=1)
    for k in range(5):
        state, _ = after(state, RowRecorded(k), Lost(f"t{k}", "killed"), hello(f"t{k + 1}"))
    assert not state.ended
    for url in ("c1", "c2", "c3"):
        state, _ = after(state, Committed(url), Lost(f"t{state.num_started - 1}", "killed"))
    assert not state.ended


def test_what_fails_again_and_again_is_waited_for() -> None:
    state, waits = replace(founded(1), max_failures=20), []
    for k in range(10):
        state, commands = after(state, Lost(f"t{k}", "killed"))
        waits += [c.after_s for c in commands if isinstance(c, StartTrainer)]
        state, _ = after(state, hello(f"t{k + 1}"))
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_fenced_trainer_is_a_failure_too() -> None:
    state = replace(collecting(), max_failures=0)
    state, _ = after(state, Suspected("t1", "silent"), report("t0", state))
    assert state.ended


def test_a_sub_task_that_kills_two_trainers_is_named() -> None:
    state, _ = after(founded(3), Lost("t0", "SIGSEGV", (3, 2)))
    state, _ = after(state, *(report(t, state, round=3, step=1) for t in ("t1", "t2")))
    assert not after(state, Lost("t1", "SIGSEGV", (3, 1)))[0].ended
    state, commands = apply(state, Lost("t1", "SIGBUS", (3, 2)))
    assert [c.kind for c in commands if isinstance(c, Emit)] == [EventKind.TRAINER_LOST, EventKind.FAILED]
    assert state.reason.startswith("sub-task 2 of step 1 killed two trainers, t0 (SIGSEGV) and t1 (SIGBUS)")


def test_a_step_of_one_round_each_is_named_though_nobody_has_reported_it() -> None:
    """The survivors were a round behind when the first one died; whether the message named the step was chance."""
    state, _ = after(founded(3), Lost("t0", "SIGSEGV", (4, 2)))
    state, _ = after(state, *(report(t, state, round=3, step=3) for t in ("t1", "t2")))
    state, _ = after(state, Lost("t1", "SIGSEGV", (4, 2)))
    assert "sub-task 2 of step 4 killed two trainers" in state.reason


@pytest.mark.parametrize("cause", [DeathCause.NODE, DeathCause.INJECTED])
def test_a_sub_task_is_not_to_blame_for_a_death_from_outside(cause: DeathCause) -> None:
    state, _ = after(founded(3), Lost("t0", "its node died", (3, 2), cause=cause))
    state, _ = after(state, *(report(t, state, round=3, step=1) for t in ("t1", "t2")))
    assert not after(state, Lost("t1", "SIGBUS", (3, 2)))[0].ended


def test_a_sub_task_that_was_got_past_is_forgotten() -> None:
    state, _ = after(founded(3), Lost("t0", "SIGSEGV", (3, 2)))
    state, _ = after(state, *(report(t, state, round=4) for t in ("t1", "t2")))
    assert not state.deaths


def test_a_poisonous_sub_task_is_known_after_everyone_was_lost() -> None:
    state, _ = after(founded(1), Lost("t0", "SIGSEGV", (3, 2)), hello("t1"))
    state, _ = after(state, Lost("t1", "SIGSEGV", (3, 2)))
    assert "sub-task 2 of round 3 killed two trainers" in state.reason


# ---- a supervisor after another: what it must know


def test_names_are_not_used_again() -> None:
    fresh = MembershipState(num_sub_tasks=4, target=1, min_trainers=1, incarnation=2)
    _, commands = resume(fresh, Survivors((), 0, (), None, num_started=5))
    assert commands == (StartTrainer("t5"),)


def test_who_died_before_it_was_a_member_while_no_supervisor_lived_is_told_gone() -> None:
    """Until then it counts among those that are there, and costs."""
    fresh = MembershipState(num_sub_tasks=4, target=3, min_trainers=1, incarnation=2)
    found = Survivors(("t0", "t3"), 5, ("t0", "t1"), None, num_started=5, waiting=("t3", "t4"))
    _, commands = resume(fresh, found)
    gone = {c.data["trainer"]: c.kind for c in commands if isinstance(c, Emit) and "trainer" in c.data}
    assert gone == {"t1": EventKind.TRAINER_LOST, "t3": EventKind.TRAINER_LEFT, "t4": EventKind.TRAINER_LEFT}
    _, commands = resume(fresh, Survivors((), 0, (), None, num_started=1, waiting=("t0",)))
    assert [c.data["trainer"] for c in commands if isinstance(c, Emit) and c.kind is EventKind.TRAINER_LEFT] == ["t0"]


def test_a_recorded_pause_stays_one() -> None:
    _, commands = resumed(("t0",), ("t0", "t1"), finished=JobState.PAUSED)
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["paused"]
