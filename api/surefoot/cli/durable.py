"""The commands about what outlives trainers: pause, resume, checkpoint, checkpoints, model."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from surefoot.cli.fetched import own_folder
from surefoot.cli.format import ago, duration, size
from surefoot.cli.jobs import tell
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import Session, say, say_words
from surefoot.cli.tables import print_table
from surefoot.spec import JobState
from surefoot.views import CheckpointView

__all__ = ["checkpoint", "checkpoints", "model", "pause", "resume"]


def pause(
    context: typer.Context,
    job: JobRef,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is paused.")] = True,
    as_json: AsJson = False,
) -> None:
    """Stop a job at a step boundary, save it, and give back what it holds of the cluster. `resume` goes on.

    Example: surefoot pause last
    """
    with Session.of(context).client() as client:
        found = client.job(job).pause(wait=wait)
        step = f" at step {found.view.checkpoint_step}" if found.state is JobState.PAUSED else ""
        tell(found.view, f"job {found.id} is {found.state.value}{step}", as_json)


def resume(context: typer.Context, job: JobRef, as_json: AsJson = False) -> None:
    """Queue a paused job again: it goes on from its newest checkpoint, to the same result.

    Example: surefoot resume last
    """
    with Session.of(context).client() as client:
        found = client.job(job).resume()
        tell(found.view, f"job {found.id} is {found.state.value}; watch it with `surefoot watch {found.id}`", as_json)


def checkpoint(context: typer.Context, job: JobRef, as_json: AsJson = False) -> None:
    """Have a job make a durable checkpoint at its next step boundary; it trains on meanwhile.

    Example: surefoot checkpoint last
    """
    with Session.of(context).client() as client:
        found = client.job(job).checkpoint()
        tell(
            found.view,
            f"job {found.id} was asked for a checkpoint; `surefoot checkpoints {found.id}` lists them",
            as_json,
        )


def checkpoints(context: typer.Context, job: JobRef, as_json: AsJson = False) -> None:
    """List a job's checkpoints, newest first. Only the newest few are kept.

    Example: surefoot checkpoints last
    """
    with Session.of(context).client() as client:
        found = client.job(job).checkpoints()
    if as_json:
        say(json.dumps([view.model_dump(mode="json") for view in found], indent=1))
    elif found:
        _print(found)
    else:
        say("no checkpoints yet")


def model(
    context: typer.Context,
    job: JobRef,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write. (default: in a folder JOB-model, which is not packaged)"
        ),
    ] = None,
    module: Annotated[str | None, typer.Option(help="Which tracked module, where there are several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download a job's final model: the tracked module's state_dict, as safetensors.

    Example: surefoot model last -o ~/digits.safetensors
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        path = output or Path(f"{found.id}-model") / f"{_file_of(module)}.safetensors"
        with nullcontext() if output is not None else own_folder(path.parent):
            found.download_model(path, module=module)
        found_bytes = path.stat().st_size
        if as_json:
            say(json.dumps({"file": str(path), "bytes": found_bytes}))
        else:
            say_words(f"{path}: {size(found_bytes)}")


def _file_of(module: str | None) -> str:
    """A file's name for the module that was asked for, whatever that is called."""
    return re.sub(r"[^\w.-]", "_", module or "").lstrip(".")[:100] or "model"


def _print(found: list[CheckpointView]) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        (
            "" if view.step is None else str(view.step),
            "" if view.bytes is None else size(view.bytes),
            "" if view.seconds is None else duration(view.seconds),
            "" if view.stall_s is None else duration(view.stall_s),
            ago(view.at, now),
            view.reason,
            view.url,
        )
        for view in found
    ]
    print_table((*_RIGHT, "MADE", "WHY", "URL"), rows, right=_RIGHT)


_RIGHT = ("STEP", "SIZE", "DURABLE AFTER", "STALL")
