"""Functions that no name leads to, lambdas and those that functions make: told by their code, defaults and what they close over.

A variable that a function under way has in sight too is told by its name, so that both go on to share it.
"""

from __future__ import annotations

import importlib
import marshal
import sys
from types import CellType, FunctionType
from typing import Any

__all__ = ["is_found", "reduced_cell", "reduced_function"]

# Of marshal's formats the last one whose bytes depend on the code alone. All trainers have the same Python.
_MARSHAL = 2


def is_found(function: FunctionType) -> bool:
    """Whether pickle finds a function again by its name."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def reduced_function(function: FunctionType) -> tuple[Any, ...]:
    """Return how such a function is made again."""
    return (
        _made,
        (
            marshal.dumps(function.__code__, _MARSHAL), function.__globals__["__name__"], function.__name__, function.__qualname__,
            function.__defaults__, function.__kwdefaults__, function.__closure__, dict(vars(function)),
        ),
    )  # fmt: skip


def reduced_cell(cell: CellType) -> tuple[Any, ...]:
    """Return how a variable that functions close over is made again: first it, then its value, which may be one of those functions."""
    try:
        value = (cell.cell_contents,)
    except ValueError:  # it has none yet
        return _new_cell, ()
    return _new_cell, (), value, None, None, _set_cell


def _new_cell() -> CellType:
    return CellType()


def _set_cell(cell: CellType, value: tuple[Any]) -> None:
    cell.cell_contents = value[0]


def _made(
    code: bytes,
    module: str,
    name: str,
    qualname: str,
    defaults: tuple[Any, ...] | None,
    keywords: dict[str, Any] | None,
    cells: tuple[CellType, ...] | None,
    attributes: dict[str, Any],
) -> FunctionType:
    values = vars(sys.modules.get(module) or importlib.import_module(module))
    made = FunctionType(marshal.loads(code), values, name, defaults, cells)
    made.__kwdefaults__, made.__qualname__ = keywords, qualname
    vars(made).update(attributes)
    return made
