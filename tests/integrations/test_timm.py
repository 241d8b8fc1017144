"""A model of timm is a module like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process  # timm and what it needs lie in a folder of their own: see tests/libraries.txt

LIBRARIES = Path(sys.prefix, "libraries")

_TIMM = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
import torch
# the functions that torchvision finds missing where its compiled part does not fit this build of torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
import torch.nn.functional as F
from tests.engine.kit import run_local, run_scripted, same

torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(40, 3, 32, 32), torch.arange(40) % 3)

def train(run):
    model = timm.create_model(run.config["model"], num_classes=3, drop_rate=0.1, **run.config["more"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(2):
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()

for name, more in (("vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "num_heads": 1, "embed_dim": 32}), ("resnet10t", {})):
    config = {"model": name, "more": more}
    whole = run_local(train, batch_size=8, sub_tasks=4, seed=1, config=config)
    other = run_scripted(train, batch_size=8, seed=1, config=config, order=[2, 0, 3, 1], parts=[[0], [1, 2], [3]])
    assert same(whole, other), name
    print(name, flush=True)
print("well")
"""


def test_models_of_timm() -> None:
    assert LIBRARIES.is_dir(), "make setup installs it"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _TIMM, str(root), str(LIBRARIES)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.endswith("well\n"), done.stdout + done.stderr
