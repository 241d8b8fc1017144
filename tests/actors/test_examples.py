"""Show 1: the examples, on real data, make the same bytes whoever computes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import surefoot
from surefoot.spec import JobState

from .harness import EXAMPLES, Stage, Story

DIGITS: dict[str, Any] = {"batch_size": 64, "config": {"steps": 12, "eval_every": 5, "computed": None}}
SEVEN: dict[str, Any] = {"batch_size": 63, "config": {"steps": 6, "eval_every": 3, "computed": None}, "sub_tasks": 7}
CHARLM: dict[str, Any] = {
    "batch_size": 8,
    "sub_tasks": 4,
    "config": {
        "steps": 4,
        "eval_every": 2,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "context": 32,
        "text_bytes": 200_000,
        "dropout": 0.1,
    },
}


def locally(example: str, options: dict[str, Any]) -> tuple[list[bytes], str]:
    """The ledger and the final digest of `run_local`, in this process."""
    spec = importlib.util.spec_from_file_location(f"example_{example}", Path(EXAMPLES, example, "train.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = surefoot.run_local(module.train, seed=7, **options)
    return [row.result.canonical() for row in result.rows], result.digest


def on_trainers(stage: Stage, example: str, options: dict[str, Any], trainers: int) -> tuple[list[bytes], str]:
    story: Story = stage.run(entrypoint=f"{example}.train:train", trainers=trainers, min_trainers=trainers, **options)
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    return story.ledger, story.digest


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        pytest.param({**DIGITS, "config": {**DIGITS["config"], "optimizer": "adamw"}}, [1, 2, 3, 4], id="adamw"),
        pytest.param({**DIGITS, "config": {**DIGITS["config"], "optimizer": "sgd"}}, [1, 3], id="sgd"),
        pytest.param({**SEVEN, "config": {**SEVEN["config"], "optimizer": "sgd"}}, [1, 2, 3], id="seven"),
    ],
)
def test_digits(stage: Stage, options: dict[str, Any], counts: list[int]) -> None:
    expected = locally("digits", options)
    for trainers in counts:
        assert on_trainers(stage, "digits", options, trainers) == expected, trainers


def test_charlm(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "charlm")
    expected = locally("charlm", CHARLM)
    for trainers in [1, 2]:
        assert on_trainers(stage, "charlm", CHARLM, trainers) == expected, trainers
