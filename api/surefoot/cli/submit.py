"""`surefoot submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surefoot.cli.given import check_names, given_alone, merged, tell_unlike
from surefoot.cli.job_options import CodeOptions, DurabilityOptions, ResultOptions, SizeOptions
from surefoot.cli.logs import watch_logs
from surefoot.cli.option_groups import with_groups
from surefoot.cli.references import AsJson
from surefoot.cli.session import Session, pairs, say, say_error
from surefoot.cli.watch import watch, watch_json
from surefoot.client import Client, Job
from surefoot.config_files import is_job_file
from surefoot.entrypoint import locate
from surefoot.errors import UserError
from surefoot.job_file import read_job
from surefoot.secret_rules import by_variable
from surefoot.submission import tell_left_out

__all__ = ["submit"]


@with_groups
def submit(
    context: typer.Context,
    entrypoint: Annotated[
        str | None,
        typer.Argument(
            help="The train function, as MODULE:FUNCTION or FILE.py:FUNCTION; or a job's file, as job.yaml.",
            metavar="[ENTRYPOINT|FILE]",
        ),
    ] = None,
    *,
    result: ResultOptions,
    size: SizeOptions,
    durability: DurabilityOptions,
    code: CodeOptions,
    name: Annotated[str | None, typer.Option(help="A name for people. (default: the module)")] = None,
    from_job: Annotated[
        str | None,
        typer.Option("--from", help="Submit this job's code again, with what else is given changed.", metavar="JOB"),
    ] = None,
    watching: Annotated[
        bool, typer.Option("--watch/--detach", help="Watch the job, or print its id and return.")
    ] = True,
    printing: Annotated[
        bool, typer.Option("--logs", help="Watch what one of its trainers prints, in place of the steps.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a training job.

    The folder is packaged (what .gitignore and .surefootignore name stays out, and is told), uploaded unless the control plane
    has it already, and trained on however many trainers the cluster gives: the result is the same.

    A job's file (YAML, TOML, JSON; `surefoot schema` describes it) says the same as the options do, which go over it.

    Example: surefoot submit train:train --folder examples/digits --batch-size 64 --trainers 3 --set lr=0.001
    """
    options = result.options() | size.options() | durability.options() | code.options() | {"name": name}
    given, settings = given_alone(context, options), pairs(result.settings or [], "--set")
    with Session.of(context).client() as client:
        if from_job is not None:
            job = _submit_again(client, from_job, _changes(entrypoint, given), settings)
        else:
            job = _submit_new(client, entrypoint, given, settings)
        if told := tell_left_out(job.view.spec.left_out):
            say_error(told)
        if not watching:
            _tell(job, as_json)
        elif as_json:
            watch_json(job)
        else:
            say(f"job {job.id} {job.state.value}")
            (watch_logs if printing else watch)(job)


def _submit_again(client: Client, ref: str, changes: dict[str, Any], settings: dict[str, str]) -> Job:
    before = client.job(ref)
    tell_unlike(settings, before.spec.config)
    return client.submit_from(before, **changes)


def _submit_new(client: Client, entrypoint: str | None, given: dict[str, Any], settings: dict[str, str]) -> Job:
    train, named = _named(entrypoint, given)
    check_names(locate(train, named.get("folder")), settings)
    return client.submit(train, **named)


def _tell(job: Job, as_json: bool) -> None:
    if as_json:
        say(job.view.model_dump_json())
        return
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
