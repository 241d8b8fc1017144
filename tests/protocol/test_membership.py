"""Single transitions of the supervisor's machine that are worth reading, and those that exploration once found wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from surefoot.events import EventKind
from surefoot_actors.protocol.membership import (
    Came,
    Emit,
    Finish,
    Found,
    Kill,
    Lost,
    MembershipState,
    Outcome,
    Phase,
    Record,
    Reserve,
    Reserved,
    Resized,
    Send,
    StartTrainer,
    Suspected,
    Trusted,
    Withdraw,
    begin,
    resume,
    step,
)
from surefoot_actors.protocol.messages import (
    Conclude,
    Done,
    End,
    Flag,
    Generation,
    Hello,
    Left,
    Over,
    Raised,
    Report,
    Returned,
)


def after(state: MembershipState, *events: Any) -> Outcome:
    """Apply events, answering Reserve as the shell does. Return the last state and what the last event gave rise to."""
    commands: tuple[Any, ...] = ()
    for event in events:
        state, commands = step(state, event)
        if Reserve() in commands:
            state, more = step(state, Reserved(state.number + 1, f"n{state.number + 1}"))
            commands += more
    return state, tuple(c for c in commands if not isinstance(c, Emit))


def hello(trainer: str, fingerprint: str = "a", num_steps: int = 9) -> Came:
    return Came(
        Hello(
            trainer=trainer,
            store=(trainer, 1),
            fingerprint=(("torch", fingerprint),),
            pid=1,
            node="node",
            num_steps=num_steps,
        )
    )


def report(trainer: str, state: MembershipState, **said: Any) -> Came:
    usual: dict[str, Any] = {"round": 3, "retained": True, "held": 0, "own": 0, "parked": False, "finished": False}
    told: dict[str, Any] = {
        "number": state.number,
        "incarnation": state.incarnation,
        "generation": 1,
        "store": (trainer, 1),
    }
    return Came(Report(trainer=trainer, **told, **(usual | said)))


def founded(target: int = 2) -> MembershipState:
    state, _ = begin(MembershipState(num_sub_tasks=4, target=target, min_trainers=1))
    state, _ = after(state, *(hello(f"t{k}") for k in range(target)))
    return state


def collecting(target: int = 2) -> MembershipState:
    """Generation 2 is to follow; nobody has reported."""
    state, _ = after(founded(target), Suspected("t0", ""), Trusted("t0"))
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
    assert Send("t0", Over(number=2, incarnation=1)) in commands
    state, commands = after(state, report("t0", state, held=0b01, own=0b11))
    assert [(m.trainer, m.own) for m in made(commands).members] == [("t0", 0b1111)]
    assert state.phase is Phase.RUNNING


def test_who_is_behind_gets_the_vector_from_one_that_holds_it() -> None:
    state = collecting()
    _, commands = after(state, report("t0", state, round=4), report("t1", state, round=3, held=0b1100))
    ahead, behind = made(commands).members
    assert (ahead.trainer, ahead.role) == ("t0", "settled")
    assert (behind.trainer, behind.role, behind.source) == ("t1", "behind", 0)


def test_a_joiner_waits_for_a_step_boundary() -> None:
    state, commands = after(founded(1), Resized(2), hello("t1"))
    assert commands == (Send("t0", Flag(number=1, incarnation=1)),)
    state, commands = after(state, Came(Left(trainer="t0", generation=1, round=3)))
    assert Send("t0", Over(number=2, incarnation=1)) in commands
    _, commands = after(state, report("t0", state, parked=True))
    assert [(m.trainer, m.role) for m in made(commands).members] == [("t0", "settled"), ("t1", "joining")]


def test_down_again_takes_back_what_was_asked_for() -> None:
    state, commands = after(founded(1), Resized(3))
    assert commands == (StartTrainer("t1"), StartTrainer("t2"))
    _, commands = after(state, hello("t1"), Resized(1))
    assert set(commands) == {Withdraw("t2"), Send("t1", End(incarnation=1, reason="not wanted any more"))}


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
    state, events = step(state, hello("t1", fingerprint="b"))
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
    done = [Came(Done(trainer=t, generation=1, steps=9, digest="d")) for t in ("t0", "t1")]
    state, commands = after(founded(), *done)
    assert commands == (Send("t0", Conclude(incarnation=1)),)
    state, commands = after(state, Lost("t0", "killed"))
    assert commands == (Send("t1", Conclude(incarnation=1)),)
    _, commands = after(state, Came(Returned(trainer="t1")))
    assert isinstance(commands[0], Finish)
    assert commands[0].outcome == "succeeded"


def test_other_bytes_at_the_end_fail_the_job() -> None:
    done = [Came(Done(trainer=t, generation=1, steps=9, digest=t)) for t in ("t0", "t1")]
    _, commands = after(founded(), *done)
    assert isinstance(commands[0], Finish)
    assert commands[0].outcome == "failed"


def test_what_the_users_code_raises_fails_the_job_at_once() -> None:
    _, commands = after(founded(), Came(Raised(trainer="t1", kind="ValueError", message="no", traceback="...")))
    assert commands == (Finish("failed", "ValueError: no"),)


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


def resumed(trainers: tuple[str, ...], members: tuple[str, ...], finished: str = "") -> Outcome:
    fresh = MembershipState(num_sub_tasks=4, target=2, min_trainers=1, incarnation=2)
    state, commands = resume(fresh, Found(trainers, 5, members, finished))
    if Reserve() in commands:
        state, more = step(state, Reserved(7, "n7"))
        commands += more
    return state, commands


def test_only_members_of_the_newest_generation_survive() -> None:
    state, commands = resumed(("t0", "t3"), ("t0", "t1"))
    assert Kill("t3", "not a member of the newest generation") in commands
    assert Send("t0", Over(number=7, incarnation=2)) in commands
    assert state.members == ("t0",)


def test_a_finished_job_is_not_mourned() -> None:
    state, commands = resumed((), ("t0", "t1"), finished="succeeded")
    assert state.ended
    assert [c.outcome for c in commands if isinstance(c, Finish)] == ["succeeded"]


# ---- what exploration found


def test_the_elected_ones_answer_counts_for_the_next_supervisor_too() -> None:
    """It was ignored, since this supervisor had elected nobody; the trainer does not return a second time."""
    state, _ = resumed(("t0", "t1"), ("t0", "t1"))
    state, commands = after(state, Came(Returned(trainer="t0")))
    assert isinstance(commands[0], Finish)


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
    state, commands = after(state, Trusted("t0"))
    assert Send("t0", Over(number=3, incarnation=1)) in commands


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
    state, _ = after(founded(1), Resized(2), hello("t1"), Came(Left(trainer="t0", generation=1, round=3)))
    state, _ = after(state, report("t0", state, parked=True), Lost("t0", "killed"))
    state, commands = after(state, report("t1", state, round=-1, retained=False))
    assert Kill("t1", "it may hold part of a state that is lost") in commands
    assert state.ready == ()
