"""A transformers.Trainer under Surefoot: what it computes is what it would compute alone, whoever computes it; the rest is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot.integrations import huggingface
from surefoot.integrations._arguments import ARGUMENTS, OPTIMIZERS, SCHEDULES
from surefoot.local import LocalResult

from ..engine.kit import run_local, run_scripted, same

# transformers and peft warn each other of what is to go
pytestmark = pytest.mark.filterwarnings("default")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BY_THREE: dict[str, Any] = {"order": [2, 0, 3, 1], "parts": [[0], [1, 2], [3]]}


def example(folder: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{folder}", EXAMPLES / folder / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentences(num: int = 50) -> list[dict[str, torch.Tensor]]:
    """Rows of 12 tokens, of which so many count."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(num):
        ids = torch.from_numpy(rng.integers(0, 40, 12))
        rows.append({"input_ids": ids, "labels": ids.masked_fill(torch.arange(12) >= int(rng.integers(2, 13)), -100)})
    return rows


def gpt(**more: Any) -> GPT2LMHeadModel:
    sizes = {"vocab_size": 40, "n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}
    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, **more))


def arguments(**more: Any) -> TrainingArguments:
    defaults = {"output_dir": "unused", "per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-3}
    return TrainingArguments(**{**defaults, **more})


def a_trainer(args: TrainingArguments | None = None, kind: type[Trainer] = Trainer, **more: Any) -> Trainer:
    parts = {"model": None, "train_dataset": sentences(), "args": args or arguments(), **more}
    parts["model"] = parts["model"] or gpt()
    return kind(**parts)


def fitting(
    make: Callable[[], Trainer], seen: Callable[[Trainer], None] = lambda trainer: None
) -> Callable[[Run], None]:
    def train(run: Run) -> None:
        trainer = make()
        huggingface.fit(run, trainer)
        seen(trainer)

    return train


def trained(make: Callable[[], Trainer], seen: Callable[[Trainer], None] = lambda trainer: None) -> LocalResult:
    """Train in order, and as three trainers would in another: the bits must be the same."""
    whole = run_local(fitting(make, seen), batch_size=8, sub_tasks=4, seed=3)
    other = run_scripted(fitting(make), batch_size=8, seed=3, **BY_THREE)
    assert same(whole, other)
    return whole


def values(result: LocalResult, name: str) -> list[float]:
    return [row.result.values[name] for row in result.rows if name in row.result.values]


# ---- the same as Trainer alone


PARITY: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.1, "warmup_steps": 2},
    "sgd, cosine": {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "cosine", "learning_rate": 0.1},
    "clipped": {"max_grad_norm": 0.05, "optim": "sgd", "learning_rate": 1.0},
    "not clipped": {"max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.1},
    "smoothed": {"label_smoothing_factor": 0.1},
    "checkpointed": {"gradient_checkpointing": True},
    "bf16": {"bf16": True, "optim": "sgd", "learning_rate": 0.1},
}


@pytest.mark.parametrize("case", PARITY)
def test_it_comes_to_what_the_trainer_comes_to_alone(case: str) -> None:
    """On one device, with as many accumulation steps as sub-tasks, up to the order in which sums are taken."""
    more = {"train_sampling_strategy": "sequential", "use_cpu": True, "save_strategy": "no", **PARITY[case]}
    make = lambda **how: a_trainer(arguments(**more, **how), model=gpt(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))  # noqa: E731
    found: dict[str, torch.Tensor] = {}
    trained(make, lambda trainer: found.update({n: p.detach().clone() for n, p in trainer.model.named_parameters()}))
    alone = make(gradient_accumulation_steps=4, disable_tqdm=True)
    began = {n: p.detach().clone() for n, p in alone.model.named_parameters()}
    alone.train()
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=2e-3, atol=1e-3 if more.get("bf16") else 2e-5)
        assert not torch.equal(began[name], parameter), name


def test_tokens_are_the_weights_of_sub_tasks() -> None:
    """The merge is the mean over all tokens, however they are spread over sub-tasks; not the mean of means."""
    rows, model = sentences(8), gpt(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    assert len({int((row["labels"] != -100).sum()) for row in rows}) > 3
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    tokens = (batch["labels"] != -100).sum()
    loss = float(model(**batch, num_items_in_batch=tokens).loss)
    result = trained(
        lambda: a_trainer(
            arguments(max_steps=1), train_dataset=rows, model=gpt(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        )
    )
    assert values(result, "loss")[0] == pytest.approx(loss, rel=1e-5)


def test_a_sub_task_without_a_single_token_counts_nothing() -> None:
    rows = [{**row, "labels": torch.full((12,), -100)} for row in sentences(4)] + sentences(4)
    result = trained(
        lambda: a_trainer(arguments(train_sampling_strategy="sequential", max_steps=3), train_dataset=rows)
    )
    assert all(np.isfinite(values(result, "loss")))


# ---- evaluation, epochs


def a_classifier(**more: Any) -> Callable[[], Trainer]:
    rng = np.random.default_rng(1)
    ids = torch.from_numpy(rng.integers(0, 30, (30, 6)))
    rows = [{"input_ids": row, "labels": row[0] % 3, "unused": "words"} for row in ids]

    def make() -> Trainer:
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=30,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                num_labels=3,
            )
        )
        metrics = lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}  # noqa: E731
        return Trainer(
            model=model,
            args=arguments(max_steps=-1, num_train_epochs=2, eval_strategy="epoch", learning_rate=1e-2, **more),
            train_dataset=rows,
            eval_dataset=rows[:13],
            compute_metrics=metrics,
        )

    return make


def test_epochs_metrics_and_columns_that_the_model_does_not_take() -> None:
    result = trained(a_classifier())
    assert len(result.rows) == 8  # 2 epochs of 30 samples
    assert [row.result.step for row in result.rows if "eval_loss" in row.result.values] == [3, 7]
    assert all(0 <= v <= 1 for v in values(result, "eval_accuracy"))
    assert len(values(result, "eval_accuracy")) == 2


def test_losses_alone_and_several_datasets() -> None:
    def make() -> Trainer:
        trainer = a_classifier(prediction_loss_only=True)()
        trainer.eval_dataset = {"one": trainer.eval_dataset, "two": trainer.train_dataset}
        return trainer

    result = trained(make)
    assert len(values(result, "eval_one_loss")) == len(values(result, "eval_two_loss")) == 2
    assert not values(result, "eval_one_accuracy")


def test_a_trainer_of_ones_own() -> None:
    class Mine(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **more)
            return (loss * 2, outputs) if return_outputs else loss * 2

        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return []

    once, twice = (trained(partial(a_trainer, arguments(max_steps=1), kind)) for kind in (Trainer, Mine))
    assert values(twice, "loss")[0] == pytest.approx(2 * values(once, "loss")[0])


# ---- every field of the arguments is done, or makes no difference, or is refused


#: of a field that is refused: a value that it may have, where it is none of the usual
SET: dict[str, Any] = {
    "report_to": "tensorboard",
    "debug": "underflow_overflow",
    "liger_kernel_config": {"rope": True},
    "optim_target_modules": ["attn"],
    "include_for_metrics": ["inputs"],
    "accelerator_config": {"split_batches": True},
    "include_num_input_tokens_seen": "all",
    "ddp_backend": "gloo",
    "dataloader_multiprocessing_context": "spawn",
    "fsdp_config": {"min_num_params": 1},
}


def other_value(name: str, now: Any) -> Any:
    if name in SET:
        return SET[name]
    if isinstance(now, bool):
        return not now
    return {type(None): "something", int: 7, float: 0.5, str: "something", list: ["something"]}.get(type(now), 1)


def test_every_field_has_its_place() -> None:
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert not ARGUMENTS.honoured & ARGUMENTS.harmless.keys()
    assert not ARGUMENTS.advice.keys() & (ARGUMENTS.honoured | ARGUMENTS.harmless.keys())
    assert names >= ARGUMENTS.honoured | ARGUMENTS.harmless.keys() | ARGUMENTS.advice.keys()


def test_whatever_is_left_is_refused_by_its_name() -> None:
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    unsupported = names - ARGUMENTS.honoured - ARGUMENTS.harmless.keys()
    assert len(unsupported) > 40
    for name in sorted(unsupported):
        args = arguments()
        object.__setattr__(args, name, other_value(name, getattr(args, name)))  # past what its __post_init__ checks
        assert huggingface.refused_arguments(args) == [name]
    assert huggingface.refused_arguments(arguments()) == []


def refused(make: Callable[[], Trainer], *words: str) -> None:
    with pytest.raises(ContractError) as caught:
        run_local(fitting(make), batch_size=8, sub_tasks=4)
    for word in (*words, "test_huggingface.py:"):
        assert word in str(caught.value)


class Silent(Trainer):
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("never called")


OFTEN: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 500}
REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "noise": ({"args": lambda: arguments(neftune_noise_alpha=1.0)}, ("neftune_noise_alpha",)),
    "best": ({"args": lambda: arguments(load_best_model_at_end=True, **OFTEN)}, ("load_best_model",)),
    "optimizer": ({"args": lambda: arguments(optim="lion_8bit")}, ("optim='lion_8bit'", "adamw_torch")),
    "schedule": ({"args": lambda: arguments(lr_scheduler_type="greedy", **OFTEN)}, ("lr_scheduler_type=", "linear")),
    "tokens": ({"args": lambda: arguments(average_tokens_across_devices=False)}, ("average_tokens_across_devices",)),
    "by length": ({"args": lambda: arguments(train_sampling_strategy="group_by_length")}, ("train_sampling_strategy",)),
    "batch": ({"args": lambda: arguments(per_device_train_batch_size=3)}, ("per_device_train_batch_size=3", "makes 2")),
    "accumulation": ({"args": lambda: arguments(gradient_accumulation_steps=3)}, ("gradient_accumulation_steps=3",)),
    "callback": ({"callbacks": [EarlyStoppingCallback()]}, ("EarlyStoppingCallback", "run.stop()")),
    "overridden": ({"kind": Silent}, ("Silent has training_step of its own", "compute_loss")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused(case: str) -> None:
    how, words = REFUSALS[case]
    how = dict(how)
    args = how.pop("args", arguments)
    refused(lambda: a_trainer(args(), eval_dataset=sentences(4), **how), *words)


def test_something_else_than_a_trainer() -> None:
    refused(lambda: nn.Linear(1, 1), "was given a Linear; give a transformers.Trainer")


def test_what_is_honoured_by_value_is_of_the_library() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert {name.value for name in OptimizerNames} >= OPTIMIZERS
    assert {name.value for name in SchedulerType} == SCHEDULES | {"reduce_lr_on_plateau", "greedy"}


# ---- examples, adapters


def as_by_three(train: Callable[[Run], None], config: Mapping[str, Any]) -> LocalResult:
    whole = run_local(train, batch_size=8, sub_tasks=4, seed=7, config=config)
    assert same(whole, run_scripted(train, batch_size=8, seed=7, config=config, **BY_THREE))
    return whole


def test_the_example(tmp_path: Path) -> None:
    out = tmp_path / "model"
    config = {"steps": 6, "eval_every": 3, "width": 16, "layers": 1, "out": str(out)}
    result = as_by_three(example("huggingface").train, config)
    assert len(values(result, "eval_loss")) == 2
    again = GPT2LMHeadModel.from_pretrained(out)
    saved = load_file(out / "model.safetensors")
    assert torch.equal(again.transformer.wte.weight, saved["transformer.wte.weight"])


def test_adapters_alone_are_trained_merged_and_saved(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    result = as_by_three(example("lora").train, {"steps": 30, "out": str(out)})
    losses = values(result, "loss")
    assert losses[-1] < losses[0] - 0.1
    saved = load_file(out / "adapter_model.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)
    assert any(tensor.abs().sum() for name, tensor in saved.items() if "lora_B" in name)
    assert not (out / "model.safetensors").exists()


def test_a_frozen_base_is_no_part_of_what_is_merged() -> None:
    """The vector has the adapters' elements and no more."""
    from surefoot_actors.engine.vector import leaves

    peft, sizes = example("lora"), set()
    make = leaves.LeafMaker.make

    def measured(self: Any, *args: Any) -> Any:
        leaf = make(self, *args)
        sizes.add(sum(bucket.numel() for bucket in leaf.buckets))
        return leaf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves.LeafMaker, "make", measured)
        run_local(peft.train, batch_size=8, sub_tasks=4, config={"steps": 2})
    # rank 4, in two layers: of attention 64 to 192, of the MLP 64 to 256
    assert sizes == {2 * 4 * (64 + 192 + 64 + 256)}
