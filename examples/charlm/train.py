"""Train a GPT of 10.9 million parameters to foretell the next byte of the Python standard library's source.

Config, all optional: steps (200), lr (3e-4), warmup (20), eval_every (50), eval_windows (64), text_bytes (4 million),
and the model: width (384), heads (6), layers (6), context (128), dropout (0.0). Made for batch_size 16 and 8 sub-tasks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from data import SIZE_BYTES, Text, corpus
from model import GPT
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Subset

import surefoot

MAX_GRAD_NORM = 1.0


def next_byte_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats a byte; x and y uint8 [n, context]."""
    return F.cross_entropy(model(x.long()).flatten(0, 1), y.long().flatten())


def warm_then_cosine(warmup: int, num_steps: int, step: int) -> float:
    """The learning rate's factor at `step`: up to 1 in `warmup` steps, then a half cosine down to 0.1."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def load_data(run: surefoot.Run, context: int) -> tuple[Text, Subset[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the train set, and `eval_windows` windows spread over the text's last tenth, which is not trained on."""
    text = corpus(int(run.config.get("text_bytes", SIZE_BYTES)))
    cut = len(text) * 9 // 10
    held_out = Text(text[cut:], context)
    wanted = min(len(held_out), int(run.config.get("eval_windows", 64)))
    return Text(text[:cut], context), Subset(held_out, range(0, len(held_out), len(held_out) // wanted)[:wanted])


def train(run: surefoot.Run) -> None:
    """The train function: `surefoot submit train:train` from this folder."""
    num_steps, eval_every = int(run.config.get("steps", 200)), int(run.config.get("eval_every", 50))
    sizes = {name: int(run.config[name]) for name in ("width", "heads", "layers", "context") if name in run.config}
    train_set, test_set = load_data(run, sizes.get("context", 128))
    model = GPT(**sizes, dropout=float(run.config.get("dropout", 0.0))).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(run.config.get("lr", 3e-4)), weight_decay=0.1)
    warmup = int(run.config.get("warmup", 20))
    scheduler = LambdaLR(optimizer, lambda step: warm_then_cosine(warmup, num_steps, step))
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)

    for step in run.steps(num_steps):
        for x, y in step.batches(train_set):
            loss = next_byte_loss(model, x.to(run.device), y.to(run.device))
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        if step.every(eval_every):
            for x, y in step.evaluate(test_set):
                step.log(eval_loss=next_byte_loss(model, x.to(run.device), y.to(run.device)))
