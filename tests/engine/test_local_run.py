"""What a run in this process leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surefoot
from surefoot.errors import UserError


def test_a_local_run_leaves_the_models_state() -> None:
    """As it is after the last step, whatever the code after the loop does to the model."""

    def train(run: surefoot.Run) -> None:
        model, other = nn.Linear(2, 1), nn.Linear(1, 1)
        optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
        tracked = {"model": model, "optimizer": optimizer} | ({"other": other} if run.config.get("two") else {})
        run.track(**tracked)
        for step in run.steps(2):
            for x in step.batches(torch.arange(16.0).reshape(8, 2)):
                other(model(x)).mean().backward()
            optimizer.step()
        seen.update({name: value.clone() for name, value in model.state_dict().items()})
        with torch.no_grad():
            model.weight.zero_()

    seen: dict[str, torch.Tensor] = {}
    result = surefoot.run_local(train, batch_size=8)
    assert set(result.model) == {"weight", "bias"}
    assert all(torch.equal(result.model[name], seen[name]) for name in seen)
    assert len(result.rows) == 2
    two = surefoot.run_local(train, batch_size=8, config={"two": True})
    assert set(two.models) == {"model", "other"}
    with pytest.raises(UserError, match="2 modules are tracked"):
        two.model  # noqa: B018


def test_what_is_typed_is_what_is_taken() -> None:
    """`surefoot.run_local` says every option of what it calls, with the same defaults."""
    import inspect

    from surefoot_actors.local_run.run_local import run_local

    said, taken = (inspect.signature(each).parameters for each in (surefoot.run_local, run_local))
    assert {name: p.default for name, p in said.items()} == {name: p.default for name, p in taken.items()}
