"""Functions that no name leads to, lambdas and those that functions make: told by their code, defaults and what they close over."""

from __future__ import annotations

import importlib
import marshal
import sys
from types import CellType, FunctionType
from typing import Any

__all__ = ["is_found", "reduced_function"]

# Of marshal's formats the last one whose bytes depend on the code alone. All trainers have the same Python.
_MARSHAL = 2


def is_found(function: FunctionType) -> bool:
    """Whether pickle finds a function again by its name."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def reduced_function(function: FunctionType) -> tuple[Any, ...]:
    """Return how such a function is made again. Raises ValueError for one that closes over a variable without a value."""
    cells = None if function.__closure__ is None else tuple(cell.cell_contents for cell in function.__closure__)
    return (
        _made,
        (
            marshal.dumps(function.__code__, _MARSHAL), function.__globals__["__name__"], function.__name__, function.__qualname__,
            function.__defaults__, function.__kwdefaults__, cells, dict(vars(function)),
        ),
    )  # fmt: skip


def _made(
    code: bytes,
    module: str,
    name: str,
    qualname: str,
    defaults: tuple[Any, ...] | None,
    keywords: dict[str, Any] | None,
    cells: tuple[Any, ...] | None,
    attributes: dict[str, Any],
) -> FunctionType:
    values = vars(sys.modules.get(module) or importlib.import_module(module))
    closure = None if cells is None else tuple(map(CellType, cells))
    made = FunctionType(marshal.loads(code), values, name, defaults, closure)
    made.__kwdefaults__, made.__qualname__ = keywords, qualname
    vars(made).update(attributes)
    return made
