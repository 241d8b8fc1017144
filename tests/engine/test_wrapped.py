"""What wraps the loop over steps is looked for among all objects that there are: so only where something may."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from surefoot.errors import ContractError
from surefoot_actors.engine.contract import wrapped
from surefoot_actors.engine.contract.steps_iterator import StepsIterator

FIRST, STEPS = 3, 5


class Joined:
    """Training that a joiner comes to at its step 3."""

    def __init__(self) -> None:
        self._left = iter(range(FIRST, STEPS))

    def next_step(self) -> Any:
        return next((SimpleNamespace(number=n) for n in self._left), None)

    def finish(self) -> None:
        pass

    def leave(self) -> None:
        pass

    def steps_left(self) -> int | None:
        return None


def in_a_generator(steps: Iterable[Any]) -> Iterator[Any]:
    for step in steps:  # noqa: UP028  as progress bars do
        yield step


PLAIN: dict[str, Callable[[StepsIterator], Iterable[Any]]] = {
    "for": lambda steps: steps,
    "a comprehension": lambda steps: [step for step in steps],  # noqa: C416  as users do
}


@pytest.mark.parametrize("how", PLAIN)
def test_a_plain_loop_is_not_looked_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(*_: object) -> list[Any]:
        raise AssertionError("all objects were gone through")

    monkeypatch.setattr(wrapped.gc, "get_referrers", searched)
    assert [step.number for step in PLAIN[how](StepsIterator(Joined()))] == list(range(FIRST, STEPS))


# under other names than their own
count, both, some = enumerate, zip, itertools.islice
WRAPPED: dict[str, Callable[[StepsIterator], Iterable[Any]]] = {
    "enumerate": count,
    "zip": lambda steps: ((n, step) for step, n in both(steps, itertools.count(), strict=False)),
    "an iterator made before": lambda steps: count(iter(steps)),
    "islice in enumerate": lambda steps: count(some(steps, STEPS)),
    "enumerate around a generator": lambda steps: count(in_a_generator(in_a_generator(steps))),
    "zip around a generator": lambda steps: (
        (n, step) for step, n in both((s for s in steps), itertools.count(), strict=False)
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_counts_the_steps_counts_those_that_are_past(how: str) -> None:
    assert [(n, step.number) for n, step in WRAPPED[how](StepsIterator(Joined()))] == [(3, 3), (4, 4)]


def test_what_is_asked_before_the_steps_is_refused_by_any_name() -> None:
    with pytest.raises(ContractError, match=r"takes run\.steps\(\) after another iterable"):
        next(both(itertools.count(), StepsIterator(Joined()), strict=False))
