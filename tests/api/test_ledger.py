"""Comparing ledgers."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.conftest import FakeService, make_row, make_view

from surefoot import AsyncClient, Client
from surefoot.errors import UserError
from surefoot.events import Circumstances, LedgerRow, Result
from surefoot.ledger import compare, compare_lines, dump, load, read_lines, step_of
from surefoot.spec import JobState

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


# ---- row by row

# names that look like what is cut at, and every kind of number
Names = st.sampled_from(["loss", "circumstances", '","circumstances":', "result", "\\", "\u2028", "é"])
Values = st.dictionaries(
    Names, st.sampled_from([0.0, -0.0, 1.0, 1e300, 5e-324, math.nan, math.inf, -math.inf, 0.1]), max_size=3
)


@st.composite
def ledgers(draw: st.DrawFn) -> list[LedgerRow]:
    steps = draw(st.sets(st.integers(0, 6)))
    rows = []
    for step in sorted(steps):
        num, digest = draw(st.integers(1, 2)), draw(st.sampled_from(["0" * 32, "f" * 32]))
        result = Result(step=step, first_sample=step * 8, num_samples=num, digest=digest, values=draw(Values))
        names = draw(st.lists(st.sampled_from(["a", ',"circumstances":', '"']), max_size=2))
        how = Circumstances(generation=1, trainers=draw(st.integers(1, 2)), seconds=0.5, nondeterministic=tuple(names))
        rows.append(LedgerRow(result=result, circumstances=how))
    return rows


def _line(row: LedgerRow, form: str) -> bytes:
    """The row's JSON, as another writer may have it."""
    document = json.loads(row.model_dump_json())
    if form == "spaced":
        return json.dumps(document).encode()
    if form == "turned":
        return json.dumps(dict(reversed(document.items()))).encode()
    if form == "other numbers":
        values = {k: int(v) if v == 1.0 else v for k, v in document["result"]["values"].items()}
        document["result"]["values"] = dict(reversed(values.items()))
        return json.dumps(document, separators=(",", ":")).encode()
    return row.model_dump_json().encode()


Forms = st.sampled_from(["as kept", "spaced", "turned", "other numbers"])


@settings(deadline=None)
@given(ledgers(), ledgers(), Forms, st.booleans())
def test_lines_are_compared_as_rows_are(one: list[LedgerRow], other: list[LedgerRow], form: str, related: bool) -> None:
    if related:  # the same but for the circumstances, and for the last row at most
        how = Circumstances(generation=7, trainers=3, seconds=9.0)
        other = [row.model_copy(update={"circumstances": how}) for row in one[:-1]] + one[-1:]
    lines, other_lines = [r.model_dump_json().encode() for r in one], [_line(r, form) for r in other]
    num_same, difference = compare_lines(iter(lines), iter(other_lines))
    assert difference == compare(one, map(LedgerRow.model_validate_json, other_lines))
    if difference is None:
        assert num_same == len(one)
    assert [step_of(line) for line in other_lines] == [row.result.step for row in other]


@settings(deadline=None)
@given(ledgers())
def test_a_file_is_read_row_by_row_as_it_is_at_once(rows: list[LedgerRow]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.json"
        for text in (dump(rows, job="x"), dump(rows[::-1]), json.dumps(json.loads(dump(rows)), indent=1)):
            file.write_text(text)
            found = [LedgerRow.model_validate_json(line).model_dump_json() for line in read_lines(file)]
            assert found == [row.model_dump_json() for row in rows]


@pytest.mark.parametrize("spoilt", ["x", '{"result": 1},', ""])
def test_a_spoilt_line_is_told(tmp_path: Path, spoilt: str) -> None:
    lines = dump(ROWS).splitlines()
    lines[4] = spoilt or lines[4][:-40]
    (tmp_path / "a.json").write_text("\n".join(lines))
    with pytest.raises(UserError, match="is no ledger"):
        list(read_lines(tmp_path / "a.json"))


class LongLedger(FakeService):
    """A ledger of a page and a bit, made as it is asked for."""

    def _ledger(self, request: Any) -> Any:
        start, limit = int(request.url.params["from_step"]), int(request.url.params["limit"])
        self.rows = [make_row(step) for step in range(start, min(12_000, start + limit))]
        return super()._ledger(request)


@pytest.mark.parametrize("by_lines", [True, False], ids=["lines", "an older service's document"])
def test_the_ledger_comes_page_by_page(by_lines: bool) -> None:
    fake = LongLedger(by_lines=by_lines)
    fake.add(make_view("j1"))
    with Client("http://test", "t", transport=fake.transport) as client:
        rows = client.job("j1").iter_ledger(from_step=1_000)
        first = next(rows)
        asked = [path for _, path in fake.log if path.endswith("/ledger")]
        assert (first, len(asked)) == (make_row(1_000), 1)
        assert [row.result.step for row in rows] == list(range(1_001, 12_000))
        assert [path for _, path in fake.log if path.endswith("/ledger")] == asked * 2
        assert [row.result.step for row in client.job("j1").ledger()] == list(range(12_000))


async def test_the_same_with_asyncio() -> None:
    fake = FakeService(rows=ROWS)
    fake.add(make_view("j1", JobState.SUCCEEDED))
    async with AsyncClient("http://test", "t", transport=fake.transport) as client:
        job = await client.job("j1")
        assert [row async for row in job.iter_ledger(from_step=2)] == ROWS[2:]
        assert await job.ledger() == ROWS
        await client.delete(job)
    assert fake.log[-1] == ("DELETE", "/v1/jobs/j1")


def test_comparing_100_000_steps_holds_a_few_of_them() -> None:
    """Memory is that of two pages, however long the ledgers are; what was the whole of both took 540 MB."""

    def lines() -> Iterator[bytes]:
        return (make_row(step).model_dump_json().encode() for step in range(20_000))

    tracemalloc.start()
    try:
        assert compare_lines(lines(), lines()) == (20_000, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
