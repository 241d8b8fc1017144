"""Which cause is told for which differences."""

from __future__ import annotations

import pytest

from surefoot_actors.check.children import AGAIN, BACKWARDS, HASHES, JOINER, REFERENCE, VARIED
from surefoot_actors.check.pins import Factor
from surefoot_actors.check.probe import Failure, Held, Seen
from surefoot_actors.check.report import Kind, Report
from surefoot_actors.check.verdict import Difference, difference, judge, scenarios

ATTEMPT = "2 trainers, real processes"
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


def test_a_train_function_that_fails_alone_is_not_compared() -> None:
    told = story(
        failure=Failure(kind="contract", message="optimizer.step() at train.py:9", line="train.py:9", traceback="")
    )
    (finding,) = judge({REFERENCE: told[REFERENCE]})
    assert (finding.kind, finding.lines) == (Kind.BROKEN_RULE, ("train.py:9",))


def test_an_attempt_that_fails_is_told_with_its_reason() -> None:
    told = story()
    told[ATTEMPT].failure = Failure(kind="failed", message="DriftError: model.bias", line="", traceback="Traceback")
    (finding,) = judge(told)
    assert finding.kind is Kind.TRAINER_DEPENDENCE
    assert "DriftError: model.bias" in finding.message


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
