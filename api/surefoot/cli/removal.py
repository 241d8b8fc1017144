"""The command that deletes jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from surefoot.cli.jobs import tell
from surefoot.cli.references import AsJson
from surefoot.cli.session import Session

__all__ = ["rm"]


def rm(
    context: typer.Context,
    jobs: Annotated[list[str], typer.Argument(help='Ids, unique beginnings of ids, or "last".', metavar="JOB...")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Remove their checkpoints and final models too, for good.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete jobs that have ended, with their history. What else they wrote stays, unless --checkpoints.

    Example: surefoot rm 3f2a 9b01 --checkpoints
    """
    with Session.of(context).client() as client:
        # all are looked up first: a mistyped one is told before anything is deleted
        found = {job.id: job for job in map(client.job, jobs)}
        for job in found.values():
            client.delete(job, checkpoints=checkpoints)
            tell(job.view, f"deleted {job.id} ({job.spec.name})", as_json)
