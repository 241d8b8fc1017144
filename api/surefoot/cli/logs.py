"""`surefoot logs`, and printed lines wherever else they are shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated

import typer

from surefoot._logs import OneTrainer
from surefoot.cli.format import read_duration
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import Session, say, say_error
from surefoot.cli.watch import DETACHED, conclude
from surefoot.client import Job
from surefoot.errors import UserError
from surefoot.logs import LogLine

__all__ = ["logs", "watch_logs"]


def logs(
    context: typer.Context,
    job: JobRef,
    trainer: Annotated[
        str | None, typer.Option("--trainer", "-t", help="Only this process: t0, supervisor, launcher.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until nothing more will come.")] = False,
    tail: Annotated[int, typer.Option(min=0, max=10_000, help="The last so many lines; 0: all.")] = 1000,
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 10m (ago; s, m, h, d), or a time, 2026-01-31T12:00.")
    ] = None,
    grep: Annotated[str | None, typer.Option(help="Only lines with this text in them.")] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="The lines alone, without who printed them, when and at which step.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a job's trainers, its supervisor and its launcher have printed, the lost ones' too.

    Example: surefoot logs last --trainer t0 -f
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        asked = found.logs(follow=follow, trainer=trainer, tail=tail or None, since=_since(since), contains=grep)
        try:
            for line in asked:
                say(line.model_dump_json() if as_json else line.text if bare else _shown(line))
        except KeyboardInterrupt:
            raise typer.Exit(DETACHED) from None


def watch_logs(job: Job) -> None:
    """Follow what one of the job's trainers prints, until the job ends. Raises typer.Exit as `watch` does."""
    one = OneTrainer()
    if not job.view.steps_done:
        say_error(
            f"what it prints follows once a trainer has started: `surefoot watch {job.id}` tells what is waited for"
        )
    try:
        for line in job.logs(follow=True):
            if one.shows(line):
                say(_shown(line))
    except KeyboardInterrupt:
        say_error(f"detached: job {job.id} goes on. See it again with `surefoot logs {job.id} -f`")
        raise typer.Exit(DETACHED) from None
    conclude(job.refresh())


def _shown(line: LogLine) -> str:
    step = "" if line.step < 0 else f" {line.step}"
    mark = "* " if line.stream == "surefoot" else ""
    return f"{line.at.astimezone():%H:%M:%S} {line.trainer}{step} | {mark}{line.text}"


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if (seconds := read_duration(text)) is not None:
            return datetime.now(timezone.utc) - timedelta(seconds=seconds)
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError):
        raise UserError(
            f"--since {text!r} is neither so long ago (90s, 10m, 2h, 1d) nor a time (2026-01-31T12:00)"
        ) from None
