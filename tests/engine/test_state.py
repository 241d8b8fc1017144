"""What a joiner is given, or a checkpoint restores, is the state itself: layout in memory, sharing, structure, and what objects tell."""

from __future__ import annotations

import inspect
import io
import warnings
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot.local import LocalResult
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.vector.memory import ALIGNMENT

from .kit import points, run_local, same

CPU = torch.device("cpu")
DATA = points(64, 8)


class Cut(Exception):
    """Ends a training where a pause would."""


def goes_on(train: Any, place: Path, *, cut: int, **options: Any) -> tuple[LocalResult, LocalResult]:
    """Run `train` whole, and again cut off at a step and gone on from its checkpoint. It must raise Cut at config["cut"]."""
    options = {"batch_size": 16, "sub_tasks": 4, **options}
    whole = run_local(train, config={"cut": None}, **options)
    with pytest.raises(Cut):
        run_local(train, config={"cut": cut}, checkpoint=str(place), checkpoint_every=1, **options)
    return whole, run_local(train, config={"cut": None}, restore=str(place), **options)


def fit(run: Run, model: nn.Module, optimizer: Any, data: Any = DATA, steps: int = 6, **tracked: Any) -> Any:
    run.track(model=model, optimizer=optimizer, **tracked)
    for step in run.steps(steps):
        if step.number == run.config["cut"]:
            raise Cut
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        yield step


def transferred(old: Tracked, new: Tracked) -> None:
    """Give the one's state to the other, and see that nothing of it tells them apart."""
    image = old.capture()
    new.restore(image)
    assert new.tensor_digests() == old.tensor_digests()
    assert [s._replace(shares=None) for s in new.survey().specs()] == [
        s._replace(shares=None) for s in old.survey().specs()
    ]


# ---- memory layout


strided = st.builds(
    lambda shape, order, expand: (shape, order, expand),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.booleans(),
)


@given(strided)
@settings(max_examples=200, deadline=None)
def test_strides_of_any_kind_survive(kind: tuple[list[int], Any, bool]) -> None:
    shape, chance, expand = kind
    order = list(range(len(shape)))
    chance.shuffle(order)

    def build(filled: bool) -> Tracked:
        base = torch.arange(float(np.prod(shape))) if filled else torch.zeros(int(np.prod(shape)))
        tensor = base.view(shape).permute(order)
        if tensor.numel() == 1:
            tensor = tensor.as_strided(tensor.shape, [7] * tensor.ndim)
        if expand:
            tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
        return Tracked({"values": {"a": tensor, "b": [tensor]}}, CPU)

    old, new = build(True), Tracked({"values": {}}, CPU)
    transferred(old, new)
    transferred(old, build(False))
    values = new._given["values"]
    assert values["a"] is values["b"][0]


def test_a_layout_taken_on_while_training_is_taken_over() -> None:
    def build(last: bool) -> tuple[nn.Module, Tracked]:
        model = nn.Conv2d(3, 4, 3)
        tracked = Tracked({"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, CPU)
        if last:
            model.to(memory_format=torch.channels_last)
        return model, tracked

    (_, old), (model, new) = build(True), build(False)
    weight = model.weight
    transferred(old, new)
    assert model.weight is weight
    assert weight.stride() == (27, 1, 9, 3)  # type: ignore[operator]


def test_layout_is_part_of_the_digest() -> None:
    one = {"a": torch.zeros(2, 3, 4, 4)}
    other = {"a": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    assert Tracked({"v": one}, CPU).digest() != Tracked({"v": other}, CPU).digest()


@pytest.mark.parametrize("fused", [False, True])
def test_a_channels_last_model_goes_on_to_the_same_bits(fused: bool, tmp_path: Path) -> None:
    images = torch.utils.data.TensorDataset(torch.sin(torch.arange(16 * 75.0)).view(16, 3, 5, 5), torch.arange(16) % 3)

    def train(run: Run) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 3)).to(memory_format=torch.channels_last)
        for _ in fit(run, model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused), images):
            pass

    whole, again = goes_on(train, tmp_path, cut=3)
    assert same(whole, again)


def test_memory_of_other_libraries_is_left_at_the_start() -> None:
    flat = np.zeros(1000, dtype=np.float32)
    offset = next(i for i in range(16) if (flat.ctypes.data + 4 * i) % ALIGNMENT)
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.from_numpy(flat[offset : offset + 8]))
    model.register_parameter("view", nn.Parameter(torch.zeros(10)[1:5]))
    tracked = Tracked({"model": model}, CPU)
    assert model.table.data_ptr() % ALIGNMENT == 0  # type: ignore[operator]
    assert model.view.data_ptr() % ALIGNMENT == 4  # type: ignore[operator]  # the same in every process
    transferred(tracked, tracked)


def test_the_users_tensors_can_be_resized_after_anything_was_read_of_them(tmp_path: Path) -> None:
    """numpy's view of a tensor pins its memory for good, as observers of quantization, which resize their buffers, found out."""

    def train(run: Run) -> None:
        model = Tilted()
        model.register_buffer("grows", torch.zeros(3))
        for step in fit(run, model, torch.optim.Adam(model.parameters())):
            model.grows.fill_(step.number)  # type: ignore[operator]
        tracked = Tracked({"model": model}, CPU)
        tracked.settle()
        tracked.restore(tracked.capture())
        tracked.table(0)
        tracked.digest()
        model.grows.resize_(100)  # type: ignore[operator]
        model.inner.weight.data.resize_(100)

    run_local(train, batch_size=16, sub_tasks=4, config={"cut": None}, checkpoint=str(tmp_path), checkpoint_every=1)


# ---- sharing and identity


def test_what_is_one_tensor_is_one_afterwards() -> None:
    def build() -> tuple[Tracked, dict[str, Any], Any]:
        model = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.02))
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        values: dict[str, Any] = {"w": model.weight.detach(), "rows": [model.weight.detach()[1]], "n": 1}
        return (
            Tracked({"model": model, "optimizer": optimizer, "plateau": plateau, "values": values}, CPU),
            values,
            optimizer,
        )

    (old, values, optimizer), (new, copies, joined) = build(), build()
    values["lr"] = optimizer.param_groups[0]["lr"]
    lr = joined.param_groups[0]["lr"]
    transferred(old, new)
    assert joined.param_groups[0]["lr"] is lr is copies["lr"]
    with torch.no_grad():
        joined.param_groups[0]["params"][0].fill_(7)
    assert copies["w"][0, 0] == 7
    assert copies["rows"][0][0] == 7


class Shadow:
    """Objects of the user's own inside a state_dict: with tensors, slots, containers of any kind."""

    __slots__ = ("count", "tensors")

    def __init__(self, value: float) -> None:
        self.tensors, self.count = deque([torch.full((3,), value)]), Counter(a=2)


class Keeper:
    def __init__(self, value: float) -> None:
        self.shadow, self.raw = Shadow(value), io.BytesIO(b"%f" % value)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "raw": self.raw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow, self.raw = state["shadow"], state["raw"]


def test_objects_inside_a_state_dict_keep_their_tensors() -> None:
    one, other = Keeper(1.0), Keeper(2.0)
    old, new = Tracked({"keeper": one}, CPU), Tracked({"keeper": other}, CPU)
    before = old.digest()
    assert new.digest() != before
    transferred(old, new)
    assert torch.equal(other.shadow.tensors[0], torch.ones(3))
    other.shadow.tensors[0].zero_()
    assert old.digest() == before != new.digest()
    one.shadow.count["a"] = 3
    assert old.digest() != before


# ---- what objects tell of themselves


class Scaled(nn.Linear):
    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale

    def get_extra_state(self) -> dict[str, Any]:
        return {"scale": self.scale, "history": torch.tensor([self.scale])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]


class OldStyle(Scaled):
    """Tells its value by hooks that are older than extra state."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "scale"] = torch.tensor(self.scale, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if prefix + "scale" in state_dict:
            self.scale = state_dict.pop(prefix + "scale").item()
        super()._load_from_state_dict(state_dict, prefix, *args)


@pytest.mark.parametrize("kind", [Scaled, OldStyle])
def test_extra_state_goes_along(kind: Any, tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = kind(8, 3)
        for step in fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1)):
            model.scale = 0.9 * model.scale + 0.1 * step.merged["loss"]

    whole, again = goes_on(train, tmp_path, cut=3)
    assert same(whole, again)


class Lookahead(torch.optim.Optimizer):
    """As published: wraps an optimizer, keeps slow weights and a counter, and tells them in a state_dict of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 2) -> None:
        self.optimizer, self.k, self.counter = optimizer, k, 0
        self.param_groups, self.defaults = optimizer.param_groups, optimizer.defaults
        self.state = optimizer.state
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()
        self.counter += 1
        if self.counter % self.k == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            for slow, p in zip(self.slow, fast, strict=True):
                slow += 0.5 * (p.detach() - slow)
                p.data.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        return {"fast": self.optimizer.state_dict(), "slow": self.slow, "counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["fast"])
        self.slow, self.counter = state["slow"], state["counter"]


class PlainLookahead(Lookahead):
    """The same, but no Optimizer by its class."""


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrappers_of_optimizers_keep_their_own_state_and_the_inner_one(
    plain: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    class Duck:
        def __init__(self, optimizer: Lookahead) -> None:
            self.inner = optimizer

        def step(self) -> None:
            self.inner.step()

        def state_dict(self) -> dict[str, Any]:
            return self.inner.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.inner.load_state_dict(state)

    def train(run: Run) -> None:
        model = nn.Linear(8, 3).to(dtype)
        optimizer: Any = Lookahead(torch.optim.AdamW(model.parameters(), lr=0.05))
        data = torch.utils.data.TensorDataset(DATA.tensors[0].to(dtype), DATA.tensors[1])
        for _ in fit(run, model, Duck(optimizer) if plain else optimizer, data):
            pass

    for cut in (2, 3):
        whole, again = goes_on(train, tmp_path / str(cut), cut=cut)
        assert same(whole, again)


def test_a_dict_is_tracked(tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = nn.Linear(8, 3)
        early = {"best": float("inf"), "bad": 0, "mean": torch.zeros(3)}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for step in fit(run, model, optimizer, early=early):
            early["mean"] = 0.9 * early["mean"] + model.bias.detach()
            early["best"] = min(early["best"], step.merged["loss"])
            optimizer.param_groups[0]["lr"] = 0.1 * early["best"]

    whole, again = goes_on(train, tmp_path, cut=3)
    assert same(whole, again)


class Forgetful(Keeper):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.raw = io.BytesIO(b"0")


class Closed(Keeper):
    def state_dict(self) -> dict[str, Any]:
        return {"function": lambda: 1}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, ["keeper.load_state_dict() does not give back", "keeper (values)"]),
        (Closed, ["keeper.function", "cannot be saved"]),
    ],
)
def test_objects_that_cannot_be_given_to_a_joiner_are_refused_at_the_start(kind: Any, words: list[str]) -> None:
    def train(run: Run) -> None:
        run.config["seen"].append(1)
        model = nn.Linear(8, 3)
        for _ in fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1), keeper=kind(1.0)):
            run.config["seen"].append(1)

    seen: list[int] = []
    with pytest.raises(ContractError) as caught:
        run_local(train, batch_size=16, sub_tasks=4, config={"cut": None, "seen": seen})
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(seen) == 1


def test_a_kernel_that_is_not_reproducible_is_refused_where_it_is_tracked() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(8, 3).bfloat16()
        run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))

    with pytest.raises(
        ContractError, match=r"run.track\(\) at test_state.py:\d+: optimizer is a fused SGD.*leave fused=True out"
    ):
        run_local(train, batch_size=16, sub_tasks=4)


# ---- structure


@pytest.mark.parametrize("cut", [2, 4, 5])
def test_a_parameter_group_that_was_added_is_taken_over(cut: int, tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for step in fit(run, model, optimizer, schedule=schedule):
            if step.number == 2:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01, "initial_lr": 0.01})
                schedule.base_lrs.append(0.01)
            schedule.step()

    whole, again = goes_on(train, tmp_path, cut=cut)
    assert same(whole, again)


def _prune(model: Any, optimizer: Any) -> None:
    prune.l1_unstructured(model[0], "weight", 0.5)


def _replace(model: Any, optimizer: Any) -> None:
    model[1] = nn.Linear(8, 3)


def _append(model: Any, optimizer: Any) -> None:
    model.append(nn.Identity())


def _buffer(model: Any, optimizer: Any) -> None:
    model.register_buffer("new", torch.zeros(1))


def _parametrize(model: Any, optimizer: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model[0])


def _remove(model: Any, optimizer: Any) -> None:
    del model[1]


def _stranger(model: Any, optimizer: Any) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(7))]})


@pytest.mark.parametrize("change", [_prune, _replace, _append, _buffer, _parametrize, _remove, _stranger])
def test_a_change_of_structure_while_training_is_refused_at_once(change: Any) -> None:
    steps = []

    def train(run: Run) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in fit(run, model, optimizer):
            steps.append(step.number)
            if step.number == 2:
                change(model, optimizer)

    with pytest.raises(ContractError, match=r"before run.steps|before the training begins") as caught:
        run_local(train, batch_size=16, sub_tasks=4, config={"cut": None})
    assert steps == [0, 1, 2]
    at_the_line = change not in (_remove, _stranger)
    assert (f"{_line_of(change)}, in the midst of training" if at_the_line else "at the end of step 2") in str(
        caught.value
    )


def _line_of(change: Any) -> str:
    """The line of a function's last statement."""
    lines, first = inspect.getsourcelines(change)
    return f"test_state.py:{first + len(lines) - 1}"


@pytest.mark.parametrize("change", [_prune, _replace, _append, _buffer, _parametrize])
def test_a_change_of_structure_before_the_loop_is_no_change(change: Any, tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        change(model, optimizer)
        for step in run.steps(4):
            if step.number == run.config["cut"]:
                raise Cut
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    whole, again = goes_on(train, tmp_path, cut=2)
    assert same(whole, again)


def test_lazy_modules_are_refused_where_they_are_tracked() -> None:
    def train(run: Run) -> None:
        run.track(model=nn.Sequential(nn.LazyLinear(3)))

    with pytest.raises(ContractError, match=r"model.0.weight has no shape yet.*call the model once before run.track"):
        run_local(train, batch_size=16, sub_tasks=4)


def test_inference_tensors_are_refused_where_they_are_tracked() -> None:
    def train(run: Run) -> None:
        with torch.inference_mode():
            model = nn.Linear(8, 3)
        run.track(model=model)

    with pytest.raises(ContractError, match=r"model.weight was made under torch.inference_mode"):
        run_local(train, batch_size=16, sub_tasks=4)


class Tilted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.register_buffer("tilt", torch.linspace(0, 1, 3).expand(4, 3))
        self.register_buffer("corner", torch.zeros(1).expand(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.tilt[0]  # type: ignore[index, no-any-return]


def test_a_buffer_made_by_expand_is_state(tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = Tilted()
        for step in fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1)):
            with torch.no_grad():
                model.tilt[0].add_(step.merged["loss"])  # type: ignore[operator, index]

    whole, again = goes_on(train, tmp_path, cut=3)
    assert same(whole, again)


def test_a_scripted_module_with_buffers_trains_and_goes_on(tmp_path: Path) -> None:
    def train(run: Run) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.jit.script(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)))
        for _ in fit(run, model, torch.optim.AdamW(model.parameters(), lr=1e-2)):
            pass

    whole, again = goes_on(train, tmp_path, cut=3)
    assert same(whole, again)


# ---- attributes


class Counting(nn.Linear):
    """Counts its calls, which says nothing of the result and differs from trainer to trainer."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Warmed(torch.optim.SGD):
    """Keeps its count of steps to itself."""

    done = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.done += 1
        self.param_groups[0]["lr"] = 0.1 * min(1.0, self.done / 4)
        super().step()


def test_attributes_that_the_loop_changes_go_along(tmp_path: Path) -> None:
    def train(run: Run) -> None:
        model = nn.Sequential(Counting(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        for step in fit(run, model, Warmed(model.parameters(), lr=0.1)):
            if step.number == 1:
                model[1].p = 0.0
        run.config["calls"].append(model[0].calls)

    calls: list[int] = []
    for cut in (1, 2, 4):
        options: dict[str, Any] = {"batch_size": 16, "sub_tasks": 4}
        whole = run_local(train, config={"cut": None, "calls": calls}, **options)
        with pytest.raises(Cut):
            run_local(
                train,
                config={"cut": cut, "calls": calls},
                checkpoint=str(tmp_path / str(cut)),
                checkpoint_every=1,
                **options,
            )
        again = run_local(train, config={"cut": None, "calls": calls}, restore=str(tmp_path / str(cut)), **options)
        assert same(whole, again)


class Staged(torch.utils.data.Dataset[Any]):
    """Grows by a stage, and keeps a list and an array of its own."""

    def __init__(self) -> None:
        self.stage, self.length, self.names = 0, 24, ["a"]
        self.weights = np.ones(3, dtype=np.float32)
        self.cache: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        self.cache[i] = torch.zeros(2)
        x, y = DATA[i]
        return x * float(self.weights.sum()) + self.stage + len(self.names), y


class Patience:
    best, bad = float("inf"), 0


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_what_the_loop_changes_of_objects_in_sight_goes_along(wrapped: bool, cut: int, tmp_path: Path) -> None:
    def train(run: Run) -> None:
        inner = Staged()
        data: Any = torch.utils.data.Subset(inner, range(20)) if wrapped else inner
        patience = Patience()
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(6):
            if step.number == run.config["cut"]:
                raise Cut
            inner.length += 1
            for x, y in step.batches(data):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
            inner.stage += step.merged["loss"]
            inner.names.append("b")
            inner.weights *= 0.9
            patience.bad += step.merged["loss"] > patience.best
            patience.best = min(patience.best, step.merged["loss"])
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + patience.bad)

    whole, again = goes_on(train, tmp_path, cut=cut)
    assert same(whole, again)


class Buffer:
    """Holds 2 MiB, of which a little changes."""

    def __init__(self) -> None:
        self.at, self.rows = 0, torch.zeros(1 << 19)


def test_large_values_go_along_too(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    def train(run: Run) -> None:
        buffer = Buffer()
        model = nn.Linear(8, 3)
        for _ in fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1)):
            buffer.rows[buffer.at] = 1.0
            buffer.at += 1
            seen.append((buffer.at, float(buffer.rows.sum())))

    goes_on(train, tmp_path, cut=3)
    assert seen[-3:] == [(4, 4.0), (5, 5.0), (6, 6.0)]


COUNTS = {"steps": 0}


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_variables_that_the_loop_changes_go_along(cut: int, tmp_path: Path) -> None:
    COUNTS["steps"] = 0

    def train(run: Run) -> None:
        best, history, rate = float("inf"), [], 0.1
        kept: dict[str, torch.Tensor] = {}
        done = 0

        def finished() -> None:
            nonlocal done
            done += 1

        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(6):
            if step.number == run.config["cut"]:
                raise Cut
            for x, y in step.batches(DATA):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
            finished()
            rate *= 0.7
            history.append(step.merged["loss"])
            if step.merged["loss"] < best:
                best, kept = step.merged["loss"], {n: p.detach().clone() for n, p in model.state_dict().items()}
            else:
                model.load_state_dict(kept)
            optimizer.param_groups[0]["lr"] = rate + 0.01 * len(history) + 0.001 * done + best / 100
            COUNTS["steps"] = len(history)

    whole, again = goes_on(train, tmp_path, cut=cut)
    assert same(whole, again)
