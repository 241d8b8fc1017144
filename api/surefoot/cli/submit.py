"""`surefoot submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surefoot.cli.given import check_names, given_alone, merged, tell_unlike
from surefoot.cli.logs import watch_logs
from surefoot.cli.references import AsJson
from surefoot.cli.session import Session, pairs, read_config, say, say_error
from surefoot.cli.watch import watch, watch_json
from surefoot.config_files import is_job_file
from surefoot.data import by_name
from surefoot.entrypoint import locate
from surefoot.errors import UserError
from surefoot.job_file import read_job
from surefoot.secret_rules import by_variable
from surefoot.submission import tell_left_out

__all__ = ["submit"]

# The panels of --help.
_RESULT, _SIZE, _CODE = "What decides the result", "How it is run", "The code"
_DURABLE = "What outlives trainers"


def submit(
    context: typer.Context,
    entrypoint: Annotated[
        str | None,
        typer.Argument(
            help="The train function, as MODULE:FUNCTION or FILE.py:FUNCTION; or a job's file, as job.yaml.",
            metavar="[ENTRYPOINT|FILE]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", help="Samples a step; a multiple of --sub-tasks.", rich_help_panel=_RESULT),
    ] = None,
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
        Path | None,
        typer.Option(help="A YAML, TOML or JSON file with the config; --set goes over it.", rich_help_panel=_RESULT),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="End at the first step whose merged value meets this: 'accuracy>=0.97'.",
            metavar="NAME>=NUMBER",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Pause it when its trainers have cost so much.", rich_help_panel=_SIZE)
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Pause it after so many hours on the cluster.", rich_help_panel=_SIZE)
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
    spares: Annotated[int, typer.Option(help="Trainers kept warm beside those that train.", rich_help_panel=_SIZE)] = 0,
    max_failures: Annotated[
        int, typer.Option(help="Losses in a row, without a step in between, that are borne.", rich_help_panel=_SIZE)
    ] = 10,
    checkpoint_every_steps: Annotated[
        int | None, typer.Option(help="A checkpoint after every so many steps.", rich_help_panel=_DURABLE)
    ] = None,
    checkpoint_every_seconds: Annotated[
        float, typer.Option(help="One after every so many seconds; 0: none by time.", rich_help_panel=_DURABLE)
    ] = 300.0,
    checkpoint_url: Annotated[
        str | None,
        typer.Option(
            help="A folder that all nodes see, or an fsspec URL. (default: the service's)", rich_help_panel=_DURABLE
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option(help="So many of the newest checkpoints are kept.", rich_help_panel=_DURABLE)
    ] = 2,
    best: Annotated[
        str | None,
        typer.Option(
            help="A logged value; the checkpoint where it was lowest is kept too. '+NAME': highest.",
            rich_help_panel=_DURABLE,
        ),
    ] = None,
    restore: Annotated[
        str | None, typer.Option(help="Begin from this checkpoint: a URL, or another job.", rich_help_panel=_DURABLE)
    ] = None,
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
    secret: Annotated[
        list[str] | None,
        typer.Option(
            help="A secret that the code finds in its environment (`surefoot secret set`). May be repeated.",
            metavar="NAME[=VARIABLE]",
            rich_help_panel=_CODE,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Data of the code's: run.data[NAME]. URLs are copied once a node, paths are read in place, unless "
            "it is NAME:copy=PATH or NAME:in-place=URL. May be repeated.",
            metavar="NAME=URL",
            rich_help_panel=_CODE,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people. (default: the module)")] = None,
    from_job: Annotated[
        str | None,
        typer.Option("--from", help="Submit this job's code again, with what else is given changed.", metavar="JOB"),
    ] = None,
    as_json: AsJson = False,
    watching: Annotated[
        bool, typer.Option("--watch/--detach", help="Watch the job, or print its id and return.")
    ] = True,
    printing: Annotated[
        bool, typer.Option("--logs", help="Watch what one of its trainers prints, in place of the steps.")
    ] = False,
) -> None:
    """Submit a training job.

    The folder is packaged (what .gitignore and .surefootignore name stays out, and is told), uploaded unless the control plane
    has it already, and trained on however many trainers the cluster gives: the result is the same.

    A job's file (YAML, TOML, JSON; `surefoot schema` describes it) says the same as the options do, which go over it.

    Example: surefoot submit train:train --folder examples/digits --batch-size 64 --trainers 3 --set lr=0.001
    """
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "sub_tasks": sub_tasks,
        "seed": seed,
        "config": read_config(config, settings or []),
        "threads": threads,
        "trainers": trainers,
        "min_trainers": min_trainers,
        "max_trainers": max_trainers,
        "cpus": cpus,
        "gpus": gpus,
        "data_workers": data_workers,
        "spares": spares,
        "max_failures": max_failures,
        "checkpoint": {
            "every_steps": checkpoint_every_steps,
            "every_s": checkpoint_every_seconds or None,
            "url": checkpoint_url,
            "keep": keep,
            "best": best.removeprefix("+") if best else None,
            "best_mode": "max" if best and best.startswith("+") else "min",
        },
        "restore": restore,
        "target": target,
        "budget": {"max_cost": max_cost, "max_hours": max_hours},
        "folder": folder,
        "pip": pip or [],
        "env": pairs(env or [], "--env"),
        "secrets": secret or [],
        "data": by_name(data or []),
        "name": name,
    }
    given = given_alone(context, options)
    with Session.of(context).client() as client:
        if from_job is not None:
            changes = _changes(entrypoint, given)
            before = client.job(from_job)
            tell_unlike(pairs(settings or [], "--set"), before.spec.config)
            job = client.submit_from(before, **changes)
        else:
            train, named = _named(entrypoint, given)
            check_names(locate(train, named.get("folder")), pairs(settings or [], "--set"))
            job = client.submit(train, **named)
        if told := tell_left_out(job.view.spec.left_out):
            say_error(told)
        if as_json:
            watch_json(job) if watching else say(job.view.model_dump_json())
        elif watching:
            say(f"job {job.id} {job.state.value}")
            (watch_logs if printing else watch)(job)
        else:
            say(job.id)
            say_error(f"watch it with `surefoot watch {job.id}`")


def _named(entrypoint: str | None, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the entrypoint and the options of `submit` that are meant: a file's, and over them those that were given."""
    if entrypoint is None:
        raise UserError("name the train function, as MODULE:FUNCTION, a job's file, or a job by --from")
    if is_job_file(entrypoint):
        entrypoint, below = read_job(Path(entrypoint))
        if "secrets" in given:
            below["secrets"] = by_variable(below.get("secrets") or ())
            given = given | {"secrets": by_variable(given["secrets"])}
        given = merged(below, given)
    if given.get("batch_size") is None:
        raise UserError("--batch-size is missing: how many samples a step has")
    return entrypoint, {"trainers": given.get("min_trainers", 1)} | given


def _changes(entrypoint: str | None, given: dict[str, Any]) -> dict[str, Any]:
    if entrypoint is not None or "folder" in given:
        raise UserError("--from takes that job's code as it is: leave out ENTRYPOINT and --folder")
    return given
