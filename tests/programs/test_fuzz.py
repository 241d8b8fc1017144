"""Programs made of pieces, the same in every run; `make fuzz` looks for new ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings

from surefoot.errors import ContractError
from surefoot_actors.engine.contract.loop import Loop
from surefoot_actors.engine.state.optimizer import TrackedOptimizer
from surefoot_actors.engine.vector.buffers import BufferWatch

from . import fuzz
from .fuzz import Case, Recipe, cases, look, simplest, trouble
from .joiner import Story
from .runner import CATALOGUE, load_library, problems

FIXED = 20261126
# A program takes a tenth of a second; one with data workers, a second.
EXAMPLES, MOST_S = 120, 20.0

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("number", [FIXED], ids=["fixed"])
@pytest.mark.process
def test_programs_of_any_pieces_keep_the_promise(number: int) -> None:
    """Again: python tests/programs/fuzz.py --seed NUMBER, or the command that a finding prints."""
    print(f"seed {number}")
    look(number, EXAMPLES, until=time.monotonic() + MOST_S)


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_what_a_finding_prints_is_the_case(case: Case) -> None:
    assert Case.from_json(case.to_json()) == case


def test_a_finding_is_made_as_simple_as_it_goes() -> None:
    case = Case(
        recipe=Recipe(layers=("norm", "dropout", "gru"), optimizer="Adam", clip=True, evaluate=True),
        story=Story(trainers=3, joins=(1, 2)),
        restore=2,
    )
    found = simplest(case, lambda c: "gru" in c.recipe.layers and c.story.trainers > 1)
    assert found == Case(recipe=Recipe(layers=("gru",)), story=Story(trainers=2))


def test_the_fuzzer_sees_a_state_that_is_not_carried_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: what is put back of an optimizer lacks its state. The engine itself sees that, as it compares."""

    def forgetful(self: TrackedOptimizer, tree: Any, tensor: Any) -> None:
        restore(self, tree, tensor)
        self._optimizer.state.clear()

    restore = TrackedOptimizer.restore
    case = Case(recipe=Recipe(optimizer="AdamW"), story=Story(joins=(2,)))
    assert trouble(case) == ""
    monkeypatch.setattr(TrackedOptimizer, "restore", forgetful)
    assert "optimizer (values) came out otherwise" in trouble(case)


def test_the_fuzzer_sees_what_depends_on_the_order_of_sub_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: buffers are not as they were when a sub-task begins. Only a comparison sees that, or a sub-task done twice."""
    case = Case(recipe=Recipe(layers=("linear", "odd")), story=Story(backwards=True))
    assert trouble(case) == ""
    monkeypatch.setattr(BufferWatch, "restore", lambda self: None)
    with pytest.raises(ContractError, match="was computed twice"):
        fuzz.run_local(fuzz.pieces.train, config={"recipe": case.recipe.fields()}, batch_size=8, sub_tasks=4)
    monkeypatch.setattr(Loop, "proves", lambda self, step: False)
    assert "other bits" in trouble(case)


def test_the_runner_sees_a_sub_task_that_depends_on_who_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: a loss that counts how often this process has computed one."""
    load_library()
    import kinds

    calls = [0]

    def counting(*arguments: Any) -> Any:
        calls[0] += 1
        return kinds.F.mse_loss(arguments[0], arguments[0].detach() + calls[0])

    def train(run: Any) -> None:
        model = kinds.mlp()
        kinds.fit(run, model, kinds.torch.optim.SGD(model.parameters(), lr=0.1), loss=counting)

    found = list(problems(kinds.Program(train=train), everything=False))
    assert found
    assert CATALOGUE
    with pytest.raises(ContractError, match="was computed twice"):
        fuzz.run_local(train, config={"steps": 1}, batch_size=8)
