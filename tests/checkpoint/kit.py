"""What the checkpoint tests share: an awkward state, and its way through files at any number of trainers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.contract import Run
from surefoot_actors.checkpoint.capture import Facts, HostMemory, Place, capture
from surefoot_actors.checkpoint.manifest import Point, make_manifest
from surefoot_actors.checkpoint.store import CheckpointStore
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.engine.state.tracked import Tracked

CPU = torch.device("cpu")
IDENTITY: dict[str, Any] = {
    "entrypoint": "job:train", "package": "0" * 64, "config": {}, "seed": 7, "batch_size": 32, "sub_tasks": 8, "threads": 1,
}  # fmt: skip
FINGERPRINT = (("device", "cpu"), ("torch", "2.13"))
DIGEST = "0123456789abcdef" * 2


class Awkward(nn.Module):
    """Tied weights, BatchNorm, bf16 and complex parameters, 0-dim, empty, bool and non-persistent buffers, one that is None."""

    def __init__(self, width: int = 48, vocabulary: int = 3000) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.BatchNorm1d(width)
        self.narrow = nn.Linear(width, width, dtype=torch.bfloat16)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.phase = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.rand(width) > 0.5)
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("hidden", torch.randn(7, dtype=torch.float64), persistent=False)
        self.register_buffer("later", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.embed(x)) * self.scale * self.phase.abs().sum()
        return cast(torch.Tensor, self.head(self.narrow(y.bfloat16()).float()))


def build(seed: int, steps: int = 0, **shape: int) -> dict[str, Any]:
    """Return the tracked objects, trained a little: fp32 Adam state on bf16 parameters, a scheduler, an average."""
    torch.manual_seed(seed)
    model = Awkward(**shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=50)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(steps):
        x = torch.randint(0, 3000, (16,))
        F.cross_entropy(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        average.update_parameters(model)
    if steps:
        state = optimizer.state[model.narrow.weight]
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].float() / 3, state["exp_avg_sq"].float() / 7
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}


def tracked(seed: int, steps: int = 0, **shape: int) -> Tracked:
    return Tracked(build(seed, steps, **shape), CPU)


def save(store: CheckpointStore, owner: Tracked, of: int = 1, step: int = 3, **identity: Any) -> str:
    """Save a state as `of` trainers would, and commit it; return the checkpoint's URL."""
    entries = []
    for share in range(of):
        place = Place(generation=2, round=step, step=step, share=share, of=of)
        last = Point(step=step - 1, digest=DIGEST, values={"loss": float("nan")})
        facts = Facts(fingerprint=FINGERPRINT, num_steps=50, last=last, rows=())
        captured = capture(owner.survey(), place, facts, HostMemory(CPU))
        entries.append(write_share(store.storage, f"t{share}", captured, {}).model_dump_json())
    return store.commit(make_manifest({**IDENTITY, **identity}, entries))


def train(num_steps: int, seen: Callable[[nn.Module], None] | None = None) -> Callable[[Run], None]:
    """Return a train function with BatchNorm, Dropout, a scheduler and two rounds in some steps."""
    data = [(torch.sin(torch.arange(12) * (i + 1.0)), i % 3) for i in range(100)]

    def function(run: Run) -> None:
        model = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
        for step in run.steps(num_steps):
            for x, y in step.batches(data):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
            scheduler.step()
            if step.every(3):
                for x, y in step.evaluate(data):
                    step.log(accuracy=(model(x).argmax(1) == y).float().mean())
        if seen is not None:
            seen(model)

    return function


def saved_bytes(owner: Tracked) -> bytes:
    """All of a state as comparable bytes."""
    file = io.BytesIO()
    image = owner.capture()
    torch.save((image.skeleton, image.tensors), file)
    return file.getvalue()
