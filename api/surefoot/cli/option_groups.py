"""A command with many options takes them in groups: a dataclass whose fields are options is one argument of its function.

A group's class has a `panel`, below which its options stand in --help, and a field with `Annotated[kind, typer.Option(...)]` an option.
On the command line each is an option of the command's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import fields, is_dataclass
from functools import wraps
from operator import getitem
from typing import Annotated, Any, get_args, get_type_hints

__all__ = ["with_groups"]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the options of a command's groups, in place of the groups."""
    taken = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {name: p.annotation for name, p in taken.parameters.items() if is_dataclass(p.annotation)}

    @wraps(command)
    def invoke(**arguments: Any) -> None:
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group)})
        command(**arguments)

    shown: list[inspect.Parameter] = []
    for name, parameter in taken.parameters.items():
        shown += _options(groups[name]) if name in groups else [parameter]
    invoke.__signature__ = taken.replace(parameters=shown)  # type: ignore[attr-defined]
    return invoke


def _options(group: Any) -> Iterator[inspect.Parameter]:
    kinds = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, option = get_args(kinds[field.name])
        option = copy(option)  # another command's too, which has no such panel
        option.rich_help_panel = group.panel
        annotation = getitem(Annotated, (kind, option))
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation
        )
