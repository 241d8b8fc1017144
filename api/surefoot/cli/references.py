"""How commands name a job, and how they are asked for JSON."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "JobRef"]

JobRef = Annotated[str, typer.Argument(help="The job's id, a unique beginning of it, or 'last'.", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
