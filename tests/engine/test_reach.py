"""Values as bytes, what is in reach of the user's code and what of it goes along; the loop over steps in zip() and enumerate()."""

from __future__ import annotations

import ctypes
import itertools
import math
import multiprocessing
import queue
import sys
import types
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.portable import digest_of, dump, load
from surefoot_actors.local_run.run_local import run_local
from surefoot_actors.user_code.places import shown

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(deque)
    ),
    max_leaves=12,
)


def nobody(_: Any) -> None:
    return None


@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    again = load(dump(value, nobody), nobody)
    assert type(again) is type(value)
    assert digest_of(again, nobody) == digest_of(value, nobody)
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).t(),
        torch.ones(2, dtype=torch.bfloat16),
        torch.zeros(0),
        torch.tensor(3),
        torch.ones(3).expand(2, 3),
    ],
)
def test_tensors_keep_layout_and_content(tensor: torch.Tensor) -> None:
    again = load(dump({"a": tensor, "b": [tensor]}, nobody), nobody)
    assert again["a"] is again["b"][0]
    assert (again["a"].stride(), again["a"].dtype) == (tensor.stride(), tensor.dtype)
    assert torch.equal(again["a"], tensor)


class Holder:
    """Of the user's own, so to speak."""

    shared = 0

    def __init__(self, value: Any) -> None:
        self.value = value


def roots(value: Any) -> list[tuple[str, Any]]:
    return [("a", Holder(value)), ("b", {"alias": value})]


def told(attributes: Attributes) -> Any:
    """Return what the loop has changed, by name: besides, numbers that were made before it go along."""
    changed = attributes.changed()
    return load(changed, nobody)[2] if changed else {}


@settings(deadline=None)
@given(before=VALUES, after=VALUES)
def test_what_has_changed_is_given_to_another(before: Any, after: Any) -> None:
    copy = load(dump(before, nobody), nobody)
    mine, theirs = roots(before), roots(copy)
    one, other = Attributes(roots=mine), Attributes(roots=theirs)
    mine[0][1].value, mine[1][1]["new"] = after, after
    other.restore(one.changed())
    assert repr(theirs[0][1].value) == repr(after)
    assert repr(theirs[1][1]) == repr(mine[1][1])


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, 2], lambda v: v.reverse()),
        ({"a": 1, "b": 2}, lambda v: v.pop("a")),
        (OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
        ({1: "x"}, lambda v: v.clear()),
        ({"a": 1}, lambda v: v.update({2: 3})),
        ({1, 2}, lambda v: v.add(3)),
        (deque([1, 2], maxlen=2), lambda v: v.append(3)),
        (array("d", [1.0]), lambda v: v.append(2.0)),
        (bytearray(b"ab"), lambda v: v.extend(b"c")),
        (np.zeros(1 << 20), lambda v: v.__setitem__(12345, 1.0)),
        (torch.zeros(1 << 20), lambda v: v.__setitem__(12345, 1.0)),
        (torch.zeros(2), lambda v: v.resize_(3).fill_(1.0)),
        ([[1], [2]], lambda v: v[1].append(3)),
        (list(range(10_000)), lambda v: v.append(1)),
    ],
)  # fmt: skip
def test_changes_in_place_are_made_in_place(value: Any, change: Any) -> None:
    copy = load(dump(value, nobody), nobody)
    mine, theirs = roots(value), roots(copy)
    one, other = Attributes(roots=mine), Attributes(roots=theirs)
    assert not told(one)
    change(value)
    other.restore(one.changed())
    assert theirs[0][1].value is copy
    assert digest_of(copy, nobody) == digest_of(value, nobody)
    if isinstance(value, dict):
        assert list(copy) == list(value)


def test_what_is_changed_in_a_round_is_left_alone() -> None:
    held = {"cache": {}, "n": 0}
    one = Attributes(roots=[("a", held)])
    one.begin_round()
    held["cache"][3] = "x"
    one.end_round()
    mine = {"cache": {}, "n": 0}
    Attributes(roots=[("a", mine)]).restore(one.changed())
    assert mine == {"cache": {}, "n": 0}
    held["n"] += 1
    other = Attributes(roots=[("a", mine)])
    other.restore(one.changed())
    assert mine == {"cache": {}, "n": 1}
    # whoever joins knows what is left alone
    mine["cache"][4] = "y"
    third = {"cache": {}, "n": 0}
    Attributes(roots=[("a", third)]).restore(other.changed())
    assert third == {"cache": {}, "n": 1}


DATA = torch.utils.data.TensorDataset(torch.sin(torch.arange(240.0)).view(30, 8), torch.arange(30) % 3)


@pytest.mark.parametrize("shape", ["enumerate", "enumerate_from", "zip", "nested", "zip_longest"])
def test_counters_around_the_steps_go_on_where_the_run_is(shape: str, tmp_path: Path) -> None:
    seen: list[tuple[int, Any]] = []

    def around(steps: Any) -> Any:
        match shape:
            case "enumerate":
                return ((step, i) for i, step in enumerate(steps))
            case "enumerate_from":
                return ((step, i) for i, step in enumerate(steps, 5))
            case "zip":
                return zip(steps, itertools.count(2), strict=False)
            case "zip_longest":
                return itertools.zip_longest(steps, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
        return ((step, (i, v)) for i, (step, v) in enumerate(zip(steps, "abcdef", strict=True)))

    def train(run: Run) -> None:
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step, value in around(run.steps(6)):
            seen.append((step.number, value))
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    options: dict[str, Any] = {"batch_size": 8, "sub_tasks": 2, "checkpoint": str(tmp_path)}
    run_local(train, **options, checkpoint_every=4)
    whole = seen[:]
    seen.clear()
    run_local(train, batch_size=8, sub_tasks=2, restore=str(tmp_path / "step-000000004"))
    assert seen == whole  # the first four have come along with the list


def test_a_zip_that_asks_for_something_else_first_is_refused() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for _, step in zip(range(100), run.steps(6), strict=False):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    with pytest.raises(ContractError, match=r"test_reach\.py:\d+.*put run.steps\(\) first"):
        run_local(train, batch_size=8, sub_tasks=2)


def test_nan_is_itself() -> None:
    held = {"best": math.nan}
    assert not told(Attributes(roots=[("a", held)]))


def scaled(amount: float) -> Any:
    def scale(value: float, more: float = 1.0) -> float:
        return value * amount + more

    scale.calls = 3  # type: ignore[attr-defined]
    return scale


def test_functions_that_no_name_leads_to_come_back() -> None:
    made = load(dump({"f": scaled(2.0), "g": lambda v: v + 1}, nobody), nobody)
    assert (made["f"](3.0), made["g"](1), made["f"].calls) == (7.0, 2, 3)
    assert digest_of(scaled(2.0), nobody) == digest_of(scaled(2.0), nobody)
    assert digest_of(scaled(2.0), nobody) != digest_of(scaled(3.0), nobody)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.linspace(-1, 1, 5), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_of_other_layouts_come_back(make: Any) -> None:
    tensor = make()
    again = load(dump(tensor, nobody), nobody)
    assert (again.layout, again.dtype) == (tensor.layout, tensor.dtype)
    assert torch.equal(*[t.dequantize() if t.is_quantized else t.to_dense() for t in (again, tensor)])


def grow(array: Any) -> None:
    array[0] = [1.0, 2.0]


def count(value: Any) -> None:
    value.value += 3


@pytest.mark.parametrize(
    ("make", "change", "content"),
    [
        (lambda: ctypes.c_int(4), count, lambda v: v.value),
        (lambda: multiprocessing.Value("i", 4), count, lambda v: v.value),
        (queue.Queue, lambda v: v.put(5), lambda v: list(v.queue)),
        (lambda: np.array([[], None], dtype=object), grow, lambda v: v.tolist()),
    ],
)
def test_boxes_are_filled_where_they_are(make: Any, change: Any, content: Any) -> None:
    mine, theirs = make(), make()
    here, there = Attributes(roots=roots(mine)), Attributes(roots=roots(theirs))
    change(mine)
    there.restore(here.changed())
    assert content(theirs) == content(mine) != content(make())


def test_what_the_loop_writes_over_after_a_round_is_its_own() -> None:
    mine, theirs = {"loss": 9.0, "seen": 0}, {"loss": 9.0, "seen": 0}
    here, there = Attributes(roots=[("a", mine)]), Attributes(roots=[("a", theirs)])
    here.begin_round()
    mine.update(loss=0.3, seen=4)
    here.end_round()
    mine["loss"] = 0.5
    here.end_step(0)
    there.restore(here.changed())
    assert theirs == {"loss": 0.5, "seen": 0}


class Lazy(types.ModuleType):
    """A module that is imported when something is asked of it, as wandb and TensorFlow have them: here it is not installed."""

    def __getattr__(self, name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {self.__name__!r}")


keras = Lazy("keras")


@pytest.fixture
def lazy_in_sys_modules() -> Iterator[None]:
    sys.modules["lazy_keras"] = keras
    yield
    del sys.modules["lazy_keras"]


@pytest.mark.usefixtures("lazy_in_sys_modules")
def test_modules_that_are_imported_lazily_stay_so() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            for (x,) in step.batches(torch.utils.data.TensorDataset(torch.ones(8, 2))):
                model(x).mean().backward()
            optimizer.step()

    run_local(train, batch_size=8, sub_tasks=2)
    assert shown.__wrapped__(__file__).endswith("test_reach.py")
