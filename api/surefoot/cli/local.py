"""The commands that need another part of Surefoot on this machine: up, check; and version."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from surefoot._transport import version_here
from surefoot.cli.given import check_names
from surefoot.cli.options import (
    BATCH_SIZE,
    ConfigFile,
    Data,
    DataWorkers,
    Env,
    Folder,
    Seed,
    Settings,
    SubTasks,
    Threads,
)
from surefoot.cli.references import AsJson
from surefoot.cli.session import FAILED, pairs, read_config, say, say_error, say_words
from surefoot.data import by_name
from surefoot.entrypoint import locate
from surefoot.job_file import job_schema
from surefoot.plugins import load

__all__ = ["check", "schema", "up", "version"]


def up(
    data: Annotated[
        Path | None,
        typer.Option(help="Where everything is kept. (default: SUREFOOT_DATA, or ~/.surefoot)"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on. (default: SUREFOOT_HOST, or 127.0.0.1)")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="The port to listen on; 0 for a free one. (default: SUREFOOT_PORT, or 8470)"
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster's dashboard, as http://head:8265. (default: SUREFOOT_RAY_ADDRESS, or a local head of its own)"
        ),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the local head. (default: this machine's)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log lines of JSON, for machines.")] = False,
) -> None:
    """Start the control plane, in the foreground, and a local Ray head unless a cluster is named.

    Ctrl-C stops what it started; jobs on a cluster of your own go on.

    Example: surefoot up --ray-address http://head:8265
    """
    load("up")(data=data, host=host, port=port, ray_address=ray_address, cpus=cpus, as_json=as_json)


def check(
    entrypoint: Annotated[
        str,
        typer.Argument(help="The train function, as MODULE:FUNCTION or FILE.py:FUNCTION.", metavar="ENTRYPOINT"),
    ],
    batch_size: Annotated[int, BATCH_SIZE],
    sub_tasks: SubTasks = 8,
    steps: Annotated[
        int | None,
        typer.Option(
            min=5, help="So many steps are compared; without it, those of an epoch and a few more, within bounds."
        ),
    ] = None,
    seed: Seed = 0,
    settings: Settings = None,
    config: ConfigFile = None,
    threads: Threads = 1,
    data_workers: DataWorkers = 0,
    folder: Folder = Path("."),
    env: Env = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether training code keeps the promise, before it is submitted. Needs no control plane.

    Trains a few steps on 1, 2 and 3 trainers, with one lost on the way and with one joining, and compares; names the
    first step and tensor that differs, the likely cause with its line, and the mend, and exits with 1. The code is run in
    a copy of the folder; what it writes there is named. Restoring from a checkpoint is not among what is tried. The code
    after the loop is not run.

    Example: surefoot check train:train --folder examples/digits --batch-size 64
    """
    found, read = locate(entrypoint, folder), read_config(config, settings or [])
    check_names(found, pairs(settings or [], "--set"))
    few = "a few" if steps is None else steps
    say_error(f"training {few} steps of {found.name} in every way; this takes a minute or more")
    report = load("check")(
        entrypoint=found.name,
        folder=found.folder,
        batch_size=batch_size,
        sub_tasks=sub_tasks,
        steps=steps,
        seed=seed,
        config=read,
        threads=threads,
        data_workers=data_workers,
        env=pairs(env or [], "--env"),
        data=by_name(data or []),
    )
    say(json.dumps(asdict(report) | {"ok": report.ok})) if as_json else say_words(
        "\n".join(report.render()), indent="  "
    )
    if not report.ok:
        raise typer.Exit(FAILED)


def version(as_json: AsJson = False) -> None:
    """Print the version of this SDK and CLI.

    Example: surefoot version
    """
    say(json.dumps({"version": version_here()}) if as_json else f"surefoot {version_here()}")


def schema(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as it always is.")] = False) -> None:
    """Print the JSON schema of a job's file, for editors.

    Example: surefoot schema > job.schema.json
    """
    say(json.dumps(job_schema(), indent=1))
