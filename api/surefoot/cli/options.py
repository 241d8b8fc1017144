"""Options that several commands take, each said once: it is the same word, with the same meaning, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BATCH_SIZE",
    "ConfigFile",
    "Data",
    "DataWorkers",
    "Env",
    "Folder",
    "MaxCost",
    "MaxHours",
    "Seed",
    "Settings",
    "SubTasks",
    "Threads",
]

# `submit` may have it from a job's file
BATCH_SIZE = typer.Option("--batch-size", "-b", help="Samples a step; a multiple of --sub-tasks.")

SubTasks = Annotated[int, typer.Option(help="Equal pieces of a step's batch, fixed for the job.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="One value of the config: JSON, or else text. May be repeated.", metavar="KEY=VALUE"),
]
ConfigFile = Annotated[Path | None, typer.Option(help="A YAML, TOML or JSON file with the config; --set goes over it.")]
Threads = Annotated[int, typer.Option(help="CPU threads a trainer.")]
MaxCost = Annotated[float | None, typer.Option(help="Pause it once its trainers have cost so much in all.")]
MaxHours = Annotated[float | None, typer.Option(help="Pause it after so many hours on the cluster in all.")]
DataWorkers = Annotated[int, typer.Option(help="Data-loading processes a trainer.")]
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The folder of the code; MODULE is importable from it.")]
Env = Annotated[
    list[str] | None,
    typer.Option(help="A variable of the trainers' environment; no secrets. May be repeated.", metavar="KEY=VALUE"),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Data of the code's: run.data[NAME]. URLs are copied once a node, paths are read in place, unless "
        "it is NAME:copy=PATH or NAME:in-place=URL. May be repeated.",
        metavar="NAME=URL",
    ),
]
