"""A target ends training at the same step on any trainers, in any order, over a checkpoint, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.utils.data import TensorDataset

from surefoot.contract import Run
from surefoot.errors import ContractError, SpecError
from surefoot.local import LocalResult
from surefoot.spec import JobSpec
from surefoot.target import Target, parse_target
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.run_local import run_local

from .kit import ScriptedCoordinator, results

STEPS = 40


def train(run: Run) -> None:
    torch.manual_seed(0)
    data = TensorDataset(x := torch.randn(64, 4), x.sum(1, keepdim=True))
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(STEPS):
        for inputs, wanted in step.batches(data):
            loss = F.mse_loss(model(inputs), wanted)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if run.config.get("outside"):
            step.log(twice=2 * step.merged["loss"])


def local(target: str | None, **more: object) -> LocalResult:
    return run_local(train, batch_size=16, sub_tasks=4, target=target, **more)  # type: ignore[arg-type]


def scripted(target: str, order: list[int], parts: list[list[int]]) -> LocalResult:
    coordinator = ScriptedCoordinator(4, order=order, parts=parts)
    torch.use_deterministic_algorithms(True)
    try:
        run_training(train, RunOptions(batch_size=16, sub_tasks=4, target=parse_target(target)), coordinator)
    finally:
        torch.use_deterministic_algorithms(False)
    return LocalResult(rows=tuple(coordinator.rows), digest=coordinator.digest.hex())


@pytest.fixture(scope="module")
def whole() -> LocalResult:
    return local(None)


@pytest.fixture(scope="module")
def target(whole: LocalResult) -> str:
    """Met for the first time somewhere in the middle."""
    losses = [row.result.values["loss"] for row in whole.rows]
    assert min(losses[:20]) < min(losses[:10])
    return f"loss<={min(losses[:20])!r}"


def first_met(whole: LocalResult, target: str) -> int:
    return next(row.result.step for row in whole.rows if parse_target(target).met(row.result.values))


def test_it_ends_with_the_first_step_that_meets_it(whole: LocalResult, target: str) -> None:
    last = first_met(whole, target)
    assert 5 < last < STEPS - 1
    assert results(local(target)) == results(whole)[: last + 1]


@pytest.mark.parametrize(
    ("order", "parts"),
    [([3, 1, 0, 2], [[0, 1, 2, 3]]), ([0, 1, 2, 3], [[0], [1, 2], [3]]), ([2, 3, 0, 1], [[0, 1], [2, 3]])],
)
def test_it_is_the_same_step_for_any_trainers(target: str, order: list[int], parts: list[list[int]]) -> None:
    one, other = local(target), scripted(target, order, parts)
    assert results(one) == results(other)
    assert one.digest == other.digest


def test_a_run_without_one_has_the_bits_that_it_always_had(whole: LocalResult) -> None:
    assert len(whole.rows) == STEPS
    assert results(local("loss<=-1")) == results(whole)


def test_over_a_checkpoint_it_is_the_same_step(whole: LocalResult, target: str, tmp_path: Path) -> None:
    last = first_met(whole, target)
    for every in (2, 3, 5):
        folder = str(tmp_path / str(every))
        first = local(target, checkpoint=folder, checkpoint_every=every)
        # restored from the end: it is over, whatever the number of steps
        again = local(target, restore=folder)
        assert [row.result.step for row in first.rows][-1] == last
        assert again.rows[-1:] == () or again.rows[-1].result.step == last
        assert again.digest == first.digest


def test_another_target_goes_on_from_where_the_first_was_met(whole: LocalResult, target: str, tmp_path: Path) -> None:
    first = local(target, checkpoint=str(tmp_path))
    begun = first.rows[-1].result.step + 1
    on = local("loss<=-1", restore=str(tmp_path))
    assert [row.result.step for row in on.rows][-1] == STEPS - 1
    assert results(on)[-(STEPS - begun) :] == results(whole)[begun:]


def test_a_target_reached_from_a_checkpoint_of_a_run_that_had_none(
    whole: LocalResult, target: str, tmp_path: Path
) -> None:
    class EndedError(Exception):
        pass

    def cut(run: Run) -> None:
        steps = run.steps
        run.steps = lambda n: steps(5)  # type: ignore[method-assign,assignment,misc]
        train(run)

    run_local(cut, batch_size=16, sub_tasks=4, checkpoint=str(tmp_path))
    on = local(target, restore=str(tmp_path))
    assert on.rows[-1].result.step == first_met(whole, target)


def test_a_value_that_is_not_merged_is_no_target() -> None:
    with pytest.raises(ContractError, match="logs outside of its inner loops"):
        local("twice<=0.1", config={"outside": True})


# ---- how it is written


@pytest.mark.parametrize(
    ("text", "name", "sign", "bound"),
    [
        ("accuracy>=0.97", "accuracy", ">=", 0.97),
        (" val/loss < 1e-3 ", "val/loss", "<", 1e-3),
        ("loss@1<=-.5", "loss@1", "<=", -0.5),
        ("bleu > 30.", "bleu", ">", 30.0),
    ],
)
def test_a_target_is_read(text: str, name: str, sign: str, bound: float) -> None:
    assert parse_target(text) == Target(name=name, sign=sign, bound=bound)


WRONG = [
    "",
    "accuracy",
    ">=0.9",
    "accuracy>=",
    "accuracy=0.9",
    "accuracy==0.9",
    "accuracy>=nan",
    "accuracy>=inf",
    "a b>=1",
]
WRONG += [
    "accuracy>=0.9,",
    "accuracy>=1_0",
    "accuracy>=0x1",
    "accuracy>=١",
    "a>=1>=2",
    "a>==1",
    "a=>1",
    "a!=1",
    "a>=1e999",
]


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be the name of a logged value"):
        parse_target(text)
    with pytest.raises(ValidationError, match="must be the name of a logged value"):
        JobSpec(entrypoint="a:b", package="0" * 64, batch_size=8, target=text)
    with pytest.raises(SpecError, match="must be the name of a logged value"):
        local(text)


@given(
    st.from_regex(r"[\w/.@-]{1,20}", fullmatch=True),
    st.sampled_from([">=", "<=", ">", "<"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_written_and_read_it_is_the_same(name: str, sign: str, bound: float, value: float) -> None:
    target = Target(name=name, sign=sign, bound=bound)
    again = parse_target(str(target))
    assert again == target
    assert str(again) == str(target)
    meets = {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[sign]
    assert target.met({name: value}) == meets
    assert not target.met({name: float("nan")})
    assert not target.met({})


def test_it_is_part_of_the_identity_only_where_there_is_one() -> None:
    plain = JobSpec(entrypoint="a:b", package="0" * 64, batch_size=8)
    assert "target" not in plain.identity()
    aimed = JobSpec(entrypoint="a:b", package="0" * 64, batch_size=8, target=" accuracy >= .5")
    assert aimed.identity()["target"] == aimed.target == "accuracy>=0.5"
