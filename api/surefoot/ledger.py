"""Comparing ledgers: whether two runs are the same, and if not, where they part. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from pydantic import ValidationError

from surefoot.errors import UserError
from surefoot.events import LedgerRow, Result

__all__ = ["Difference", "compare", "dump", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first step at which two ledgers part."""

    step: int
    # what differs, a line each, in words; the first ledger's value first
    what: tuple[str, ...]


def compare(one: Iterable[LedgerRow], other: Iterable[LedgerRow]) -> Difference | None:
    """Compare the result parts of two ledgers byte for byte, by step. None: they are identical.

    Circumstances (generation, trainers, seconds) may differ: that is the point.
    """
    for a, b in zip_longest(_by_step(one), _by_step(other)):
        if a is None or b is None or a.step != b.step:
            return _missing(a, b)
        if a.canonical() != b.canonical():
            return Difference(step=a.step, what=tuple(_parts(a, b)))
    return None


def dump(rows: Iterable[LedgerRow], **about: object) -> str:
    """Write a ledger as JSON, after whatever tells about it; `load` reads it."""
    document = {**about, "rows": [row.model_dump(mode="json") for row in rows]}
    return json.dumps(document, indent=1)


def load(text: str | bytes, name: str = "the file") -> list[LedgerRow]:
    """Read a ledger that `dump` (`surefoot ledger --json`) wrote. Raises UserError when it is none."""
    try:
        document = json.loads(text)
        return [LedgerRow.model_validate(row) for row in document["rows"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        detail = f"{error.error_count()} fields are wrong" if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{name} is no ledger as `surefoot ledger --json` writes it: {detail}") from None


def _by_step(rows: Iterable[LedgerRow]) -> list[Result]:
    return [row.result for row in sorted(rows, key=lambda row: row.result.step)]


def _missing(a: Result | None, b: Result | None) -> Difference:
    if b is None or (a is not None and a.step < b.step):
        assert a is not None
        return Difference(step=a.step, what=("only the first ledger has this step",))
    return Difference(step=b.step, what=("only the second ledger has this step",))


def _parts(a: Result, b: Result) -> Iterable[str]:
    if (a.first_sample, a.num_samples) != (b.first_sample, b.num_samples):
        yield f"samples: {_samples(a)} against {_samples(b)}"
    if a.digest != b.digest:
        yield f"digest of the merged vector: {a.digest} against {b.digest}"
    for name in [*a.values, *(name for name in b.values if name not in a.values)]:
        one, other = (repr(r.values[name]) if name in r.values else "not logged" for r in (a, b))
        if one != other:
            yield f"{name}: {one} against {other}"


def _samples(result: Result) -> str:
    return f"{result.first_sample} to {result.first_sample + result.num_samples - 1}"
