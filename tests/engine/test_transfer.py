"""State for joiners in stripes, and merged vectors for those behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from surefoot_actors.engine.exchange.transfer import _stripe

from .members import Members, alone, image, told


@pytest.fixture(scope="module")
def everyone() -> Iterator[Members]:
    started = Members()
    yield started
    started.close()


def _transfer(everyone: Members, joiners: int, fields: list[dict[str, Any]]) -> list[Any]:
    actions = ["give_state"] * 2 + ["take_state"] * joiners
    return [member.hear() for member in everyone.start(actions, fields + [{}] * joiners)[2:]]


@pytest.mark.parametrize("big", [0, 30_000_001], ids=["small", "several messages a tensor"])
def test_joiners_get_the_state_bit_for_bit(everyone: Members, big: int) -> None:
    wanted = image(big)
    for outcome in _transfer(everyone, 2, [{"digest_round": 9, "big": big}] * 2):
        assert outcome[0] == "returned", outcome
        skeleton, tensors, extra, merged = outcome[1]
        assert skeleton == wanted.skeleton
        assert tensors == [flat.numpy().tobytes() for flat in wanted.tensors]
        assert extra == b"extra"
        assert merged == told(alone(4))


@pytest.mark.parametrize(
    "fields",
    [[{"digest_round": 9}, {"digest_round": 8}], [{"digest_round": 8}] * 2],
    ids=["mixed rounds", "another round"],
)
def test_mixed_stripes_are_discarded(everyone: Members, fields: list[dict[str, Any]]) -> None:
    (outcome,) = _transfer(everyone, 1, fields)
    assert outcome[:2] == ("raised", "StripeMismatchError"), outcome


def test_sources_that_hold_different_state_are_told_by_name(everyone: Members) -> None:
    (outcome,) = _transfer(everyone, 1, [{"digest_round": 9}, {"digest_round": 9, "big": 5}])
    assert outcome[:2] == ("raised", "DriftError"), outcome
    assert "ranks 0 and 1 hold different state" in outcome[2]
    assert "tensor3" in outcome[2]
    assert "tensor0" not in outcome[2]


@pytest.mark.parametrize("num_sources", [1, 2, 3, 5])
def test_stripes_are_even_and_make_up_the_image(num_sources: int) -> None:
    sizes = [3, 0, 100, 20_000_001, 17]
    stripes = [list(_stripe(sizes, source, num_sources)) for source in range(num_sources)]
    covered = [(p.number, at) for stripe in stripes for p in stripe for at in (p.start, p.stop)]
    assert covered == sorted(covered)
    assert sum(p.stop - p.start for stripe in stripes for p in stripe) == sum(sizes)
    shares = [sum(p.stop - p.start for p in stripe) for stripe in stripes]
    assert max(shares) - min(shares) <= 1
