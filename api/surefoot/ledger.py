"""Comparing ledgers: whether two runs are the same, and if not, where they part. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pydantic import ValidationError

from surefoot._paths import why_not
from surefoot.errors import UserError
from surefoot.events import LedgerRow, Result

__all__ = ["Difference", "compare", "compare_lines", "dump", "dump_lines", "load", "read_lines", "read_row", "step_of"]

# how a row is written, and kept (`LedgerRow.model_dump_json`)
_BEGIN, _END_OF_RESULT = b'{"result":', b',"circumstances":'
_STEP = re.compile(rb'^\{"result":\{"step":(\d{1,18}),')
# how `dump` begins its rows, each on a line of its own
_ROWS = b'"rows": ['
# what JSON may write as it is, and a terminal may obey
_NOT_PLAIN = re.compile(r"[^\n -~]")


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


def compare_lines(one: Iterable[bytes], other: Iterable[bytes]) -> tuple[int, Difference | None]:
    """Compare two ledgers as `compare` does, each the JSON of its rows by step; return how many steps are the same before they part.

    Holds no more than a row of each. Only rows whose text differs are read at all.
    """
    same = 0
    for a, b in zip_longest(one, other):
        if a is None or b is None or not _is_same_text(a, b):
            first, second = (None if line is None else read_row(line).result for line in (a, b))
            if first is None or second is None or first.step != second.step:
                return same, _missing(first, second)
            if first.canonical() != second.canonical():
                return same, Difference(step=first.step, what=tuple(_parts(first, second)))
        same += 1
    return same, None


def _is_same_text(a: bytes, b: bytes) -> bool:
    """Whether two rows have the same result for certain, as its very text is the same; where not, they may have it yet.

    The text before the last `,"circumstances":` holds all of a result that comes first: within a JSON string its quotes would be escaped.
    """
    if not (a.startswith(_BEGIN) and b.startswith(_BEGIN)):
        return a == b
    first, mark, _ = a.rpartition(_END_OF_RESULT)
    second, other_mark, _ = b.rpartition(_END_OF_RESULT)
    return bool(mark) and bool(other_mark) and first == second


def read_row(line: bytes) -> LedgerRow:
    """Read a row's JSON. Raises UserError when it is none."""
    try:
        return LedgerRow.model_validate_json(line)
    except ValidationError as error:
        begin = ascii(line[:60].decode(errors="replace"))
        raise UserError(f"this is no row of a ledger: {error.error_count()} fields are wrong in {begin}") from None


def step_of(line: bytes) -> int:
    """The step of a row's JSON."""
    found = _STEP.match(line)
    return int(found[1]) if found else read_row(line).result.step


def dump(rows: Iterable[LedgerRow], **about: object) -> str:
    """Write a ledger as JSON, after whatever tells about it; `load` reads it."""
    return "".join(dump_lines((row.model_dump_json().encode() for row in rows), **about))


def dump_lines(lines: Iterable[bytes], **about: object) -> Iterator[str]:
    """Yield the same text piece by piece, from the JSON of rows: each is a line of its own."""
    facts = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in about.items())
    yield f"{{\n{facts} {_ROWS.decode()}"
    separator = "\n"
    for line in lines:
        yield f"{separator}{_NOT_PLAIN.sub(_escaped, line.decode())}"
        separator = ",\n"
    yield "\n]}"


def _escaped(character: re.Match[str]) -> str:
    """As JSON writes it in ASCII: what is written may be shown by a terminal."""
    units = character[0].encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the JSON of a written ledger's rows, by step. Holds no more than a row of what `dump` wrote, and all of another's writing.

    Raises UserError when the file is no ledger, or cannot be read.
    """
    try:
        if _is_by_lines(path):
            yield from _lines(path)
            return
        rows = sorted(load(path.read_bytes(), str(path)), key=lambda row: row.result.step)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {why_not(error)}; name a ledger's file, or a job") from None
    yield from (row.model_dump_json().encode() for row in rows)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.strip() == _ROWS:
                break
        for line in file:
            if (text := line.strip()) != b"]}":
                yield text.removesuffix(b",")


def _is_by_lines(path: Path) -> bool:
    """Whether this is a sound ledger with a row a line, by step."""
    last = -1
    try:
        with path.open("rb") as file:
            if not any(line.strip() == _ROWS for line in file):
                return False
        for line in _lines(path):
            step = read_row(line).result.step
            if step <= last:
                return False
            last = step
    except ValueError:
        return False
    return True


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
