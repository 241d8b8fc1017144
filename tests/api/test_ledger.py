"""Comparing ledgers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.conftest import make_row

from surefoot.errors import UserError
from surefoot.ledger import compare, dump, load

ROWS = [make_row(n) for n in range(5)]


def test_circumstances_may_differ() -> None:
    assert compare(ROWS, reversed([make_row(n, trainers=3) for n in range(5)])) is None
    assert compare([], []) is None


def test_the_first_step_is_named_with_what_differs() -> None:
    other = [*ROWS[:2], make_row(2, digest="f" * 32, loss=0.5, accuracy=0.25), make_row(3, digest="e" * 32), ROWS[4]]
    difference = compare(ROWS, other)
    assert difference is not None
    assert difference.step == 2
    assert difference.what == (
        f"digest of the merged vector: {2:032x} against {'f' * 32}",
        "loss: 0.3333333333333333 against 0.5",
        "accuracy: not logged against 0.25",
    )


def test_the_last_bit_of_a_value_counts() -> None:
    one, other = make_row(0, loss=0.5), make_row(0, loss=math.nextafter(0.5, 1))
    difference = compare([one], [other])
    assert difference is not None
    assert difference.what == ("loss: 0.5 against 0.5000000000000001",)


def test_minus_zero_is_another_value_and_nan_is_itself() -> None:
    assert compare([make_row(0, loss=0.0)], [make_row(0, loss=-0.0)]) is not None
    assert compare([make_row(0, loss=math.nan)], [make_row(0, loss=math.nan)]) is None


@given(st.integers(0, 4))
def test_a_missing_step_is_a_difference(step: int) -> None:
    shorter = ROWS[:step] + ROWS[step + 1 :]
    assert compare(ROWS, shorter).what == ("only the first ledger has this step",)  # type: ignore[union-attr]
    assert compare(shorter, ROWS).what == ("only the second ledger has this step",)  # type: ignore[union-attr]
    assert compare(shorter, ROWS).step == step  # type: ignore[union-attr]


def test_what_is_written_reads_back() -> None:
    rows = [*ROWS, make_row(5, loss=math.inf, other=math.nan)]
    assert compare(load(dump(rows, job="x")), rows) is None
    assert load(dump(rows))[4] == rows[4]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}', '{"rows": [{}]}', "\xff"])
def test_another_file_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"a\.json is no ledger"):
        load(text, "a.json")
