"""Which call of `run.once` a call is, and that it leaves random states alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.once import OnceCalls


def calls() -> tuple[OnceCalls, list[str], Callable[..., None]]:
    once, keys = OnceCalls(Streams(7, torch.device("cpu"))), []

    def do(key: str, run: Callable[[], object]) -> None:
        keys.append(key)
        run()

    def call(prepare: Callable[[], object] = lambda: None, name: str | None = None) -> None:
        once.make("once", prepare, name, do)

    return once, keys, call


def test_a_call_is_known_by_its_lines_and_how_often_they_were_passed() -> None:
    keys = []
    for _ in range(2):
        _, told, call = calls()
        for _ in range(2):
            call()
        call()
        keys.append(told)
    assert keys[0] == keys[1], "another process would wait for another call"
    assert len(set(keys[0])) == 3


def test_a_name_is_one_calls() -> None:
    _, keys, call = calls()
    call(name="data")
    assert keys == ["once data"]
    with pytest.raises(ContractError, match="another call has this name"):
        call(name="data")


def test_it_is_given_a_function() -> None:
    _, _, call = calls()
    with pytest.raises(ContractError, match="which was called already"):
        call(None)


def test_random_states_are_as_before_and_it_draws_the_same_everywhere() -> None:
    drawn = []
    for seed in (1, 2):
        _, _, call = calls()
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state()
        call(lambda: drawn.append((float(torch.rand(1)), float(np.random.rand()))), name="data")
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1]
