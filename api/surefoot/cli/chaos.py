"""`surefoot chaos`: faults, for real, while a job trains; and what they cost it."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated

import typer

from surefoot.chaos import ChaosReport, percentile, report
from surefoot.cli.format import describe, duration, read_duration
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import Session, say, say_error, say_words
from surefoot.cli.tables import print_pairs
from surefoot.cli.watch import DETACHED
from surefoot.client import Client, Job
from surefoot.errors import ServiceError, UserError
from surefoot.events import Event, EventKind, FaultKind, LedgerRow
from surefoot.spec import JobState

__all__ = ["ChaosRun", "chaos", "chaos_pairs", "parse_kinds"]

_SHOWN = frozenset(
    {EventKind.FAULT, EventKind.TRAINER_LOST, EventKind.RECOVERED, EventKind.RESTORED, EventKind.WARNING}
)


def parse_kinds(text: str) -> tuple[FaultKind, ...]:
    """Read "trainer,supervisor". Raises UserError naming what there is."""
    try:
        kinds = tuple(FaultKind(name.strip()) for name in text.split(",") if name.strip())
    except ValueError:
        kinds = ()
    if not kinds:
        raise UserError(f"--kinds {text!r}: give some of {', '.join(kind.value for kind in FaultKind)}, with commas")
    return kinds


@dataclass
class ChaosRun:
    """A job under fire: faults at exponentially spaced moments, and all that was told meanwhile."""

    client: Client
    job: Job
    kinds: tuple[FaultKind, ...]
    per_minute: float
    seconds: float
    seed: int = 0
    leave: int = 1
    events: list[Event] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    # why faults could not be asked for
    refused: list[str] = field(default_factory=list)
    # Ctrl-C: what was done until then is reported
    interrupted: bool = False

    @property
    def not_done(self) -> list[tuple[str, str]]:
        """Faults that were asked for and not done: which, and why."""
        warnings = (event.data for event in self.events if event.kind is EventKind.WARNING)
        return [(str(data["fault"]), str(data.get("message", ""))) for data in warnings if data.get("fault")]

    def run(self, *, show: bool = True) -> ChaosReport:
        """Inject until the time is over or the job has ended. What was told before is not part of the report."""
        stop = threading.Event()
        injector = threading.Thread(target=self._inject, args=(stop,), name="chaos", daemon=True)
        began = time.time()
        injector.start()
        try:
            for update in self.job.follow(self.seconds):
                if isinstance(update, LedgerRow) and update.circumstances.at >= began:
                    self.rows.append(update)
                elif isinstance(update, Event) and update.at.timestamp() >= began:
                    self.events.append(update)
                    if show and update.kind in _SHOWN:
                        say_words(f"{update.at.timestamp() - began:+9.2f} s  {describe(update)}")
        except TimeoutError:
            pass  # it goes on, as it should
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            stop.set()
            injector.join(30)
        return report(self.events, self.rows)

    def _inject(self, stop: threading.Event) -> None:
        chance = random.Random(self.seed)
        while not stop.wait(chance.expovariate(self.per_minute / 60)):
            try:
                self.job.inject_fault(chance.choice(self.kinds), leave=self.leave)
            except (
                ServiceError
            ) as error:  # not training just now, or the control plane is away: the next one may be taken
                self.refused.append(str(error))


def chaos(
    context: typer.Context,
    job: JobRef,
    kills_per_minute: Annotated[float, typer.Option(min=0.01, max=600, help="Faults a minute, on average.")] = 2.0,
    kinds: Annotated[str, typer.Option(help="Which: trainer, freeze, supervisor, node; with commas.")] = "trainer",
    duration_: Annotated[str, typer.Option("--for", help='How long: "90s", "10m", "1h".')] = "10m",
    seed: Annotated[int, typer.Option(help="Of the moments and kinds.")] = 0,
    leave: Annotated[
        int,
        typer.Option(
            min=0,
            max=4096,
            help="How many trainers that hold the run's state are spared. 0: none; it may go back to a checkpoint.",
        ),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Kill and freeze what a job runs on, for real, while it trains; then report what that cost.

    Example: surefoot chaos last --kills-per-minute 2 --kinds trainer,supervisor --for 10m
    """
    chosen, seconds = parse_kinds(kinds), read_duration(duration_)
    if seconds is None:
        raise UserError(f'--for {duration_!r} is no duration: write it as "90s", "10m" or "1h"')
    with Session.of(context).client() as client:
        found = client.job(job)
        if found.view.ended or found.state is JobState.PAUSED:
            raise UserError(f"job {found.id} is {found.state.value}: there is nothing to disturb")
        run = ChaosRun(client, found, chosen, kills_per_minute, seconds, seed, leave)
        told = run.run(show=not as_json)
    if as_json:
        not_done = [{"kind": kind, "reason": reason} for kind, reason in run.not_done]
        say(json.dumps(_document(told) | {"not_done": not_done, "refused": run.refused}, indent=1))
    else:
        _print(told, run)
    if run.interrupted:
        say_error(f"interrupted: there are no more faults; job {found.id} goes on")
        raise typer.Exit(DETACHED)


def _print(told: ChaosReport, run: ChaosRun) -> None:
    print_pairs(chaos_pairs(told))
    if run.not_done:
        say_words(f"{len(run.not_done)} faults were not done, at last: {run.not_done[-1][1]}")
    if run.refused:
        say_words(f"{len(run.refused)} faults could not be asked for, at last: {run.refused[-1]}")


def _document(told: ChaosReport) -> dict[str, object]:
    return {
        "faults": {kind.value: count for kind, count in told.faults.items()},
        "recoveries": [{"kind": r.kind.value, "at": r.at, "seconds": r.seconds} for r in told.recoveries],
        "steps": told.steps,
        "steps_lost": told.steps_lost,
        "sub_tasks_again": told.sub_tasks_again,
        "seconds": told.seconds,
        "ideal_seconds": told.ideal_seconds,
        "goodput": told.goodput,
    }


def chaos_pairs(told: ChaosReport) -> dict[str, str]:
    """Return the report as what it tells, by name."""
    pairs = {}
    for kind, count in told.faults.items():
        pairs[f"{kind.value} faults"] = f"{count}{_recovery(told.seconds_of(kind))}"
    return pairs | {
        "steps": f"{told.steps} in {duration(told.seconds)}, {told.steps_lost} lost",
        "sub-tasks computed twice": f"at most {told.sub_tasks_again}",
        "goodput": f"{told.goodput:.1%} of the ideal for the trainers alive",
    }


def _recovery(seconds: list[float]) -> str:
    if not seconds:
        return ", none recovered from in this time"
    return f", recovery p50 {duration(percentile(seconds, 0.5))}, p99 {duration(percentile(seconds, 0.99))}"
