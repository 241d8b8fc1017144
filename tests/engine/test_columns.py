"""Digests of containers of very many things: every change is seen, and nothing in them is looked at one by one."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surefoot_actors.engine.state import portable
from surefoot_actors.engine.state.columns import OneByOneError, digest_of_many

Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Sample:
    x: Any
    y: int = 0


class Counted:
    """Told by its own code alone."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        return Counted, (self.n,)


def digest(value: Any) -> bytes | None:
    return digest_of_many(value, lambda _: None, 1 << 28)


KINDS: list[Callable[[int], Any]] = [
    lambda i: i, lambda i: i % 2 == 0, float, str, lambda i: b"%d" % i, np.float32, np.int64,
    lambda i: torch.full((3,), float(i)), lambda i: torch.zeros(i % 3 + 1, i + 1), lambda i: torch.tensor(i),
    lambda i: torch.tensor(i % 200, dtype=torch.bfloat16), lambda i: np.full(3, i), lambda i: np.zeros((1, i + 1), np.uint8),
    lambda i: (i, [i, str(i)]), lambda i: Point(torch.tensor(i), i), lambda i: Sample([i], i), lambda i: Sample(Sample(i)),
    lambda i: {"x": i, "y": {i: [None]}}, lambda i: defaultdict(list, {i: [i]}), lambda i: Counter(str(i)),
    lambda i: OrderedDict(a=i), lambda i: deque([i]), lambda i: {i}, lambda i: Path(f"/{i}"), lambda i: None if i % 2 else i,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [list, tuple, deque, lambda values: dict(enumerate(values)), lambda v: [list(v), 1]])
def test_every_change_is_seen(kind: Callable[[int], Any], whole: Callable[[Any], Any]) -> None:
    values = [kind(i) for i in range(300)]
    assert digest(whole(values)) == digest(whole([kind(i) for i in range(300)]))
    for place in (0, 150, 299):
        changed = [*values]
        changed[place] = kind(place + 1)
        assert digest(whole(changed)) != digest(whole(values))
    assert digest(whole(values[:-1])) != digest(whole(values))


def test_kinds_beside_each_other_are_told_apart() -> None:
    mixed = [kind(1) for kind in KINDS]
    assert len({digest([value]) for value in mixed}) == len(
        {digest(mixed[:i] + mixed[i + 1 :]) for i in range(len(KINDS))}
    )
    assert digest([torch.zeros(2), 1]) != digest([1, torch.zeros(2)])
    assert digest([torch.zeros(2, 3)]) != digest([torch.zeros(3, 2)])
    assert digest([np.zeros(2, np.int64)]) != digest([np.zeros(2)])


def test_what_its_own_code_tells_is_left_to_that() -> None:
    itself: list[Any] = []
    itself.append(itself)
    for value in ([Counted(1)], [lambda: 0], [torch], itself, [torch.zeros(2).to_sparse()]):
        with pytest.raises(OneByOneError):
            digest(value)
    with pytest.raises(OneByOneError):  # what has a name is told by that
        digest_of_many([[1], [2]], lambda value: "two" if value == [2] else None, 1 << 28)
    assert portable.digest_of([Counted(1)], lambda _: None) != portable.digest_of([Counted(2)], lambda _: None)


def test_what_takes_too_many_bytes_is_not_looked_into() -> None:
    for value in ([torch.zeros(8)] * 10, [np.zeros(8)] * 10, ["word"] * 100):
        assert digest_of_many(value, lambda _: None, 100) is None


def test_samples_in_a_list_are_not_pickled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # a hundred thousand would take seconds, a dozen times before the fourth step, and at every checkpoint
    monkeypatch.setattr(portable, "_Writer", None)
    for kind in KINDS:
        assert portable.digest_of([kind(i) for i in range(1000)], lambda _: None)
