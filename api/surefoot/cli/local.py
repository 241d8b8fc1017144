"""The commands that need another part of Surefoot on this machine: up, check; and version."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from surefoot._transport import version_here
from surefoot.cli.given import check_names, given_alone, merged
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
from surefoot.config_files import is_job_file
from surefoot.data import by_name
from surefoot.entrypoint import Entrypoint, locate
from surefoot.errors import UserError
from surefoot.job_file import job_schema, read_job
from surefoot.plugins import load
from surefoot.secret_rules import by_variable
from surefoot.submission import spec_of

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
    context: typer.Context,
    entrypoint: Annotated[
        str,
        typer.Argument(
            help="The train function, as MODULE:FUNCTION or FILE.py:FUNCTION; or a job's file, as `submit` takes it.",
            metavar="ENTRYPOINT|FILE",
        ),
    ],
    batch_size: Annotated[int | None, BATCH_SIZE] = None,
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
    options: dict[str, Any] = {
        "folder": folder,
        "batch_size": batch_size,
        "sub_tasks": sub_tasks,
        "seed": seed,
        "config": read_config(config, settings or []),
        "threads": threads,
        "data_workers": data_workers,
        "env": pairs(env or [], "--env"),
        "data": by_name(data or []),
    }
    found, options = _to_check(entrypoint, options, given_alone(context, options))
    check_names(found, pairs(settings or [], "--set"))
    few = "a few" if steps is None else steps
    say_error(f"training {few} steps of {found.name} in every way; this takes a minute or more")
    report = load("check")(entrypoint=found.name, steps=steps, **options)
    say(json.dumps(asdict(report) | {"ok": report.ok})) if as_json else say_words(
        "\n".join(report.render()), indent="  "
    )
    if not report.ok:
        raise typer.Exit(FAILED)


def _to_check(entrypoint: str, options: dict[str, Any], given: dict[str, Any]) -> tuple[Entrypoint, dict[str, Any]]:
    """Return what is to be checked, and how: as a job's file says, where one is named, and over it what was given."""
    if is_job_file(entrypoint):
        entrypoint, below = read_job(Path(entrypoint))
        _tell_missing(below)
        options = options | {name: value for name, value in merged(below, given).items() if name in options}
    found = locate(entrypoint, options["folder"])
    if options["batch_size"] is None:
        raise UserError("--batch-size is missing: how many samples a step has")
    spec = spec_of(
        {name: value for name, value in options.items() if name != "folder"}
        | {"entrypoint": found.name, "package": "0" * 64}
    )
    read = {name: getattr(spec, name) for name in options if name not in ("folder", "data")}
    return found, options | read | {"folder": found.folder}


def _tell_missing(job: dict[str, Any]) -> None:
    """What a job is given of secrets is not handed to trials, which have this shell's environment."""
    variables = sorted(by_variable(job.get("secrets") or ()))
    if missing := [name for name in variables if name not in os.environ]:
        say_error(
            f"secrets are not handed to trials: code that needs {', '.join(missing)} finds what this shell's environment has"
        )


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
