"""Train LoRA adapters on a small GPT-2, by a transformers.Trainer: only the adapters are merged. Nothing is downloaded.

The base model has random weights, the same on every trainer: put `from_pretrained` in its place. Config, all optional: steps (60), lr
(1e-2), rank (4), out (a folder for the adapter, as safetensors; nothing is saved without). Made for
`surefoot submit train:train --batch-size 32 --sub-tasks 4`.
"""

from __future__ import annotations

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import surefoot
from surefoot.integrations import huggingface

LENGTH, WORDS = 16, 32


def sequences(num: int = 512) -> TensorDataset:
    """Counting in steps, from anywhere: what the adapters are to learn."""
    generator = torch.Generator().manual_seed(0)
    start, by = (torch.randint(low, high, (num, 1), generator=generator) for low, high in ((0, WORDS), (1, 4)))
    return TensorDataset((start + by * torch.arange(LENGTH)) % WORDS)


def as_model_input(samples: list[tuple[torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([ids for (ids,) in samples])
    return {"input_ids": ids, "labels": ids.clone()}


def train(run: surefoot.Run) -> None:
    base = GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )
    rank = int(run.config.get("rank", 4))
    adapters = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, lora_dropout=0.05
    )
    trainer = Trainer(
        model=get_peft_model(base, adapters),
        args=TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=run.batch_size // run.sub_tasks,
            max_steps=int(run.config.get("steps", 60)),
            learning_rate=float(run.config.get("lr", 1e-2)),
            report_to="none",
        ),
        data_collator=as_model_input,
        train_dataset=sequences(),
    )
    huggingface.fit(run, trainer)  # in place of trainer.train()
    if "out" in run.config:  # from here on: once, on one trainer
        trainer.model.save_pretrained(run.config["out"])
