"""A trainer whose code compiles nothing does not import torch's compiler; where code does, optimizers are compiled as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: others have imported the compiler.
CODE = """
import sys
import torch
from torch import nn
from surefoot_actors.local_run.run_local import run_local

OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop", "NAdam", "RAdam", "Rprop", "Adadelta", "Adagrad", "ASGD", "Adamax")
DATA = torch.utils.data.TensorDataset(torch.sin(torch.arange(64.0)).view(16, 4), torch.arange(16.0).view(16, 1))

def train(run):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = getattr(torch.optim, run.config["optimizer"])(model.parameters(), lr=0.01)
    optimizer.load_state_dict(optimizer.state_dict())
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(2):
        for x, y in step.batches(DATA):
            ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

def digests(names):
    return [run_local(train, config={"optimizer": name}, batch_size=8).digest for name in names]

def differentiable():
    # the only case in which gradients are on in a step
    copy = nn.Parameter(torch.ones(1)).clone()
    optimizer = torch.optim.SGD([copy], lr=0.1, differentiable=True)
    copy.grad = torch.ones(1)
    before = copy.grad_fn
    optimizer.step()
    return copy.grad_fn is not before and torch.is_grad_enabled()

without = digests(OPTIMIZERS)
assert differentiable()
assert "torch._dynamo" not in sys.modules and "torch._inductor" not in sys.modules

from torch._dynamo.testing import CompileCounter

assert digests(OPTIMIZERS[:2]) == without[:2]
assert differentiable()

model, counter = nn.Linear(4, 1), CompileCounter()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model(DATA[:4][0]).sum().backward()
before = model.weight.detach().clone()
torch.compile(optimizer.step, backend=counter)()
assert counter.frame_count >= 1, counter.frame_count
assert not torch.equal(before, model.weight)
print("well")
"""


@pytest.mark.process
def test_optimizers_import_no_compiler_and_are_compiled_where_there_is_one() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
