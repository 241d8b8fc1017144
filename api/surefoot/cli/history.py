"""The commands about what a job recorded: ledger, diff."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from surefoot.cli.jobs import AsJson, JobRef
from surefoot.cli.session import FAILED, Session, console, say
from surefoot.cli.words import duration, number
from surefoot.client import Client
from surefoot.errors import UserError
from surefoot.events import LedgerRow
from surefoot.ledger import compare, dump, load
from surefoot.views import JobView

__all__ = ["diff", "ledger"]

Side = Annotated[str, typer.Argument(help="A job, or a file that `surefoot ledger --json` wrote.", metavar="JOB")]


def ledger(
    context: typer.Context,
    job: JobRef,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Print a job's ledger: a row a step, with the digest of what was merged, the logged values, and who computed it.

    Example: surefoot ledger last --json > ledger.json
    """
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other")
    with Session.of(context).client() as client:
        found = client.job(job)
        rows = found.ledger()
    if as_json:
        say(dump(rows, job=found.id, digest=found.view.digest, spec=found.spec.model_dump(mode="json")))
    elif as_csv:
        say(_csv(rows), end="")
    else:
        console().print(_table(rows))


def diff(context: typer.Context, one: Side, other: Side) -> None:
    """Compare two ledgers: "identical" (exit code 0), or the first step at which their results part (1).

    Only results are compared, byte for byte: samples, digests and logged values. Who computed them may differ. A job that began from
    another's checkpoint is compared from there on.

    Example: surefoot diff 3f2a 9b01
    """
    with Session.of(context).client() as client:
        (rows, view), (other_rows, other_view) = _side(client, one), _side(client, other)
    begin = max(_begin(rows, view), _begin(other_rows, other_view))
    rows, other_rows = ([r for r in side if r.result.step >= begin] for side in (rows, other_rows))
    difference = compare(rows, other_rows)
    if difference is not None:
        say(f"differ at step {difference.step}")
    elif view and other_view and view.digest != other_view.digest and view.digest and other_view.digest:
        say(f"identical in {len(rows)} steps, but the final states differ: {view.digest} against {other_view.digest}")
    else:
        since = f" from step {begin} on" if begin else ""
        say(f"identical ({len(rows)} step{'' if len(rows) == 1 else 's'}{since})")
        return
    for text in [*(difference.what if difference else ()), *_why(view, other_view)]:
        say(f"  {text}")
    raise typer.Exit(FAILED)


def _side(client: Client, ref: str) -> tuple[list[LedgerRow], JobView | None]:
    if Path(ref).is_file():
        return load(Path(ref).read_bytes(), ref), None
    job = client.job(ref)
    return job.ledger(), job.view


def _begin(rows: list[LedgerRow], view: JobView | None) -> int:
    """The first step of a job's own ledger; what is before it is in that of the job whose checkpoint it began from."""
    return rows[0].result.step if rows and view is not None and view.spec.restore is not None else 0


def _why(view: JobView | None, other: JobView | None) -> list[str]:
    """What the two jobs were told differently, and whether one is still going on."""
    if view is None or other is None:
        return []
    a, b = view.spec.identity(), other.spec.identity()
    told = [f"the specs differ in {name}: {a[name]!r} against {b[name]!r}" for name in a if a[name] != b[name]]
    going = [f"job {v.id} has not ended yet ({v.state.value})" for v in (view, other) if not v.state.ended]
    return told + going


# ---- how it looks


def _table(rows: list[LedgerRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = _names(rows)
    for column in ("STEP", "SAMPLES", "DIGEST", *names, "GENERATION", "TRAINERS", "TIME"):
        table.add_column(column, no_wrap=True, justify="left" if column == "DIGEST" else "right")
    for row in rows:
        result, how = row.result, row.circumstances
        values = [number(result.values[name]) if name in result.values else "" for name in names]
        samples = f"{result.first_sample}+{result.num_samples}"
        table.add_row(
            str(result.step),
            samples,
            result.digest,
            *values,
            str(how.generation),
            str(how.trainers),
            duration(how.seconds),
        )
    return table


def _csv(rows: list[LedgerRow]) -> str:
    text, names = io.StringIO(), _names(rows)
    writer = csv.writer(text)
    writer.writerow(["step", "first_sample", "num_samples", "digest", *names, "generation", "trainers", "seconds"])
    for row in rows:
        result, how = row.result, row.circumstances
        # repr: the shortest text that reads back as the same float
        values = [repr(result.values[name]) if name in result.values else "" for name in names]
        writer.writerow(
            [
                result.step,
                result.first_sample,
                result.num_samples,
                result.digest,
                *values,
                how.generation,
                how.trainers,
                how.seconds,
            ]
        )
    return text.getvalue()


def _names(rows: list[LedgerRow]) -> list[str]:
    """All logged names, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.result.values))
