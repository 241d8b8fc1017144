"""`surefoot submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surefoot.cli.session import Session, pairs, read_config, say, say_error
from surefoot.cli.watch import watch

__all__ = ["submit"]

# The panels of --help.
_RESULT, _SIZE, _CODE = "What decides the result", "How it is run", "The code"


def submit(
    context: typer.Context,
    entrypoint: Annotated[str, typer.Argument(help="The train function, as MODULE:FUNCTION.", metavar="ENTRYPOINT")],
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", "-b", help="Samples a step; a multiple of --sub-tasks.", rich_help_panel=_RESULT),
    ],
    sub_tasks: Annotated[
        int, typer.Option(help="Equal pieces of a step's batch, fixed for the job.", rich_help_panel=_RESULT)
    ] = 8,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_RESULT)] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One value of the config: JSON, or else text. May be repeated.",
            metavar="KEY=VALUE",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A JSON file with the config; --set goes over it.", rich_help_panel=_RESULT)
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads a trainer.", rich_help_panel=_RESULT)] = 1,
    trainers: Annotated[
        int | None,
        typer.Option(
            "--trainers", "-n", help="Trainers to start with. (default: --min-trainers)", rich_help_panel=_SIZE
        ),
    ] = None,
    min_trainers: Annotated[int, typer.Option(help="Fewest trainers of a resize.", rich_help_panel=_SIZE)] = 1,
    max_trainers: Annotated[
        int | None, typer.Option(help="Most trainers of a resize. (default: --sub-tasks)", rich_help_panel=_SIZE)
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPUs to reserve a trainer.", rich_help_panel=_SIZE)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs to reserve a trainer.", rich_help_panel=_SIZE)] = 0.0,
    data_workers: Annotated[int, typer.Option(help="Data-loading processes a trainer.", rich_help_panel=_SIZE)] = 0,
    folder: Annotated[
        Path,
        typer.Option(
            "--folder", "-f", help="The folder to package; MODULE is importable from it.", rich_help_panel=_CODE
        ),
    ] = Path("."),
    pip: Annotated[
        list[str] | None,
        typer.Option(
            help="A pip requirement of the code. May be repeated.", metavar="REQUIREMENT", rich_help_panel=_CODE
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="A variable of the trainers' environment; no secrets. May be repeated.",
            metavar="KEY=VALUE",
            rich_help_panel=_CODE,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people. (default: the module)")] = None,
    watching: Annotated[
        bool, typer.Option("--watch/--detach", help="Watch the job, or print its id and return.")
    ] = True,
) -> None:
    """Submit a training job.

    The folder is packaged (what .gitignore and .surefootignore name stays out), uploaded unless the control plane
    has it already, and trained on however many trainers the cluster gives: the result is the same.

    Example: surefoot submit train:train --folder examples/digits --batch-size 64 --trainers 3 --set lr=0.001
    """
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "sub_tasks": sub_tasks,
        "seed": seed,
        "config": read_config(config, settings or []),
        "threads": threads,
        "trainers": min_trainers if trainers is None else trainers,
        "min_trainers": min_trainers,
        "max_trainers": max_trainers,
        "cpus": cpus,
        "gpus": gpus,
        "data_workers": data_workers,
        "folder": folder,
        "pip": pip or [],
        "env": pairs(env or [], "--env"),
        "name": name,
    }
    with Session.of(context).client() as client:
        job = client.submit(entrypoint, **options)
        if watching:
            say(f"job {job.id} {job.state.value}")
            watch(job)
        else:
            say(job.id)
            say_error(f"watch it with `surefoot watch {job.id}`")
