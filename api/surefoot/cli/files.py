"""`surefoot files`: what training wrote to `run.output_dir`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import typer

from surefoot.cli.fetched import own_folder
from surefoot.cli.format import ago, size
from surefoot.cli.references import AsJson, JobRef
from surefoot.cli.session import Session, say, say_words
from surefoot.cli.tables import print_table
from surefoot.client import Job
from surefoot.errors import UserError
from surefoot.output import FileList

__all__ = ["files"]


def files(
    context: typer.Context,
    job: JobRef,
    action: Annotated[str | None, typer.Argument(metavar="[get]", help="Fetch them, in place of listing.")] = None,
    path: Annotated[str | None, typer.Argument(help="Only this file, or those in this folder.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder that they are fetched to. (default: JOB-files)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List or fetch the files that training wrote to run.output_dir, as they were kept last: at most half a minute ago.

    Example: surefoot files last get plots --to out
    """
    what = _action(action)
    with Session.of(context).client() as client:
        found = client.job(job)
        if what == "get":
            _get(found, path or "", to, as_json)
        else:
            _list(found.files(), as_json)


def _action(action: str | None) -> Literal["get", "list"]:
    if action is None:
        return "list"
    if action != "get":
        raise UserError(f"what to do with the files is `get`, not {action!r}: surefoot files JOB get {action}")
    return "get"


def _get(job: Job, path: str, to: Path | None, as_json: bool) -> None:
    folder = to or Path(f"{job.id}-files")
    with nullcontext() if to is not None else own_folder(folder):
        fetched = job.download_files(folder, path=path)
    if as_json:
        say(json.dumps([{"file": str(file), "bytes": file.stat().st_size} for file in fetched]))
        return
    total = sum(file.stat().st_size for file in fetched)
    say_words(f"{folder}: {_files(len(fetched))}, {size(total)}")


def _files(number: int) -> str:
    return f"{number} file{'s' if number != 1 else ''}"


def _list(found: FileList, as_json: bool) -> None:
    if as_json:
        say(found.model_dump_json(indent=1))
        return
    if found.synchronised is None:
        say_words("no files yet: what the code writes to run.output_dir on the trainer that is run.elected is kept")
        return
    now = datetime.now(timezone.utc)
    if found.files:
        _print(found, now)
    as_of = "as training left them" if found.ended else f"as step {found.step} began"
    say_words(f"{_files(found.total_files)}, {size(found.total_bytes)}, {as_of} ({ago(found.synchronised, now)})")
    for text in found.left_out:
        say_words(f"not kept: {text}")


def _print(found: FileList, now: datetime) -> None:
    rows = [(size(file.bytes), ago(file.modified, now), file.path) for file in found.files]
    print_table(("SIZE", "WRITTEN", "PATH"), rows, right=("SIZE",))
