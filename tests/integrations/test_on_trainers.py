"""The examples of other libraries on real trainers: three, of which one is lost, come to the bits of one process."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from surefoot.spec import JobState

from ..actors.harness import EXAMPLES, Stage, staged
from ..engine.kit import results, run_local

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CONFIGS: dict[str, dict[str, Any]] = {
    "lightning_digits": {"epochs": 2, "computed": None},
    "huggingface": {"steps": 6, "eval_every": 3, "width": 16, "layers": 1, "computed": None},
    "lora": {"steps": 6, "computed": None},
}
BATCH = {"lightning_digits": 510, "huggingface": 12, "lora": 12}
LIBRARIES = (
    "lightning.pytorch",
    "peft",
    "sklearn.datasets",
    "transformers.trainer",
    "transformers.models.gpt2.modeling_gpt2",
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(libraries=LIBRARIES) as made:
        yield made


@pytest.mark.parametrize("name", CONFIGS)
def test_an_example_with_a_trainer_lost_ends_as_alone(stage: Stage, name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fields: dict[str, Any] = {"batch_size": BATCH[name], "sub_tasks": 6, "seed": 7, "config": CONFIGS[name]}
    whole = run_local(module.train, **fields)
    story = stage.run(
        entrypoint=f"{name}.train:train", trainers=3, min_trainers=3, faults=["KILL@exchange:t1:2"], **fields
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert len(story.fired) == 1, story.fired
    assert story.ledger == results(whole)
    assert story.digest == whole.digest
