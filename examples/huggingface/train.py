"""Train a small GPT-2 on lines of the Python standard library's source, by a transformers.Trainer. Nothing is downloaded.

Config, all optional: steps (100), lr (1e-3), width (64), layers (2), eval_every (20), out (a folder for the model; nothing is saved
without). Made for `surefoot submit train:train --batch-size 32 --sub-tasks 4`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Trainer, TrainingArguments

import surefoot
from surefoot.integrations import huggingface

LONGEST = 96


class Lines(Dataset[dict[str, torch.Tensor]]):
    """A file's lines, as bytes: of any length, so that batches are padded."""

    def __init__(self, file: str) -> None:
        lines = [line.strip().encode()[:LONGEST] for line in Path(file).read_text().splitlines()]
        self.lines = [line for line in lines if len(line) > 1]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor(list(self.lines[index]))}


def pad(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The collator: what pads is not looked at, and has no label."""
    lines = [sample["input_ids"] for sample in samples]
    return {
        "input_ids": pad_sequence(lines, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(line) for line in lines], batch_first=True),
        "labels": pad_sequence(lines, batch_first=True, padding_value=-100),
    }


def build(run: surefoot.Run) -> PreTrainedModel:
    width, layers = int(run.config.get("width", 64)), int(run.config.get("layers", 2))
    config = GPT2Config(
        vocab_size=256, n_positions=LONGEST, n_embd=width, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def train(run: surefoot.Run) -> None:
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=run.batch_size // run.sub_tasks,
        max_steps=int(run.config.get("steps", 100)),
        learning_rate=float(run.config.get("lr", 1e-3)),
        lr_scheduler_type="cosine",
        warmup_steps=5,
        weight_decay=0.01,
        eval_strategy="steps",
        eval_steps=int(run.config.get("eval_every", 20)),
        report_to="none",
    )
    trainer = Trainer(
        model=build(run),
        args=arguments,
        data_collator=pad,
        train_dataset=Lines(argparse.__file__),
        eval_dataset=Lines(argparse.__file__.replace("argparse", "getopt")),
    )
    huggingface.fit(run, trainer)  # in place of trainer.train()
    if "out" in run.config:  # from here on: once, on one trainer
        trainer.model.save_pretrained(run.config["out"])
