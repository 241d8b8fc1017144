"""What stands before torch's functions hears of a call however its arguments are given: by place, by name, by a name imported before."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import backward, grad

from surefoot_actors.engine.contract import hooks


class Heard:
    """Implements `hooks.Watcher`: keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def told(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, *args, *kwargs.items()))

        return told

    def passes(self) -> list[Any]:
        return [call[1:] for call in self.calls if call[0] == "before_backward"]


def ways(function: Any, given: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Yield every way to give these arguments: the first so many by place, the rest by name; what is not given is its default."""
    parameters = inspect.signature(function).parameters
    assert given.keys() <= parameters.keys(), f"{function.__name__} has other arguments now: {list(parameters)}"
    by_place = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    for num in range(len(by_place) + 1):
        first = [given.get(n, parameters[n].default) for n in by_place[:num]]
        if inspect.Parameter.empty not in first:
            yield first, {n: v for n, v in given.items() if n not in by_place[:num]}


def heard_of(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Heard:
    heard = Heard()
    with hooks.watching(heard):
        function(*args, **kwargs)
    return heard


@pytest.mark.filterwarnings("ignore:.*create_graph=True.*")
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize(
    "function", [backward, grad, torch.autograd.backward, torch.autograd.grad, torch.Tensor.backward]
)
def test_a_pass_is_heard_of_however_it_is_asked_for(function: Any, wanted: bool, create_graph: bool) -> None:
    leaf = torch.ones(3, requires_grad=True)
    puts = function.__name__ == "backward"
    num_ways = 0
    names = list(inspect.signature(function).parameters)
    for inputs in ([leaf], {"leaf": leaf}) if wanted or not puts else (None,):
        if inputs is None or "inputs" not in names:
            inputs = None
        result = leaf.pow(2).sum()
        given: dict[str, Any] = {names[0]: result, "create_graph": create_graph, "retain_graph": True}
        given.update({} if inputs is None else {"inputs": inputs})
        for args, kwargs in ways(function, given):
            num_ways += 1
            (told,) = heard_of(function, args, kwargs).passes()
            outputs, asked, *flags = told
            assert [t is result for t in outputs] == [True]
            assert (asked is None) == (inputs is None)
            assert asked is None or [t is leaf for t in asked] == [True]
            assert dict(flags) == {"puts": puts, "makes_graph": create_graph}
    assert num_ways >= 3


def test_the_scaled_optimizer_is_known_however_it_is_given() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    name = list(inspect.signature(torch.amp.GradScaler.step).parameters)[1]
    for args, kwargs in (([optimizer], {}), ([], {name: optimizer})):
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(parameter.sum()).backward()
        heard = heard_of(lambda *a, scaler=scaler, **k: scaler.step(*a, **k), args, kwargs)
        assert ("after_step", scaler, "step", optimizer) in heard.calls


@pytest.mark.parametrize("kind", [kind for kind, methods in hooks._STEPS.items() for _ in methods])
def test_every_method_that_is_stood_before_is_there(kind: type) -> None:
    for methods in (hooks._STEPS, hooks._REGISTERS):
        for name in methods.get(kind, ()):
            assert callable(vars(kind)[name])


def test_torch_gives_a_pass_its_arguments_in_this_order() -> None:
    """The five that are read stand first in every call, and so does what says whether a pass puts gradients into place."""
    source = inspect.getsource(torch.autograd)
    calls = source.count("_engine_run_backward(")
    assert calls == 3
    assert source.count("accumulate_grad=True") == 1
    assert source.count("accumulate_grad=False") == 2
