"""Which functions of the user's a call leads to, and what is given to them, as far as the source and the objects in sight tell."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from surefoot.parsing import parsed
from surefoot_actors.user_code.lines import is_library

__all__ = ["Called", "called", "is_part", "moved", "object_of", "path_of", "shared", "text_key", "tree_of"]


class Called(NamedTuple):
    """A function that is called."""

    code: CodeType
    # the variables of its module, and those that it closes over
    values: dict[str, Any]
    cells: dict[str, CellType]
    body: list[ast.stmt]
    # by parameter: what is given, as it is written, and the object where it is known
    given: dict[str, tuple[ast.expr, Any]]


@lru_cache(maxsize=64)
def tree_of(code: CodeType) -> ast.AST | None:
    """Return a function's syntax tree, with the line numbers of its file; None where its source is not known. It is to be read only."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = parsed(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    ast.increment_lineno(tree, max(first, 1) - 1)
    return tree


def called(node: ast.Call, names: Mapping[str, Any]) -> Called | None:
    """Return what a call leads to: a function of the user's, or a method of an object that a name stands for. `names`: in sight."""
    node = _without_getattr(node, names)
    target: Any = object_of(node.func, names)
    owner = object_of(node.func.value, names) if isinstance(node.func, ast.Attribute) else None
    if isinstance(target, MethodType):
        owner, target = target.__self__, target.__func__
    elif not isinstance(target, FunctionType | type) and target is not None:
        method = inspect.getattr_static(type(target), "forward" if isinstance(target, nn.Module) else "__call__", None)
        if not isinstance(method, FunctionType):
            return None
        node, owner, target = _as_method(node), target, method
    if isinstance(owner, ModuleType):
        owner = None
    if not isinstance(target, FunctionType) or is_library(target.__code__.co_filename):
        return None
    body = _body(target.__code__)
    if body is None:
        return None
    cells = dict(zip(target.__code__.co_freevars, target.__closure__ or (), strict=True))
    own = {*target.__code__.co_varnames, *target.__code__.co_cellvars}
    values = {k: v for k, v in target.__globals__.items() if k not in own}
    values.update((name, _content(cell)) for name, cell in cells.items())
    return Called(target.__code__, values, cells, body, dict(_given(node, target, owner, names)))


def _as_method(node: ast.Call) -> ast.Call:
    """Return the call of an object as that of a method of it."""
    method = ast.copy_location(ast.Attribute(node.func, "__call__", ast.Load()), node.func)
    return ast.copy_location(ast.Call(method, node.args, node.keywords), node)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has no value yet
        return None


def _without_getattr(node: ast.Call, names: Mapping[str, Any]) -> ast.Call:
    """Return a call of `getattr(thing, name)` as one of the method that it asks for."""
    inner = node.func
    if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Name) or inner.func.id != "getattr":
        return node
    name = object_of(inner.args[1], names) if len(inner.args) > 1 else None
    if not isinstance(name, str):
        return node
    method = ast.copy_location(ast.Attribute(inner.args[0], name, ast.Load()), inner)
    return ast.copy_location(ast.Call(method, node.args, node.keywords), node)


def object_of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the object that a name, or an attribute of one, stands for, without running any code; None where that is not known."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Subscript):
        held, key = object_of(node.value, names), object_of(node.slice, names)
        return dict.get(held, key) if isinstance(held, dict) and isinstance(key, str) else None
    if not isinstance(node, ast.Attribute) or (owner := object_of(node.value, names)) is None:
        return None
    held = getattr(owner, "__dict__", None)
    if isinstance(held, Mapping) and node.attr in held and not isinstance(owner, type):
        return held[node.attr]
    if isinstance(owner, nn.Module) and node.attr in owner._modules:
        return owner._modules[node.attr]
    found = None if isinstance(owner, type) else inspect.getattr_static(type(owner), node.attr, None)
    return found if isinstance(found, FunctionType) else None


@lru_cache(maxsize=256)
def _body(code: CodeType) -> list[ast.stmt] | None:
    tree = tree_of(code)
    first = tree.body[0] if isinstance(tree, ast.Module) and tree.body else None
    return first.body if isinstance(first, ast.FunctionDef) and not code.co_flags & inspect.CO_GENERATOR else None


def _given(
    node: ast.Call, function: FunctionType, owner: Any, names: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[ast.expr, Any]]]:
    parameters = list(function.__code__.co_varnames[: function.__code__.co_argcount])
    if owner is not None and parameters and isinstance(node.func, ast.Attribute):
        yield parameters.pop(0), (node.func.value, owner)
    for parameter, argument in zip(parameters, node.args, strict=False):
        if isinstance(argument, ast.Starred):
            break
        yield parameter, (argument, object_of(argument, names))
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield keyword.arg, (keyword.value, object_of(keyword.value, names))


def shared(found: Called) -> tuple[set[str], set[str]]:
    """Return the variables that a function has in common with the one that calls it, and which of them it writes."""
    nodes = [n for statement in found.body for n in ast.walk(statement)]
    written = {name for n in nodes if isinstance(n, ast.Global | ast.Nonlocal) for name in n.names}
    own = {*found.code.co_varnames, *found.code.co_cellvars}
    return {n.id for n in nodes if isinstance(n, ast.Name) and n.id not in own}, written


def moved(paths: Iterable[str], roots: Mapping[str, str]) -> Iterator[str]:
    """Yield what lies in one of these roots as it is called from the other side."""
    for path in paths:
        yield from (to + path[len(root) :] for root, to in roots.items() if path == root or is_part(path, root))


def is_part(path: str, whole: str) -> bool:
    """Whether a name is that of an attribute, or of what is under a key, of another one."""
    return path.startswith((f"{whole}.", f"{whole}["))


def path_of(node: ast.expr) -> str:
    """Return a name, one with attributes, or with texts for keys; "" for everything else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = path_of(node.value) if isinstance(node, ast.Attribute | ast.Subscript) else ""
    if inner and isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}"
    key = text_key(node) if inner else None
    return f"{inner}[{key!r}]" if key is not None else ""


def text_key(node: ast.expr) -> str | None:
    """Return the text for which something is taken from a dict; None where it is no text, or not known."""
    key = node.slice if isinstance(node, ast.Subscript) else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
