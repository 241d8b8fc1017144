"""Tracked state: captured and restored bit for bit, digested alike in any process, in stripes that cover all of it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from surefoot.errors import ContractError
from surefoot_actors.engine.state import digest as state_digest
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.types import StateImage

from .kit import Net

CPU = torch.device("cpu")


class Model(nn.Module):
    """bf16 parameters, a non-persistent buffer, a tied weight, an infinite mask, a channels-last kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6).to(torch.bfloat16)
        self.two = nn.Linear(6, 6).to(torch.bfloat16)
        self.two.weight = self.one.weight
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf), persistent=False)
        self.register_buffer("empty", None)


class FloatState(torch.optim.Optimizer):
    """Keeps fp32 state for bf16 parameters, which load_state_dict would cast, and an int that is no tensor."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "betas": (0.9, 0.99)})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("master", p.detach().float() + 1e-4)
                state["count"] = state.get("count", 0) + 1
                with torch.no_grad():
                    state["master"] -= 0.01
                    p.copy_(state["master"])


def build(seed: int, steps: int) -> tuple[Tracked, dict[str, Any]]:
    torch.manual_seed(seed)
    model = Model()
    half = FloatState([*model.one.parameters(), model.two.bias])
    adam = torch.optim.AdamW(model.conv.parameters(), lr=torch.tensor(1e-3))
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        half,
        [torch.optim.lr_scheduler.ConstantLR(half), torch.optim.lr_scheduler.CosineAnnealingLR(half, 10)],
        milestones=[2],
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    objects = {"model": model, "half": half, "adam": adam, "scheduler": scheduler, "scaler": scaler}
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        model.norm(torch.randn(4, 6))
        half.step()
        adam.step()
        scheduler.step()
    return Tracked(objects, CPU), objects


def received(image: StateImage) -> StateImage:
    """Return the image as it comes out of a network: private memory, tensors one after the other at any offset."""
    flat = torch.cat([torch.zeros(3, dtype=torch.uint8), *image.tensors])
    sizes = [t.numel() for t in image.tensors]
    return StateImage(skeleton=bytes(image.skeleton), tensors=list(flat[3:].split(sizes)))


def test_round_trip_is_bit_for_bit() -> None:
    veteran, old = build(1, 3)
    old["model"].eval()
    old["model"].one.weight.requires_grad_(False)
    joiner, new = build(2, 0)
    assert joiner.digest() != veteran.digest()
    joiner.restore(received(veteran.capture()))
    assert joiner.digest() == veteran.digest()
    assert joiner.tensor_digests() == veteran.tensor_digests()
    state = new["half"].state[new["model"].one.weight]
    assert state["master"].dtype == torch.float32
    assert torch.equal(state["master"], old["half"].state[old["model"].one.weight]["master"])
    assert state["count"] == 3
    assert new["adam"].param_groups[0]["lr"].item() == pytest.approx(1e-3)
    assert not new["model"].training
    assert not new["model"].one.weight.requires_grad
    assert new["model"].two.weight is new["model"].one.weight
    assert new["model"].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert new["scheduler"].last_epoch == old["scheduler"].last_epoch


def test_training_goes_on_alike_after_a_restore() -> None:
    veteran, old = build(1, 3)
    joiner, new = build(2, 1)
    joiner.restore(received(veteran.capture()))
    for objects in (old, new):
        torch.manual_seed(9)
        for _ in range(3):
            for p in objects["model"].parameters():
                p.grad = torch.randn_like(p)
            objects["half"].step()
            objects["adam"].step()
            objects["scheduler"].step()
    assert joiner.digest() == veteran.digest()


def test_restored_state_is_private() -> None:
    veteran, old = build(1, 2)
    joiner, _ = build(2, 0)
    joiner.restore(veteran.capture())
    before = joiner.digest()
    with torch.no_grad():
        old["model"].conv.weight.zero_()
        old["adam"].state[old["model"].conv.weight]["exp_avg"].zero_()
    assert joiner.digest() == before


def test_capture_holds_shared_tensors_once() -> None:
    tracked, _ = build(1, 1)
    names = [entry.name for entry in tracked.survey().entries]
    assert len(names) == len(set(names))
    assert "model.one.weight" in names
    assert "model.two.weight" not in names


@pytest.mark.parametrize("change", ["parameter", "lr", "buffer", "state", "training", "requires_grad", "scheduler"])
def test_every_part_of_the_state_is_in_the_digest(change: str) -> None:
    tracked, objects = build(1, 2)
    before, stripe = tracked.digest(), tracked.stripe_digest(0)
    model = objects["model"]
    with torch.no_grad():
        if change == "parameter":
            model.conv.bias[1] += 1e-7
        elif change == "lr":
            objects["half"].param_groups[0]["lr"] *= 1.0000001
        elif change == "buffer":
            model.mask[0, 0] = 0
        elif change == "state":
            objects["adam"].state[model.conv.weight]["exp_avg_sq"][0, 0, 0, 0] *= 2
        elif change == "training":
            model.norm.eval()
        elif change == "requires_grad":
            model.conv.bias.requires_grad_(False)
        else:
            objects["scheduler"].step()
    assert tracked.digest() != before
    assert tracked.stripe_digest(0) != stripe


@pytest.mark.process
def test_digest_is_the_same_in_another_process() -> None:
    """Another hash seed, another order of sets: the digest is of values."""
    code = (
        "from tests.engine.test_tracked import build; from tests.engine.test_tracked import odd_values;"
        "from surefoot_actors.engine.state.digest import canonical;"
        "print(build(1, 2)[0].digest().hex(), canonical(odd_values()).hex())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env["PYTHONPATH"] = root
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [build(1, 2)[0].digest().hex(), state_digest.canonical(odd_values()).hex()]


class Plain:
    def __init__(self) -> None:
        self.names = {"b", "a", "c", "d"}
        self.me = self


def odd_values() -> dict[str, Any]:
    return {
        "set": {"x", "y", "z"},
        "f": 0.1,
        "n": None,
        "o": Plain(),
        "dtype": torch.float32,
        "fn": build,
        "x": object(),
    }


def test_canonical_tells_types_and_bits_apart() -> None:
    values = [1, 1.0, True, "1", b"1", None, -0.0, 0.0, float("inf"), (1,), [1], {1: 2}, {"1": 2}]
    assert len({state_digest.canonical(v) for v in values}) == len(values)
    assert state_digest.canonical({"a": 1, "b": 2}) == state_digest.canonical({"b": 2, "a": 1})


def test_stripes_cover_the_state_and_name_what_drifted() -> None:
    model = nn.ModuleList([nn.Linear(700, 700), nn.Linear(10, 10)])
    tracked = Tracked({"model": model}, CPU)
    num = state_digest.num_stripes(tracked.survey())
    assert num == 2
    before = [tracked.stripe_digest(i) for i in range(num)]
    assert tracked.stripe_digest(num) == before[0]
    with torch.no_grad():
        model[1].bias[9] += 1  # type: ignore[operator, index]
    changed = [i for i in range(num) if tracked.stripe_digest(i) != before[i]]
    assert changed == [1]
    tables = [tracked.table(index).digests for index in range(num)]
    assert "model.1.bias" in tables[1]
    values = {"model (values)", "(gradients) (values)"}
    values.add("what step.log got outside of the inner loops, or that training ends")
    assert tables[0].keys() | tables[1].keys() == {f"model.{n}" for n, _ in model.named_parameters()} | values


def test_another_shape_is_named() -> None:
    veteran = Tracked({"model": nn.Linear(3, 2)}, CPU)
    for other, words in [
        (
            {"model": nn.Linear(4, 2)},
            "model.weight is torch.float32 (2, 4) here, torch.float32 (2, 3) in the run's state",
        ),
        ({"model": nn.Linear(3, 2, bias=False)}, "model.bias"),
        ({"net": nn.Linear(3, 2)}, "this trainer tracks ['net'], the run tracks ['model']"),
        ({"model": nn.Linear(3, 2).double()}, "torch.float64"),
    ]:
        with pytest.raises(ContractError) as caught:
            Tracked(other, CPU).restore(veteran.capture())
        assert words in str(caught.value)


def test_optimizer_of_other_parameters_is_named() -> None:
    model = nn.Linear(3, 2)
    one = Tracked({"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, CPU)
    two = Tracked({"optimizer": torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)}, CPU)
    with pytest.raises(
        ContractError, match=r"groups of \[1, 1\] parameters here; .* optimizer.param_groups.0.params.1 besides"
    ):
        two.restore(one.capture())


def test_other_groups_of_the_same_parameters_are_taken_over() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    one = Tracked({"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, CPU)
    optimizer = torch.optim.SGD([{"params": [other.weight]}, {"params": [other.bias]}], lr=0.2)
    two = Tracked({"model": other, "optimizer": optimizer}, CPU)
    two.restore(one.capture())
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [[id(p) for p in other.parameters()]]
    one.restore(two.capture())


def test_damaged_image_is_refused() -> None:
    tracked = Tracked({"model": Net()}, CPU)
    image = tracked.capture()
    image.tensors.pop()
    with pytest.raises(ContractError, match="damaged"):
        tracked.restore(image)


def test_deepcopy_of_a_model_has_the_same_digest() -> None:
    model = Net()
    assert Tracked({"model": model}, CPU).digest() == Tracked({"model": copy.deepcopy(model)}, CPU).digest()
