"""What a job has logged: `metrics` tells it, `track` brings it to a tracker."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from surefoot.cli.format import number
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import Session, say, say_words
from surefoot.cli.system import print_system
from surefoot.cli.tables import print_table
from surefoot.config import near
from surefoot.errors import UserError
from surefoot.events import LedgerRow
from surefoot.trackers.tracking import FORMS
from surefoot.trackers.tracking import track as bring_to

__all__ = ["metrics", "track"]


@dataclass(slots=True)
class _Seen:
    """One logged value, over the steps."""

    count: int = 0
    first: float = math.nan
    last: float = math.nan
    low: tuple[float, int] = (math.inf, -1)
    high: tuple[float, int] = (-math.inf, -1)

    def take(self, value: float, step: int) -> None:
        self.first = value if not self.count else self.first
        self.count, self.last = self.count + 1, value
        self.low, self.high = min(self.low, (value, step)), max(self.high, (value, -step))


def metrics(
    context: typer.Context,
    job: JobRef,
    show: Annotated[list[str] | None, typer.Option("--show", help="Only this value. May be repeated.")] = None,
    system: Annotated[
        bool, typer.Option("--system", help="In place of logged values: what each trainer uses of its machine.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a line a step, as CSV; of trainers, one a minute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell every value that a job has logged: the first, the last, the lowest and the highest, with their steps.

    Example: surefoot metrics last --show loss --csv
    """
    if system and show:
        raise UserError("--show names logged values, which --system does not tell")
    with Session.of(context).client() as client:
        if system:
            print_system(client.job(job), as_csv=as_csv, as_json=as_json)
            return
        rows = client.job(job).iter_ledger()
        if as_csv:
            _print_csv(list(rows), show)
            return
        seen = _summary(rows)
    _check_shown(show, seen)
    seen = {name: one for name, one in seen.items() if not show or name in show}
    if as_json:
        say(json.dumps({name: _document(one) for name, one in seen.items()}, indent=1))
    elif seen:
        _print(seen)
    else:
        say("nothing is logged yet")


def _check_shown(show: list[str] | None, logged: Iterable[str]) -> None:
    """Raise UserError for a name that was never logged, if any was."""
    known = dict.fromkeys(logged)
    if known and (unknown := [name for name in show or () if name not in known]):
        raise UserError(f"the job logs no {unknown[0]!r}{near(unknown[0], known)}")


def _summary(rows: Iterable[LedgerRow]) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    for row in rows:
        for name, value in row.result.values.items():
            seen.setdefault(name, _Seen()).take(value, row.result.step)
    return seen


def _print_csv(rows: list[LedgerRow], show: list[str] | None) -> None:
    logged = list(dict.fromkeys(name for row in rows for name in row.result.values))
    _check_shown(show, logged)
    names = show or logged
    write = csv.writer(sys.stdout, lineterminator="\n").writerow
    write(["step", *names])
    for row in rows:
        # repr: the shortest text that reads back as the same float
        write([row.result.step, *(repr(v) if (v := row.result.values.get(name)) is not None else "" for name in names)])


def _document(seen: _Seen) -> dict[str, object]:
    ends: dict[str, object] = {"count": seen.count, "first": _as_json(seen.first), "last": _as_json(seen.last)}
    low, high = seen.low, seen.high
    return ends | {"min": _as_json(low[0]), "min_step": low[1], "max": _as_json(high[0]), "max_step": -high[1]}


def _as_json(value: float) -> float | str:
    """JSON has no word for what is no finite number."""
    return value if math.isfinite(value) else str(value)


def _print(seen: dict[str, _Seen]) -> None:
    rows = [
        (name, str(one.count), number(one.first), number(one.last),
         f"{number(one.low[0])} at {one.low[1]}", f"{number(one.high[0])} at {-one.high[1]}")
        for name, one in seen.items()
    ]  # fmt: skip
    print_table(("VALUE", *_RIGHT), rows, right=_RIGHT)


_RIGHT = ("STEPS", "FIRST", "LAST", "LOWEST", "HIGHEST")


def track(
    context: typer.Context,
    job: JobRef,
    to: Annotated[str, typer.Option("--to", help=f"Where to: {FORMS}.", metavar="TRACKER:PLACE")],
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on until the job has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Bring a job's logged values to a tracker, each step once; broken off, the same command goes on where it was.

    Example: surefoot track last --to tensorboard:runs/last
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        told = (lambda where: None) if as_json else (lambda where: say_words(f"job {found.id} in {where}"))
        tracked = bring_to(found, to, follow=follow, on_open=told)
    if as_json:
        say(json.dumps({"job": found.id} | asdict(tracked)))
        return
    for name, instead in tracked.renamed.items():
        say_words(f"{name!r} is no name there: it is called {instead!r}")
    say_words(f"job {found.id}: {tracked.written} steps written, up to step {tracked.last_step}")
