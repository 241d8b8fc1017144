"""The commands about what a job recorded: ledger, diff."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from surefoot.cli.format import duration, number
from surefoot.cli.printing import text_width
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import FAILED, Session, say, say_words
from surefoot.cli.tables import row_lines
from surefoot.client import Client
from surefoot.errors import UserError
from surefoot.events import LedgerRow
from surefoot.ledger import Difference, compare_lines, dump_lines, read_lines, read_row, step_of
from surefoot.views import JobView

__all__ = ["diff", "ledger"]

Side = Annotated[str, typer.Argument(help="A job, or a file that `surefoot ledger --json` wrote.", metavar="JOB")]

# rows that are printed together: so that the first are seen soon, and memory stays small
_TOGETHER = 1000
# the columns of CSV before and after the logged values
_BEFORE_VALUES = ("step", "first_sample", "num_samples", "digest")
_AFTER_VALUES = ("generation", "trainers", "seconds")
# the column that is read from its left
_DIGEST = 2

T = TypeVar("T")


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def ledger(
    context: typer.Context,
    job: JobRef,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a job's ledger: a row a step, with the digest of what was merged, the logged values, and who computed it.

    Example: surefoot ledger last --json > ledger.json
    """
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other")
    with Session.of(context).client() as client:
        found = client.job(job)
        rows = found.iter_ledger_json()
        if as_json:
            about = {"job": found.id, "digest": found.view.digest, "spec": found.spec.model_dump(mode="json")}
            _print(dump_lines(rows, **about))
            say("")
        elif as_csv:
            _print(_csv(rows))
        else:
            _print(f"{line}\n" for line in _table(rows, text_width()))


def _print(pieces: Iterable[str]) -> None:
    """Print pieces as they come, many at a time."""
    for some in _batched(pieces, _TOGETHER):
        say("".join(some), end="")


def diff(context: typer.Context, one: Side, other: Side, as_json: AsJson = False) -> None:
    """Compare two ledgers: "identical" (exit code 0), or the first step at which their results part (1).

    Only results are compared, byte for byte: samples, digests and logged values. Who computed them may differ. A job that began from
    another's checkpoint is compared from there on.

    Example: surefoot diff 3f2a 9b01
    """
    with Session.of(context).client() as client:
        (rows, view), (other_rows, other_view) = _side(client, one), _side(client, other)
        begin, rows, other_rows = _from_where_both_begin((rows, view), (other_rows, other_view))
        num_same, difference = compare_lines(rows, other_rows)
    if as_json:
        _say_difference(num_same, difference, view, other_view)
    elif difference is not None:
        after = f", after {num_same} identical step{'' if num_same == 1 else 's'}" if num_same else ""
        say_words(f"differ at step {difference.step}{after}")
    elif view and other_view and view.digest != other_view.digest and view.digest and other_view.digest:
        say_words(
            f"identical in {num_same} steps, but the final states differ: {view.digest} against {other_view.digest}"
        )
    else:
        since = f" from step {begin} on" if begin else ""
        say_words(f"identical ({num_same} step{'' if num_same == 1 else 's'}{since})")
        return
    for text in [] if as_json else [*(difference.what if difference else ()), *_why(view, other_view)]:
        say_words(f"  {text}")
    raise typer.Exit(FAILED)


def _say_difference(num_same: int, difference: Difference | None, view: JobView | None, other: JobView | None) -> None:
    """The same as JSON. Raises typer.Exit where they are identical: nothing is left to say."""
    digests = {v.digest for v in (view, other) if v is not None and v.digest}
    same = difference is None and len(digests) < 2
    about = {"step": difference.step, "what": list(difference.what)} if difference else {}
    why = [] if same else _why(view, other)
    say(json.dumps({"identical": same, "steps": num_same, **about, "why": why}))
    if same:
        raise typer.Exit


Lines = Iterator[bytes]


def _side(client: Client, ref: str) -> tuple[Lines, JobView | None]:
    if Path(ref).is_file():
        return read_lines(Path(ref)), None
    job = client.job(ref)
    return job.iter_ledger_json(), job.view


def _from_where_both_begin(*sides: tuple[Lines, JobView | None]) -> tuple[int, Lines, Lines]:
    """The rows of both from the step on at which both ledgers have begun.

    What is before the first step of a job that began from another's checkpoint is in that other job's ledger.
    """
    begin, found = 0, []
    for lines, view in sides:
        first = list(islice(lines, 1))
        if first and view is not None and view.spec.restore is not None:
            begin = max(begin, step_of(first[0]))
        found.append(chain(first, lines))
    one, other = (dropwhile(lambda line: step_of(line) < begin, lines) for lines in found)
    return begin, one, other


def _why(view: JobView | None, other: JobView | None) -> list[str]:
    """What the two jobs were told differently, and whether one is still going on."""
    if view is None or other is None:
        return []
    a, b = view.spec.identity(), other.spec.identity()
    told = [
        f"the specs differ in {name}: {a.get(name)!r} against {b.get(name)!r}"
        for name in a | b
        if a.get(name) != b.get(name)
    ]
    going = [f"job {v.id} has not ended yet ({v.state.value})" for v in (view, other) if not v.ended]
    return told + going


# ---- how it looks


def _table(lines: Lines, width: float) -> Iterator[str]:
    """The ledger for people. Columns are as wide as the first rows need; a value that is logged later on has the heads told again.

    Where that is wider than `width`, each row is told by itself.
    """
    names: list[str] = []
    widths: list[int] = []
    fits = True
    for some in _batched(lines, _TOGETHER):
        rows = [read_row(line) for line in some]
        new = [name for name in _names(rows) if name not in names]
        names += new
        cells = [_cells(row, names) for row in rows]
        heads = ["STEP", "SAMPLES", "DIGEST", *names, "GENERATION", "TRAINERS", "TIME"]
        if new or not widths:
            widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
            fits = sum(widths) + 2 * len(widths) - 2 <= width
            if fits:
                yield _line(heads, widths)
        yield from (_line(row, widths) if fits else "\n".join(row_lines(heads, row, width)) for row in cells)
    if not widths:
        yield "no row yet"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.ljust(width) if n == _DIGEST else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _cells(row: LedgerRow, names: Sequence[str]) -> list[str]:
    result, how = row.result, row.circumstances
    values = [number(result.values[name]) if name in result.values else "" for name in names]
    samples = f"{result.first_sample}+{result.num_samples}"
    ends = [str(how.generation), str(how.trainers), duration(how.seconds)]
    return [str(result.step), samples, result.digest, *values, *ends]


def _csv(lines: Lines) -> Iterator[str]:
    """The ledger for programs. The heads come first and name all that is ever logged, so the rows wait in a file till the last is read."""
    with tempfile.TemporaryFile("w+", newline="", encoding="utf-8", errors="surrogatepass") as waiting:
        names: dict[str, None] = {}
        write = csv.writer(waiting).writerow
        for line in lines:
            row = read_row(line)
            names.update(dict.fromkeys(row.result.values))
            write(_fields(row, names))
        yield _csv_line([*_BEFORE_VALUES, *names, *_AFTER_VALUES])
        waiting.seek(0)
        for fields in csv.reader(waiting):
            ends, values = fields[: len(_AFTER_VALUES)], fields[len(_AFTER_VALUES) :]
            missing = [""] * (len(_BEFORE_VALUES) + len(names) - len(values))  # those first logged in later rows
            yield _csv_line([*values, *missing, *ends])


def _fields(row: LedgerRow, names: Iterable[str]) -> list[object]:
    """A row's fields as they wait: the last columns first, as those of the values are not all known yet."""
    result, how = row.result, row.circumstances
    # repr: the shortest text that reads back as the same float
    values = [repr(result.values[name]) if name in result.values else "" for name in names]
    begins = [result.step, result.first_sample, result.num_samples, result.digest]
    return [how.generation, how.trainers, how.seconds, *begins, *values]


def _csv_line(fields: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _names(rows: Iterable[LedgerRow]) -> list[str]:
    """All logged names, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.result.values))
