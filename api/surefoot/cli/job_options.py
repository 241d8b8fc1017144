"""The options of `submit`, in groups: what they say of a job, and which options of `Client.submit` that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from surefoot.cli.options import (
    BATCH_SIZE,
    ConfigFile,
    Data,
    DataWorkers,
    Env,
    Folder,
    MaxCost,
    MaxHours,
    Seed,
    Settings,
    SubTasks,
    Threads,
)
from surefoot.cli.session import pairs, read_config
from surefoot.data import by_name

__all__ = ["CodeOptions", "DurabilityOptions", "ResultOptions", "SizeOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """Two jobs that are alike in these, and in their code, have the same result."""

    panel: ClassVar[str] = "What decides the result"

    batch_size: Annotated[int | None, BATCH_SIZE] = None
    sub_tasks: SubTasks = 8
    seed: Seed = 0
    settings: Settings = None
    config: ConfigFile = None
    target: Annotated[
        str | None,
        typer.Option(
            help="End at the first step whose merged value meets this: 'accuracy>=0.97'.", metavar="NAME>=NUMBER"
        ),
    ] = None
    threads: Threads = 1

    def options(self) -> dict[str, Any]:
        """Return them as `Client.submit` takes them. Raises UserError for a config that cannot be read."""
        return {
            "batch_size": self.batch_size,
            "sub_tasks": self.sub_tasks,
            "seed": self.seed,
            "config": read_config(self.config, self.settings or []),
            "target": self.target,
            "threads": self.threads,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOptions:
    """How many trainers there are, of what size, and for how long."""

    panel: ClassVar[str] = "How it is run"

    max_cost: MaxCost = None
    max_hours: MaxHours = None
    trainers: Annotated[
        int | None, typer.Option("--trainers", "-n", help="Trainers to start with. (default: --min-trainers)")
    ] = None
    min_trainers: Annotated[int, typer.Option(help="Fewest trainers of a resize.")] = 1
    max_trainers: Annotated[int | None, typer.Option(help="Most trainers of a resize. (default: --sub-tasks)")] = None
    cpus: Annotated[float, typer.Option(help="CPUs to reserve a trainer.")] = 1.0
    gpus: Annotated[float, typer.Option(help="GPUs to reserve a trainer.")] = 0.0
    data_workers: DataWorkers = 0
    spares: Annotated[int, typer.Option(help="Trainers kept warm beside those that train.")] = 0
    max_failures: Annotated[int, typer.Option(help="Losses in a row, without a step in between, that are borne.")] = 10

    def options(self) -> dict[str, Any]:
        """Return them as `Client.submit` takes them."""
        return {
            "budget": {"max_cost": self.max_cost, "max_hours": self.max_hours},
            "trainers": self.trainers,
            "min_trainers": self.min_trainers,
            "max_trainers": self.max_trainers,
            "cpus": self.cpus,
            "gpus": self.gpus,
            "data_workers": self.data_workers,
            "spares": self.spares,
            "max_failures": self.max_failures,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DurabilityOptions:
    """When checkpoints are made, where, and which are kept."""

    panel: ClassVar[str] = "What outlives trainers"

    checkpoint_every_steps: Annotated[int | None, typer.Option(help="A checkpoint after every so many steps.")] = None
    checkpoint_every_seconds: Annotated[
        float, typer.Option(help="One after every so many seconds; 0: none by time.")
    ] = 300.0
    checkpoint_url: Annotated[
        str | None,
        typer.Option(help="A folder that all nodes see, or an fsspec URL. (default: the service's)"),
    ] = None
    keep: Annotated[int, typer.Option(help="So many of the newest checkpoints are kept.")] = 2
    best: Annotated[
        str | None,
        typer.Option(help="A logged value; the checkpoint where it was lowest is kept too. '+NAME': highest."),
    ] = None
    restore: Annotated[str | None, typer.Option(help="Begin from this checkpoint: a URL, or another job.")] = None

    def options(self) -> dict[str, Any]:
        """Return them as `Client.submit` takes them."""
        return {
            "checkpoint": {
                "every_steps": self.checkpoint_every_steps,
                "every_s": self.checkpoint_every_seconds or None,
                "url": self.checkpoint_url,
                "keep": self.keep,
                "best": self.best.removeprefix("+") if self.best else None,
                "best_mode": "max" if self.best and self.best.startswith("+") else "min",
            },
            "restore": self.restore,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOptions:
    """The code, and what it finds around it."""

    panel: ClassVar[str] = "The code"

    folder: Folder = Path(".")
    pip: Annotated[
        list[str] | None,
        typer.Option(help="A pip requirement of the code. May be repeated.", metavar="REQUIREMENT"),
    ] = None
    env: Env = None
    secret: Annotated[
        list[str] | None,
        typer.Option(
            help="A secret that the code finds in its environment (`surefoot secret set`). May be repeated.",
            metavar="NAME[=VARIABLE]",
        ),
    ] = None
    data: Data = None

    def options(self) -> dict[str, Any]:
        """Return them as `Client.submit` takes them. Raises UserError for what does not look like KEY=VALUE."""
        return {
            "folder": self.folder,
            "pip": self.pip or [],
            "env": pairs(self.env or [], "--env"),
            "secrets": self.secret or [],
            "data": by_name(self.data or []),
        }
