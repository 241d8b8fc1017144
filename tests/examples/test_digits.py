"""examples/digits learns, and says what it does not know."""

from __future__ import annotations

from typing import Any

import pytest

import surefoot
from surefoot.local import LocalResult


def run(train: Any, *, batch_size: int = 64, sub_tasks: int = 8, **config: Any) -> LocalResult:
    result: LocalResult = surefoot.run_local(train.train, batch_size=batch_size, sub_tasks=sub_tasks, config=config)
    return result


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_reaches_97_percent(import_example: Any, optimizer: str) -> None:
    result = run(import_example("digits", "train"), optimizer=optimizer)
    assert len(result.rows) == 300
    assert result.rows[-1].result.values["accuracy"] >= 0.97
    assert result.rows[-1].result.values["loss"] < result.rows[0].result.values["loss"] / 5


def test_the_last_step_is_always_evaluated(import_example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(import_example("digits", "train"), steps=7, eval_every=5)
    assert [row.result.step for row in result.rows if "accuracy" in row.result.values] == [4, 6]
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 4", "step 6"]
    lines = [f"{row.result.step},{row.result.values['accuracy']}" for row in (result.rows[4], result.rows[6])]
    assert result.output_dir is not None
    assert (result.output_dir / "accuracy.csv").read_text().splitlines() == lines


def test_the_split_is_fixed_and_shares_no_image(import_example: Any) -> None:
    train = import_example("digits", "train")
    (train_set, test_set), (_, again) = train.load_data(), train.load_data()
    assert (len(train_set), len(test_set)) == (1437, 360)
    assert test_set.tensors[0].equal(again.tensors[0])
    seen = {image.numpy().tobytes() for image in train_set.tensors[0]}
    assert not any(image.numpy().tobytes() in seen for image in test_set.tensors[0])


def test_an_unknown_optimizer_is_named(import_example: Any) -> None:
    with pytest.raises(ValueError, match="'adam' is neither"):
        run(import_example("digits", "train"), steps=1, optimizer="adam")
