"""From what a person gives to `submit` to what is sent: the spec and the package. Reads files, and touches no network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from typing_extensions import Required, TypedDict, Unpack

from surefoot._given import a_mapping, a_path, texts
from surefoot._paths import folder_at
from surefoot._requests import spec_error
from surefoot.budget import Budget
from surefoot.data import DataSource, found_here
from surefoot.entrypoint import Entrypoint, locate
from surefoot.errors import OptionError, PackageError, SpecError, UserError
from surefoot.notebook import MODULE, is_of_a_notebook, source_of
from surefoot.package import CodePackage, LeftOut, pack
from surefoot.secret_rules import by_variable
from surefoot.spec import MAX_LEFT_OUT, CheckpointPolicy, JobSpec

__all__ = ["INSIDE_A_TRAINER", "Submission", "SubmitOptions", "changes_of", "prepare", "spec_of", "tell_left_out"]

# Set in the environment of every trainer.
INSIDE_A_TRAINER = "SUREFOOT_TRAINER"

# options that are parts of the spec's resources
_RESOURCES = ("cpus", "gpus")

# So many names are told of what was left out.
_MOST_TOLD = 4


class SubmitOptions(TypedDict, total=False):
    """What `submit` takes beside the train function: the fields of a job's spec, and where its code is."""

    # the folder to package; default: the one that the function's module is importable from, or the current one
    folder: str | os.PathLike[str] | None
    # samples a step, over all sub-tasks; a multiple of sub_tasks
    batch_size: Required[int]
    # pieces of a step's batch, fixed for the whole job: the result depends on it, not on the number of trainers
    sub_tasks: int
    # how many trainers to start with, and the bounds of a resize; max_trainers defaults to sub_tasks
    trainers: int
    min_trainers: int
    max_trainers: int | None
    # handed to the train function as run.config; JSON values
    config: Mapping[str, Any] | None
    seed: int
    # for people; default: the function's module
    name: str | None
    # what Ray reserves for one trainer
    cpus: float
    gpus: float
    # CPU threads a trainer computes with
    threads: int
    # background data-loading processes a trainer
    data_workers: int
    # trainers kept warm beside those that train
    spares: int
    # losses in a row without a step in between that are borne
    max_failures: int
    # when durable checkpoints are made, and where: a CheckpointPolicy, or its fields
    checkpoint: CheckpointPolicy | Mapping[str, Any]
    # begin from this checkpoint: its URL, or another job's id
    restore: str | None
    # end training at the first step whose merged values meet this: "accuracy>=0.97"
    target: str | None
    # what it may cost, and for how long it may run: a Budget, or its fields
    budget: Budget | Mapping[str, Any]
    # pip requirements of the training code
    pip: Sequence[str]
    # environment of the trainers; never secrets, as whoever lists jobs sees it
    env: Mapping[str, str] | None
    # secrets of the control plane that the code finds in its environment: names, "NAME=VARIABLE", or a mapping of variables to names
    secrets: Mapping[str, str] | Sequence[str]
    # what the train function finds as run.data["NAME"]: URLs by name, or {"url": ..., "copy": True or False, "digest": ...}
    data: Mapping[str, str | os.PathLike[str] | DataSource | Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job ready to be sent. Sent twice, it is still one job."""

    spec: JobSpec
    package: CodePackage
    # the Idempotency-Key
    key: str


def prepare(train: str | Callable[..., Any], **options: Unpack[SubmitOptions]) -> Submission:
    """Check everything that can be checked here, and pack the code.

    Raises OptionError, EntrypointError, PackageError and SpecError.
    """
    _check_names("submit", options, SubmitOptions.__annotations__)
    if options.get("batch_size") is None:
        raise OptionError("batch_size is missing: how many samples a step has, as batch_size=64")
    folder = None if (named := options.get("folder")) is None else a_path(named, "folder")
    try:
        _refuse_inside_a_trainer()
        with _located(train, folder) as (entrypoint, more):
            return _packed(entrypoint, more, _fields(entrypoint, {**options}))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        about = f"{error.filename}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        raise PackageError(f"the code cannot be read: {about}") from error
    except (RecursionError, MemoryError) as error:
        raise PackageError("the code cannot be read: the entrypoint's file is nested too deeply") from error


def _check_names(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = list(known)
    if unknown := sorted(set(given) - set(names)):
        meant = get_close_matches(unknown[0], names, 1, 0.6)
        hint = f"did you mean {meant[0]}?" if meant else f"it takes {', '.join(names)}"
        raise OptionError(f"{function}() takes no {', '.join(unknown)}; {hint}")


@contextmanager
def _located(
    train: str | Callable[..., Any], folder: str | os.PathLike[str] | None
) -> Iterator[tuple[Entrypoint, dict[str, Path]]]:
    """Find the train function; one of a notebook becomes a file, packed beside what is in the folder."""
    if not is_of_a_notebook(train):
        yield locate(train, folder), {}
        return
    assert callable(train)
    with TemporaryDirectory(prefix="surefoot-") as made:
        file = Path(made).resolve() / f"{MODULE}.py"
        file.write_text(source_of(train), encoding="utf-8")
        found = locate(f"{MODULE}:{train.__name__}", file.parent)
        yield replace(found, folder=folder_at(folder or ".", PackageError)), {file.name: file}


def _fields(entrypoint: Entrypoint, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the job's spec that its options say."""
    given = {name: value for name, value in options.items() if name not in ("folder", *_RESOURCES)}
    return given | {
        "name": options.get("name") or _name_of(entrypoint),
        "entrypoint": entrypoint.name,
        "config": _config(options.get("config")),
        "env": _env(options.get("env")),
        "resources": _resources(options),
        "pip": _pip(options.get("pip")),
        "secrets": _secrets(options.get("secrets")),
        "data": _data(options.get("data")),
    }


def _config(given: object) -> dict[str, Any]:
    return a_mapping(given, "config", '{"lr": 0.1}')


def _env(given: object) -> dict[str, str]:
    return a_mapping(given, "env", '{"NAME": "value"}')


def _pip(given: object) -> tuple[str, ...]:
    return texts(given, "pip", '["einops==0.8"]')


def _secrets(given: Any) -> dict[str, str]:
    return by_variable(() if given is None else given)


def _data(given: object) -> dict[str, Any]:
    found: dict[str, Any] = found_here(a_mapping(given, "data", '{"train": "s3://bucket/cifar"}'), Path())
    return found


# options that are read alike for a new job and for one that is changed
_READ: Mapping[str, Callable[[Any], Any]] = {
    "config": _config,
    "env": _env,
    "pip": _pip,
    "secrets": _secrets,
    "data": _data,
}


def _resources(options: Mapping[str, Any]) -> dict[str, float]:
    return {name: options[name] for name in _RESOURCES if name in options}


def _packed(entrypoint: Entrypoint, more: Mapping[str, Path], fields: dict[str, Any]) -> Submission:
    # The spec is checked before the folder is read: its mistakes are the commoner and the quicker to find.
    spec_of(fields | {"package": "0" * 64})
    package = pack(entrypoint.folder, more)
    inside = entrypoint.file.name if more else entrypoint.file.relative_to(entrypoint.folder).as_posix()
    if inside not in package.files:
        raise PackageError(f"{inside}, which holds the entrypoint, {_why_out(inside, package.left_out)}")
    made = fields | {"package": package.sha256, "left_out": _bounded(package.left_out)}
    return Submission(spec=spec_of(made), package=package, key=uuid4().hex)


def changes_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `submit` as changes of a job's spec. Raises OptionError for one that the code of that job decides, or none."""
    _check_names("submit_from", options, (name for name in SubmitOptions.__annotations__ if name != "folder"))
    changes = {name: value for name, value in options.items() if name not in _RESOURCES}
    if resources := _resources(options):
        changes["resources"] = resources
    changes |= {name: read(changes[name]) for name, read in _READ.items() if name in changes}
    if "data" in changes:
        sources = changes["data"].items()
        changes["data"] = {n: s.model_dump(mode="json") if isinstance(s, DataSource) else s for n, s in sources}
    for name, kind in (("checkpoint", CheckpointPolicy), ("budget", Budget)):
        if isinstance(part := changes.get(name), kind):
            changes[name] = part.model_dump(mode="json")
    return changes


def _name_of(entrypoint: Entrypoint) -> str:
    """The module's name, or what of a script's path may be in a name."""
    return re.sub(r"[^\w .:-]", ".", entrypoint.name.partition(":")[0]).lstrip(".-: ")[-100:]


def _why_out(file: str, left_out: Sequence[LeftOut]) -> str:
    found = next(
        (out for out in left_out if out.path == file or (out.path[-1] == "/" and file.startswith(out.path))), None
    )
    if found is None:
        return "is ignored by .gitignore, .surefootignore or the built-in list"
    return f"is left out of the package {found.why}; add `!{found.path}` to .surefootignore"


def _bounded(left_out: Sequence[LeftOut]) -> dict[str, str]:
    """What of it travels with the job: what lies near the top first."""
    short = [out for out in left_out if len(out.path) <= 500]
    nearest = sorted(short, key=lambda out: (out.path.rstrip("/").count("/"), out.path))[:MAX_LEFT_OUT]
    return {out.path: out.why[:300] for out in nearest}


def tell_left_out(left_out: Mapping[str, str]) -> str:
    """Say in a line what is not in the package, code first; empty where there is nothing to say."""
    if not left_out:
        return ""
    ordered = sorted(left_out, key=lambda path: (not path.endswith(".py"), path.rstrip("/").count("/"), path))
    named = ", ".join(
        f"{path} ({left_out[path].removeprefix('by ').removeprefix('since ')})" for path in ordered[:_MOST_TOLD]
    )
    many = f"{len(left_out)}{'+' * (len(left_out) >= MAX_LEFT_OUT)}"
    more = f", ... ({many} in all)" if len(ordered) > _MOST_TOLD else ""
    return f"left out of the package: {named}{more}"


def spec_of(fields: Mapping[str, Any]) -> JobSpec:
    """Return the spec of these fields. Raises SpecError, field by field."""
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        raise spec_error(error) from None
    except RecursionError:
        raise SpecError("the config refers to itself: it must be plain JSON") from None


def _refuse_inside_a_trainer() -> None:
    """A script that submits its own function at the top level is imported by the trainers, and would submit itself for ever."""
    if os.environ.get(INSIDE_A_TRAINER):
        raise UserError(
            'submit() was called while a trainer imports this file: put the call under `if __name__ == "__main__":`'
        )
