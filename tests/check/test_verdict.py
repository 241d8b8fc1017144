"""Which cause is told for which differences."""

from __future__ import annotations

import pytest

from surefoot_actors.check.attempts import step_to_hold
from surefoot_actors.check.children import AGAIN, BACKWARDS, HASHES, REFERENCE, VARIED, joiner, steps_to_join_at
from surefoot_actors.check.pins import Factor
from surefoot_actors.check.probe import BROKEN, RAISED, Failure, Held, Seen
from surefoot_actors.check.report import Kind, Report
from surefoot_actors.check.verdict import Difference, difference, judge, notes, scenarios

ATTEMPT = "2 trainers, real processes"
JOINER = joiner(3)
NAMES = (REFERENCE, AGAIN, HASHES, *VARIED.values(), BACKWARDS, JOINER, ATTEMPT)


def seen(differs_from: int = 99) -> Seen:
    rows = {step: f"row {step}" + ("!" if step >= differs_from else "") for step in range(6)}
    digests = {s: {"model.weight": "aa", "model.bias": "bb" + ("!" if s >= differs_from else "")} for s in range(-1, 6)}
    return Seen(rows=rows, digests=digests)


def story(*differing: str, **fields: object) -> dict[str, Seen]:
    told = {name: seen(2 if name in differing else 99) for name in NAMES}
    for name, value in fields.items():
        setattr(told[REFERENCE], name, value)
    return told


def test_a_difference_names_the_first_step_and_tensor() -> None:
    assert difference(seen(), seen()) is None
    assert difference(seen(), seen(2)) == Difference(2, "model.bias")
    assert difference(seen(), seen(-1)) == Difference(-1, "model.bias")


def test_a_joiner_is_compared_where_it_has_rows() -> None:
    late = seen()
    late.rows = {step: row for step, row in late.rows.items() if step >= 3}
    late.digests = {step: d for step, d in late.digests.items() if step >= 2}
    assert difference(seen(), late) is None


@pytest.mark.parametrize(
    ("differing", "kind"),
    [
        ((VARIED[Factor.ENTROPY], BACKWARDS, JOINER, ATTEMPT), Kind.OWN_RANDOMNESS),
        ((VARIED[Factor.IDENTITY], BACKWARDS, ATTEMPT), Kind.OWN_RANDOMNESS),
        ((VARIED[Factor.CLOCK], BACKWARDS, ATTEMPT), Kind.WALL_CLOCK),
        ((HASHES,), Kind.HASH_ORDER),
        ((AGAIN, HASHES, BACKWARDS, JOINER), Kind.NOT_REPEATABLE),
        ((BACKWARDS, JOINER, ATTEMPT), Kind.PROCESS_STATE),
        ((JOINER, ATTEMPT), Kind.UNTRACKED_STATE),
        ((ATTEMPT,), Kind.TRAINER_DEPENDENCE),
    ],
)
def test_one_cause_explains_what_it_can(differing: tuple[str, ...], kind: Kind) -> None:
    (finding,) = judge(story(*differing))
    assert (finding.kind, finding.step, finding.tensor) == (kind, 2, "model.bias")


def test_no_difference_is_no_finding() -> None:
    assert judge(story()) == ()


def test_an_object_that_changes_untracked_is_found_even_where_it_made_no_difference() -> None:
    (finding,) = judge(story(untracked=[Held(name="schedule", kind="StepLR", line="train.py:3")]))
    assert (finding.kind, finding.lines, finding.step) == (Kind.UNTRACKED_STATE, ("train.py:3",), None)
    assert "schedule=schedule" in finding.mend


def failure(kind: str = "KeyError", message: str = "'x'") -> Failure:
    return Failure(kind=kind, message=message, line="train.py:9", traceback=f"Traceback\n{kind}: {message}")


def verdict(told: dict[str, Seen]) -> str:
    return Report(entrypoint="a:b", steps=6, scenarios=scenarios(told, NAMES), findings=judge(told)).render()[-1]


def test_a_rule_that_is_broken_at_once_is_told_alone() -> None:
    (finding,) = judge({REFERENCE: Seen(failure=failure(BROKEN, "optimizer.step() at train.py:9"))})
    assert (finding.kind, finding.lines) == (Kind.BROKEN_RULE, ("train.py:9",))


def test_code_that_raises_however_it_is_run_is_not_said_to_break_the_promise() -> None:
    told = {REFERENCE: Seen(failure=failure()), AGAIN: Seen(failure=failure())}
    (finding,) = judge(told)
    assert (finding.kind, finding.lines) == (Kind.RAISES, ("train.py:9",))
    assert "Traceback" in finding.message
    assert verdict(told).startswith("the training code raises, so it is not known")


def test_a_key_that_the_config_lacks_is_asked_for() -> None:
    missing = Failure(kind="KeyError", message="'lr'", line="train.py:9", traceback='  lr = run.config["lr"]')
    (finding,) = judge({REFERENCE: Seen(failure=missing)})
    assert "--set lr=VALUE" in finding.mend
    other = Failure(kind="KeyError", message="'lr'", line="train.py:9", traceback='  lr = rates["lr"]')
    (finding,) = judge({REFERENCE: Seen(failure=other)})
    assert "--set" not in finding.mend


def test_code_that_raises_at_times_is_told_as_such() -> None:
    (finding,) = judge({REFERENCE: Seen(failure=failure()), AGAIN: seen()})
    assert finding.kind is Kind.RAISES_IN_SOME


@pytest.mark.parametrize("name", [AGAIN, HASHES, *VARIED.values(), BACKWARDS, JOINER, ATTEMPT])
def test_what_raises_in_one_scenario_only_is_told_with_that_one(name: str) -> None:
    told = story()
    told[name].failure = failure(RAISED if name == ATTEMPT else "KeyError")
    (finding,) = judge(told)
    assert (finding.kind, finding.lines) == (Kind.RAISES_IN_SOME, ("train.py:9",))
    assert repr(name) in finding.message
    assert "Traceback" in finding.message
    (scenario,) = [s for s in scenarios(told, NAMES) if not s.same]
    assert (scenario.name, scenario.fails) == (name, True)


def test_an_epoch_whose_end_was_not_reached_is_noted() -> None:
    reference = seen()
    reference.epoch_steps = 6
    assert notes(reference) == ()
    reference.epoch_steps = 7
    assert "6 steps were tried, and an epoch has 7" in notes(reference)[0]
    assert notes(reference)[0].endswith("--steps 8")


def test_all_that_raise_are_named() -> None:
    told = story()
    told[JOINER].failure, told[ATTEMPT].failure = failure(), failure(RAISED)
    (finding,) = judge(told)
    assert repr(JOINER) in finding.message
    assert f"also: {ATTEMPT}" in finding.message


def test_a_rule_that_only_one_scenario_breaks_is_a_broken_rule() -> None:
    told = story()
    told[JOINER].failure = failure(BROKEN, "no")
    (finding,) = judge(told)
    assert (finding.kind, repr(JOINER) in finding.message) == (Kind.BROKEN_RULE, True)


def test_what_trainers_raise_is_not_told_again_where_the_cause_is_known() -> None:
    told = story(BACKWARDS)
    told[ATTEMPT].failure = failure(RAISED)
    assert [finding.kind for finding in judge(told)] == [Kind.PROCESS_STATE]


def test_where_the_cause_is_not_known_it_may_be_surefoots() -> None:
    told = story()
    told[ATTEMPT].failure = failure("failed", "DriftError: model.bias")
    (finding,) = judge(told)
    assert finding.kind is Kind.TRAINER_DEPENDENCE
    assert "DriftError: model.bias" in finding.message
    assert verdict(told).startswith("the promise is not kept, by the training code or by Surefoot")
    for name in (AGAIN, BACKWARDS, JOINER, ATTEMPT):
        (finding,) = judge(story(name))
        assert "Surefoot" in finding.message
    known = judge(story(JOINER, between_steps=[Held(name="done", line="train.py:3")]))[0]
    assert "Surefoot" not in known.message


@pytest.mark.parametrize(
    ("num_steps", "changes", "steps"),
    [(6, [0], [1, 3, 5]), (40, [0, 9, 27], [1, 10, 20, 28, 39]), (2, [0, 1], [1]), (1, [0], [])],
)
def test_joiners_begin_early_late_and_after_each_change(num_steps: int, changes: list[int], steps: list[int]) -> None:
    assert steps_to_join_at(num_steps, changes) == steps


@pytest.mark.parametrize(("num_steps", "changes", "step"), [(6, [0], 2), (30, [0, 9, 20], 20), (12, [0, 9, 11], 9)])
def test_the_real_joiner_comes_after_the_last_change_that_leaves_it_steps(
    num_steps: int, changes: list[int], step: int
) -> None:
    assert step_to_hold(Seen(rows=dict.fromkeys(range(num_steps), ""), changes=changes)) == step


def test_a_report_is_well_only_when_everything_was_run_and_is_the_same() -> None:
    told = story()
    report = Report(entrypoint="a:b", steps=6, scenarios=scenarios(told, NAMES), findings=())
    assert report.ok
    assert report.render()[-1].startswith("it keeps the promise")
    del told[AGAIN]
    partly = Report(entrypoint="a:b", steps=6, scenarios=scenarios(told, NAMES), findings=())
    assert not partly.ok
    assert any("not run" in line for line in partly.render())
    differing = Report(entrypoint="a:b", steps=6, scenarios=(), findings=judge(story(JOINER)))
    assert not differing.ok
    assert "untracked_state" in "\n".join(differing.render())
