"""What of a command line was given on it, rather than left as it is: that alone goes over a job's file, or changes a job that is cloned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from surefoot.cli.session import say_error
from surefoot.config import near
from surefoot.config_reads import reads_of
from surefoot.entrypoint import Entrypoint
from surefoot.errors import UserError

__all__ = ["check_names", "given_alone", "merged", "tell_unlike"]

# options of `submit` that are made of arguments of other names
_MADE_OF = {
    "config": ("settings", "config"),
    "secrets": ("secret",),
    "every_steps": ("checkpoint_every_steps",),
    "every_s": ("checkpoint_every_seconds",),
    "url": ("checkpoint_url",),
    "best_mode": ("best",),
}
# whose parts are given one by one
_IN_PARTS = ("checkpoint", "budget")
# where what is given goes over what there is, name by name
_BY_NAME = ("config", "checkpoint", "budget", "env", "secrets", "data", "resources")


def given_alone(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the command line names."""
    found = {}
    for name, value in options.items():
        if name in _IN_PARTS:
            if part := given_alone(context, value):
                found[name] = part
        elif any(_is_given(context, argument) for argument in _MADE_OF.get(name, (name,))):
            found[name] = value
    return found


def _is_given(context: typer.Context, argument: str) -> bool:
    source = context.get_parameter_source(argument)
    return source is not None and source.name != "DEFAULT"


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over others: names of mappings one by one, all else as a whole."""
    found = dict(below)
    for name, value in above.items():
        known = found.get(name)
        both = name in _BY_NAME and isinstance(known, Mapping) and isinstance(value, Mapping)
        found[name] = {**known, **value} if both else value  # type: ignore[dict-item]
    return found


def tell_unlike(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Say of a name that the config of the job that is cloned does not have, whose code is not here, which one it is much like."""
    for name in names:
        if name not in config and (hint := near(name, config)).startswith("; did you mean"):
            say_error(f"--set {name}: that job's config has no {name!r}{hint}")


def check_names(entrypoint: Entrypoint, names: Mapping[str, Any]) -> None:
    """Raise UserError for a name set by --set that the code never reads; only say so where it may be read all the same."""
    reads = reads_of(entrypoint.file, entrypoint.folder)
    for name in names:
        if name in reads.names:
            continue
        if reads.names and not reads.whole:  # else it is perhaps read in another package
            raise UserError(f"--set {name}: {entrypoint.name} reads no run.config[{name!r}]{near(name, reads.names)}")
        if (hint := near(name, reads.names)).startswith("; did you mean"):
            say_error(f"--set {name}: nothing in the code reads it by this name{hint}")
