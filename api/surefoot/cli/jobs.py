"""The commands about one job or all of them: ls, show, watch, resize, cancel."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from typing import Annotated

import typer
from rich.text import Text

from surefoot.cli import watch as watching
from surefoot.cli.debugging import debugging
from surefoot.cli.format import ago, describe, duration, state_style, steps
from surefoot.cli.last_lines import last_lines
from surefoot.cli.references import AsJson, JobRef, tell
from surefoot.cli.session import Session, say, say_words
from surefoot.cli.system import live_trainers, print_trainers
from surefoot.cli.tables import print_pairs, print_table
from surefoot.cli.usage import print_forecast, usage_rows
from surefoot.cli.values import read_last, words
from surefoot.client import Job
from surefoot.data import in_words
from surefoot.errors import NotFoundError
from surefoot.node_groups import kinds_of_trainers
from surefoot.spec import JobState
from surefoot.timeline import troubles
from surefoot.usage import JobUsage
from surefoot.views import JobView, NumberedEvent
from surefoot.words import UnknownWord

__all__ = ["cancel", "ls", "resize", "show", "tell", "watch"]


def ls(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="So many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Example: surefoot ls --state running
    """
    with Session.of(context).client() as client:
        views = [job.view for job in client.jobs(state=state, limit=limit)]
    if as_json:
        say(json.dumps([view.model_dump(mode="json") for view in views], indent=1))
    elif views:
        _print_jobs(views)
    else:
        say_words("no jobs" if state is None else f"no {state.value} jobs")


def show(
    context: typer.Context,
    job: JobRef,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print what a maintainer of Surefoot asks for: attempts, last events, stories."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job: its spec, state and reason, its traceback if it failed, and all that happened.

    Example: surefoot show last
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        events = list(found.events())
        printed = [] if as_json else last_lines(found)
        usage = _usage(found)
        trainers = [] if found.view.ended else live_trainers(found)
        logged = read_last(found)
    if as_json:
        used: dict[str, object] = {"usage": usage.model_dump(mode="json")} if usage else {}
        used |= {"system": [point.model_dump(mode="json") for point in trainers]} if trainers else {}
        used |= {"values": {name: last.document() for name, last in logged.items()}} if logged else {}
        document = (
            found.view.model_dump(mode="json") | used | {"events": [event.model_dump(mode="json") for event in events]}
        )
        say(json.dumps(document, indent=1))
        return
    values = {"values": words(logged, found.view.steps_done)}
    _show(found.view, events, values | (usage_rows(usage) if usage else {}))
    if trainers:
        say_words("\ntrainers, by their newest samples:")
        print_trainers(trainers)
    _show_forecast(usage)
    _show_events(found.view, events)
    _show_troubles(found.view, events)
    if found.view.traceback:
        say(f"\n{found.view.traceback.rstrip()}")
    for text in printed:
        say(text)
    if debug:
        for line in debugging(found.view, events):
            say_words(line, indent=_BESIDE)


def watch(
    context: typer.Context,
    job: JobRef,
    show: Annotated[
        list[str] | None, typer.Option("--show", help="A logged value to tell beside the step. May be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job live until it ends; exits with 1 unless it succeeds. Ctrl-C only stops the watching.

    Example: surefoot watch last
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        if as_json:
            watching.watch_json(found)
        else:
            watching.watch(found, show=show or [])


def resize(
    context: typer.Context,
    job: JobRef,
    trainers: Annotated[int, typer.Argument(help="How many trainers from now on.", metavar="N")],
    as_json: AsJson = False,
) -> None:
    """Give a job another number of trainers; it trains on meanwhile, to the same result.

    Example: surefoot resize last 4
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        before = found.view.wanted_trainers
        found.resize(trainers)
        tell(found.view, f"job {found.id}: from {before} to {found.view.wanted_trainers} trainers", as_json)


def cancel(
    context: typer.Context,
    job: JobRef,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when nothing of the job is left.")] = True,
    as_json: AsJson = False,
) -> None:
    """Cancel a job.

    Example: surefoot cancel 3f2a
    """
    with Session.of(context).client() as client:
        found = client.job(job)
        if found.view.ended:
            tell(found.view, f"job {found.id} had already {_ended(found.state)}", as_json)
            return
        found.cancel(wait=wait)
        tell(found.view, f"job {found.id} is {found.state.value if found.view.ended else 'being cancelled'}", as_json)


# ---- how they look

# of the second line of an event: below a part of its moment
_BESIDE = "    "


def _ended(state: JobState | UnknownWord) -> str:
    return "been cancelled" if state is JobState.CANCELLED else state.value


_HEADS = ("JOB", "NAME", "STATE", "STEP", "TRAINERS", "CREATED", "REASON")


def _print_jobs(views: list[JobView]) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        (
            view.id,
            view.spec.name,
            Text(view.state.value, style=state_style(view.state)),
            steps(view.steps_done, view.num_steps),
            f"{view.trainers}/{view.wanted_trainers}" if not view.ended else "",
            ago(view.created_at, now),
            view.reason.partition("\n")[0],
        )
        for view in views
    ]
    print_table(_HEADS, rows, right=("STEP", "TRAINERS"))


def _usage(job: Job) -> JobUsage | None:
    try:
        return job.usage()
    except NotFoundError:
        return None  # a service before there were usages


def _show_forecast(usage: JobUsage | None) -> None:
    if usage is not None and usage.forecast and usage.remaining_steps is not None:
        say_words(f"\nthe {usage.remaining_steps} steps that are left, by the steps so far:")
        print_forecast(usage)


def _show(view: JobView, events: list[NumberedEvent], used: dict[str, str]) -> None:
    spec, live = view.spec, "" if view.ended else f"{view.trainers} of "
    rows: dict[str, str | Text] = {
        "job": f"{view.id} ({spec.name})",
        "state": Text(view.state.value, style=state_style(view.state)),
        "reason": view.reason,
        "unreadable": view.unreadable,
        "steps": steps(view.steps_done, view.num_steps),
        "trainers": f"{live}{view.wanted_trainers} wanted (min {spec.min_trainers}, max {spec.most_trainers})",
        "nodes": "" if view.ended else _kinds(events),
        "generation": str(view.generation) if view.generation else "",
        "times": _times(view),
        **used,
        "attempts": str(view.attempts) if view.attempts > 1 else "",
        "checkpoint": _durable(view),
        "model": view.model or "",
        "entrypoint": f"{spec.entrypoint} in package {spec.package[:12]}",
        "batch": f"{spec.batch_size} samples in {spec.sub_tasks} sub-tasks, seed {spec.seed}",
        "config": json.dumps(spec.config) if spec.config else "",
        "each trainer": _trainer(view),
        "pip": ", ".join(spec.pip),
        "env": " ".join(f"{key}={value}" for key, value in spec.env.items()),
        "data": in_words(spec.data),
        "secrets": " ".join(n if n == v else f"{n}={v}" for v, n in spec.secrets.items()),
        "final state": view.digest or "",
    }
    print_pairs(rows)


def _kinds(events: list[NumberedEvent]) -> str:
    """ "3 of gpu-spot (aws-spot), 1 of gpu (on-demand)": where the trainers are, as far as that was told."""
    counted = Counter(
        tuple(kind.get(n, "") for n in ("group", "market")) for kind in kinds_of_trainers(events).values()
    )
    found = {kind: n for kind, n in sorted(counted.items()) if any(kind)}
    return ", ".join(f"{n} of {group or '?'}{f' ({market})' if market else ''}" for (group, market), n in found.items())


def _times(view: JobView) -> str:
    parts = [f"created {_time(view.created_at)}"]
    if view.started_at:
        parts.append(f"waited {duration((view.started_at - view.created_at).total_seconds())}")
        end = view.ended_at or datetime.now(timezone.utc)
        parts.append(f"{'ran' if view.ended_at else 'running for'} {duration((end - view.started_at).total_seconds())}")
    return ", ".join(parts)


def _trainer(view: JobView) -> str:
    resources, spec = view.spec.resources, view.spec
    parts = [
        (resources.cpus, "CPU"),
        (resources.gpus, "GPU"),
        (spec.threads, "thread"),
        (spec.data_workers, "data worker"),
    ]
    return ", ".join(f"{n:g} {noun}{'' if n == 1 else 's'}" for n, noun in parts if n)


def _show_events(view: JobView, events: list[NumberedEvent]) -> None:
    if not events:
        return
    say("")
    for event in events:
        since = (event.at - view.created_at).total_seconds()
        say_words(f"{since:+9.2f} s  {describe(event)}", indent=_BESIDE)


def _show_troubles(view: JobView, events: list[NumberedEvent]) -> None:
    """What went wrong, and the seconds each cost."""
    found = troubles(events)
    if not found:
        return
    cost = sum(trouble.seconds or 0.0 for trouble in found)
    known = any(trouble.seconds is not None for trouble in found)
    say_words(f"\nfailures: {len(found)}{f', which cost {duration(cost)} in all' if known else ''}")
    for trouble in found:
        since = (trouble.at - view.created_at).total_seconds()
        seconds = "" if trouble.seconds is None else f"  ({duration(trouble.seconds)})"
        say_words(f"{since:+9.2f} s  {describe(trouble.event)}{seconds}", indent=_BESIDE)


def _durable(view: JobView) -> str:
    return "" if view.checkpoint is None else f"step {view.checkpoint_step} in {view.checkpoint}"


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
