"""Data workers see what the loop changes in a dataset as the training thread does, and are not started anew for less."""

from __future__ import annotations

import functools
import multiprocessing
import random
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.data import following
from surefoot_actors.engine.data.changes import apply, compare, survey
from surefoot_actors.engine.data.loader import Loader
from surefoot_actors.engine.data.pool import Pool

from .kit import run_local, same
from .loading import a_partition, loaded

STAGE = 0
FOUND = [1]


def helper(i: int) -> int:
    return i + STAGE


class Slots:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Inner:
    def __init__(self) -> None:
        self.epoch = 0
        self.options = {"level": [0], 3: {"deep": 0}}


class Changing:
    """Reads whatever the loop may change."""

    common: ClassVar[int] = 0
    table: ClassVar[dict[str, int]] = {"a": 0}

    def __init__(self) -> None:
        self.stage = 0
        self.inner = Inner()
        self.tensor = torch.zeros(64)
        self.large = torch.zeros(200_000)
        self.array = np.zeros(64)
        self.many = [0] * 100
        self.rows: list[Any] = [torch.zeros(2)]
        self.queue: deque[float] = deque([0.0], maxlen=3)
        self.chosen: set[int] = set()
        self.slots = Slots()
        self.generator = np.random.default_rng(0)
        self.python = random.Random(0)
        self.shared = multiprocessing.Value("i", 0)
        self.transform: Callable[[float], float] = float
        self.raw = bytearray(3)
        self.length = 40

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(
            [
                index,
                self.stage,
                self.common + self.table["a"] + FOUND[-1],
                self.inner.epoch + self.inner.options["level"][-1] + self.inner.options[3]["deep"],  # type: ignore[index]
                self.tensor.sum().item() + self.large.sum().item(),
                self.array.sum() + sum(self.many),
                len(self.rows) + float(sum(r.sum() for r in self.rows)),
                sum(self.queue) + sum(self.chosen),
                self.slots.value + self.shared.value,
                self.generator.bit_generator.state["state"]["state"] % 1000,
                sum(self.python.getstate()[1]) % 1000,
                self.transform(index),
                helper(0),
                sum(self.raw),
            ],
            dtype=torch.float64,
        )


def set_global(step: int) -> None:
    global STAGE
    STAGE = step


CHANGES: dict[str, Callable[[Changing, int], Any]] = {
    "attribute": lambda d, step: setattr(d, "stage", step),
    "new attribute": lambda d, step: setattr(d, f"new{step}", step),
    "nested attribute": lambda d, step: setattr(d.inner, "epoch", step),
    "other object": lambda d, step: setattr(d, "inner", Inner()) or setattr(d.inner, "epoch", step),  # type: ignore[func-returns-value]
    "item of a list": lambda d, step: d.inner.options["level"].__setitem__(0, step),  # type: ignore[attr-defined]
    "item of a dict": lambda d, step: d.inner.options[3].update(deep=step),  # type: ignore[attr-defined]
    "appended": lambda d, step: d.inner.options["level"].append(step),  # type: ignore[attr-defined]
    "one of many": lambda d, step: d.many.__setitem__(50, step),
    "tensor in place": lambda d, step: d.tensor.add_(1),
    "tensor's view in place": lambda d, step: d.tensor[3:5].fill_(step),
    "large tensor in place": lambda d, step: d.large[7:9].fill_(step),
    "tensor by numpy": lambda d, step: d.tensor.numpy().__setitem__(3, step),
    "array in place": lambda d, step: d.array.__setitem__(slice(3, 5), step),
    "tensors appended": lambda d, step: d.rows.append(torch.ones(2) * step),
    "tensor in a list in place": lambda d, step: d.rows[0].add_(1),
    "queue": lambda d, step: d.queue.append(step),
    "set": lambda d, step: d.chosen.add(step),
    "slot": lambda d, step: setattr(d.slots, "value", step),
    "numpy generator": lambda d, step: d.generator.random(),
    "python generator": lambda d, step: d.python.random(),
    "shared by processes": lambda d, step: setattr(d.shared, "value", step),
    "transform": lambda d, step: setattr(d, "transform", functools.partial(pow, step)),
    "closure of a transform": lambda d, step: setattr(d, "transform", lambda i: i * step),
    "class": lambda d, step: setattr(Changing, "common", step),
    "container of the class": lambda d, step: Changing.table.update(a=step),
    "global variable": lambda d, step: set_global(step),
    "container in a global variable": lambda d, step: FOUND.append(step),
    "bytes": lambda d, step: d.raw.__setitem__(1, step),
    "length": lambda d, step: setattr(d, "length", 40 + step),
    "length that shrinks": lambda d, step: setattr(d, "length", 40 - 7 * step),
}


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    def reset() -> None:
        Changing.common, Changing.table["a"] = 0, 0
        FOUND[:] = [1]
        set_global(0)

    reset()
    yield reset
    reset()


@pytest.mark.parametrize("kind", CHANGES)
def test_data_workers_see_what_the_loop_changes(kind: str, as_it_was: Callable[[], None]) -> None:
    seen = []
    for data_workers in (0, 1):
        as_it_was()
        data = Changing()
        change = functools.partial(CHANGES[kind], data)
        seen.append(
            loaded(data, data_workers=data_workers, before=change, use=torch.Tensor.tolist, num_steps=3, batch_size=4)
        )
    assert seen[0] == seen[1]
    if kind != "new attribute":
        told = [[row[1:] if "length" not in kind else row for row in batch] for batch in seen[0]]
        assert told[0] != told[-1], "the change is not seen at all"


@pytest.mark.parametrize("wrap", [lambda d: Subset(d, range(20)), lambda d: ConcatDataset([d, Changing()])])
@pytest.mark.parametrize("kind", ["attribute", "tensor in place", "appended"])
def test_a_dataset_inside_another_is_followed(wrap: Callable[[Any], Any], kind: str) -> None:
    seen = []
    for data_workers in (0, 2):
        data = Changing()
        change = functools.partial(CHANGES[kind], data)
        seen.append(loaded(wrap(data), data_workers=data_workers, before=change, use=torch.Tensor.tolist))
    assert seen[0] == seen[1]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often data workers were started, one entry a time."""
    counted: list[int] = []
    start = Pool.start

    def counting(self: Pool, collate: Any) -> None:
        counted.append(1)
        start(self, collate)

    monkeypatch.setattr(Pool, "start", counting)
    return counted


@pytest.mark.parametrize(
    "kind", ["attribute", "nested attribute", "item of a list", "item of a dict", "class", "global variable"]
)
def test_plain_values_are_told_to_the_workers_that_there_are(kind: str, starts: list[int]) -> None:
    data = Changing()
    # what cannot be compared in every round may have changed, too
    data.large = torch.zeros(2)
    loaded(data, data_workers=1, before=functools.partial(CHANGES[kind], data), batch_size=4)
    assert len(starts) == (1 if kind != "class" else 3)


class Caching(Changing):
    """Keeps what it has read, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, Any] = {}
        self.num_read = 0

    def __getitem__(self, index: int) -> Any:
        self.num_read += 1
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


def test_what_a_dataset_changes_itself_starts_no_workers(starts: list[int]) -> None:
    data = Caching()
    one = loaded(data, data_workers=1, num_steps=8)
    assert len(starts) == 1
    assert one == loaded(Caching(), data_workers=0, num_steps=8)
    assert data.num_read == 0


class Joining:
    """A callable that collates."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, rows: list[Any]) -> Any:
        return torch.stack(rows) * self.factor

    def join(self, rows: list[Any]) -> Any:
        return torch.stack(rows) + self.factor


def scaled(rows: list[Any], factor: int, add: Any = 0) -> Any:
    return torch.stack(rows) * factor + add


KEEP = Joining(2)
COLLATES: dict[str, Callable[[int], Any]] = {
    "bound method": lambda step: KEEP.join,
    "method of a new object": lambda step: Joining(3).join,
    "lambda": lambda step: lambda rows: torch.stack(rows) * 2,
    "partial": lambda step: functools.partial(scaled, factor=3),
    "partial of a tensor": lambda step: functools.partial(scaled, factor=3, add=torch.ones(14)),
    "object": lambda step: KEEP,
    "new object": lambda step: Joining(5),
    "closure": lambda step: (lambda k: lambda rows: torch.stack(rows) * k)(7),
    "default": lambda step: lambda rows, k=[4]: torch.stack(rows) * k[0],  # type: ignore[misc]
}
CHANGING: dict[str, Callable[[int], Any]] = {
    "closure": lambda step: lambda rows: torch.stack(rows) * step,
    "partial": lambda step: functools.partial(scaled, factor=step),
    "object": lambda step: Joining(step),
    "method": lambda step: Joining(step).join,
    "default": lambda step: lambda rows, k=step: torch.stack(rows) * k,  # type: ignore[misc]
    "tensor": lambda step: functools.partial(scaled, factor=1, add=torch.ones(14) * step),
    "two kinds": lambda step: (lambda rows: torch.stack(rows)) if step % 2 else KEEP.join,
}


@pytest.mark.parametrize("kind", COLLATES)
def test_a_collate_that_is_another_object_every_step_starts_no_workers(kind: str, starts: list[int]) -> None:
    one = loaded(Changing(), COLLATES[kind], data_workers=1, num_steps=4)
    assert len(starts) == 1
    assert one == loaded(Changing(), COLLATES[kind], data_workers=0, num_steps=4)


@pytest.mark.parametrize("kind", CHANGING)
def test_a_collate_that_changes_is_followed(kind: str, starts: list[int]) -> None:
    data = Changing()
    data.large = torch.zeros(2)  # all of it is compared in every round
    one, other = (loaded(data, CHANGING[kind], data_workers=n, num_steps=4) for n in (0, 1))
    assert one == other
    assert len(starts) <= 4
    if kind in ("closure", "object", "method"):
        assert len(starts) == 1


def test_what_is_too_much_to_compare_every_round_is_compared_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in the depths of a large dataset is an error that names the line and what to do; told, it is followed."""
    monkeypatch.setattr(following, "_SHARE", 0)

    class Large:
        def __init__(self) -> None:
            self.rows = [[i] for i in range(5_000)]
            self.array = np.zeros(1 << 20)
            self.version = 0

        def __len__(self) -> int:
            return 5_000

        def __getitem__(self, index: int) -> Any:
            return self.rows[index][0] + self.rows[4_999][0] + self.array[5]

    def run(data: Large, before: Callable[[int], None], data_workers: int) -> Any:
        return loaded(data, data_workers=data_workers, before=before, num_steps=4)

    def in_the_depths(data: Large, step: int, told: bool = False) -> None:
        if step == 2:
            data.rows[4_999][0] += 5
            data.version += told

    def in_an_array(data: Large, step: int) -> None:
        data.array[5] = step // 2

    for change in (in_the_depths, in_an_array):
        data = Large()
        with pytest.raises(ContractError, match=r"here.py:1: the loop has changed the dataset.*version \+= 1"):
            run(data, functools.partial(change, data), 1)
    one, other = Large(), Large()
    assert run(one, lambda step: in_the_depths(one, step, True), 0) == run(
        other, lambda step: in_the_depths(other, step, True), 1
    )


def test_what_was_loaded_ahead_of_a_change_is_not_handed_out() -> None:
    """With one sub-task a step all of the next steps' batches are there when the loop changes the dataset."""
    data = Changing()
    loader = Loader(*_streams(), 1)
    partition = a_partition()
    try:
        source: Any = loader.source(data, None, partition, "here")
        for step in range(4):
            data.stage = step
            source.begin(None, partition, "here")
            for sub_task in range(2):
                batch = source.load(_key(step, sub_task))
                assert batch[:, 1].tolist() == [step] * 4
            while source._asked:  # all that is loaded ahead has come
                source._take(wait=True)
            assert source._ready
    finally:
        loader.close()


def _streams() -> Any:
    from surefoot_actors.determinism.rng import Streams

    return Streams(3, torch.device("cpu")), 3


def _key(step: int, sub_task: int) -> Any:
    from surefoot_actors.engine.data.prefetch import BatchKey

    return BatchKey(step, 0, sub_task, 0)


@pytest.mark.parametrize("data_workers", [0, 1])
def test_training_on_a_dataset_that_changes(data_workers: int, tmp_path: Any) -> None:
    """A stage, and a length that grows, both functions of the step: the same bytes, in one piece and restored."""
    stop = None

    def train(run: Run) -> None:
        data = Changing()
        model = torch.nn.Linear(14, 1, dtype=torch.float64)
        run.track(model=model)
        for step in run.steps(6):
            if step.number == stop:
                raise InterruptedError
            data.stage, data.length = step.number, 40 + step.number
            data.tensor.fill_(step.number)
            for x in step.batches(data):
                loss = model(x / 100).square().mean()
                loss.backward()
                step.log(loss=loss, stage=x[:, 1].mean())
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
            for x in step.evaluate(data):
                step.log(seen=x[:, 1].mean(), count=x[:, 0].max())

    whole = run_local(train, batch_size=8, sub_tasks=2, data_workers=data_workers)
    stop = 3
    with pytest.raises(InterruptedError):
        run_local(
            train, batch_size=8, sub_tasks=2, data_workers=data_workers, checkpoint=str(tmp_path), checkpoint_every=1
        )
    stop = None
    rest = run_local(train, batch_size=8, sub_tasks=2, data_workers=data_workers, restore=str(tmp_path))
    assert same(whole, rest)
    assert [row.result.values["stage"] for row in whole.rows] == list(range(6))
    assert same(whole, run_local(train, batch_size=8, sub_tasks=2, data_workers=1 - data_workers))


# ---- surveys


def test_a_change_is_put_where_the_survey_found_it() -> None:
    k = 1

    def transform(x: int) -> int:
        return x * k

    def make() -> Any:
        data = Inner()
        data.transform = transform  # type: ignore[attr-defined]
        data.bound = functools.partial(scaled, factor=Joining(2))  # type: ignore[attr-defined]
        return data

    here, there = make(), make()
    before = survey((here,), limit=500, most_bytes=1000)
    assert compare(before, survey((here,), limit=500, most_bytes=1000)) == []
    here.epoch, here.options["level"][0], here.options[3]["deep"] = 5, 6, float("nan")
    here.bound.keywords["factor"].factor = 8
    k = 9
    changes = compare(before, survey((here,), limit=500, most_bytes=1000))
    assert changes is not None
    assert len(changes) == 5
    for change in changes:
        apply(change, (there,))
    assert compare(survey((here,), limit=500, most_bytes=1000), survey((there,), limit=500, most_bytes=1000)) == []


def test_surveys_tell_values_apart_that_are_equal() -> None:
    def compared(one: Any, other: Any) -> Any:
        return compare(survey(([one],), limit=50, most_bytes=1000), survey(([other],), limit=50, most_bytes=1000))

    nan = float("nan")
    assert compared(nan, float("nan")) == []
    for one, other in [(1, True), (0.0, -0.0), (1, 1.0), ("a", b"a"), (nan, 1.0)]:
        assert compared(one, other) != []
    x = torch.ones(3)
    assert compared([x, x], [x, x]) == []
    assert compared([x, x], [x, x.clone()]) is None
    loop: list[Any] = []
    loop.append(loop)
    assert compared(loop, loop) == []
