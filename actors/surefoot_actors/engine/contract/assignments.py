"""What a piece of the user's source writes, adds to and reads, by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import cast

from surefoot.parsing import parsed
from surefoot_actors.engine.contract.called import path_of

__all__ = ["ADDS", "assigned", "counted", "expression_of", "goes_into", "has_star", "paths_of", "targets_of", "written"]

# Methods that add to what they are called on.
ADDS = frozenset(("append", "appendleft", "extend", "add", "update", "insert"))


def expression_of(path: str) -> ast.expr:
    """Return a path, such as `self.best[0]`, as a syntax tree."""
    return cast(ast.Expr, parsed(path).body[0]).value


def has_star(target: ast.Tuple) -> bool:
    """Whether one name of several takes what the others leave."""
    return any(isinstance(part, ast.Starred) for part in target.elts)


def written(loop: ast.stmt) -> set[str]:
    """Return what an inner loop writes that depends on its batches or on how many there are, and what its own variables are."""
    names: set[str] = set()
    given: list[tuple[ast.expr, list[ast.expr]]] = []
    for node in ast.walk(loop):
        if isinstance(node, ast.For | ast.AugAssign):
            names.update(paths_of(node.target))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            given.append((node.value, node.targets if isinstance(node, ast.Assign) else [node.target]))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ADDS:
            names.update(paths_of(node.func.value))
    branches = [n for n in ast.walk(loop) if isinstance(n, ast.If)]
    for _ in range(len(given)):
        before = len(names)
        names.update(p for branch in branches if not _is_alike(branch.test, names) for p in _flags(branch))
        names.update(p for value, targets in given if not _is_alike(value, names) for t in targets for p in paths_of(t))
        if len(names) == before:
            break
    return names


def counted(body: ast.AST) -> set[str]:
    """Return what a function adds to: it is another number for another number of calls."""
    nodes = list(ast.walk(body))
    adds = [
        n.func.value
        for n in nodes
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in ADDS
    ]
    return {p for t in (*(n.target for n in nodes if isinstance(n, ast.AugAssign)), *adds) for p in paths_of(t)}


def _flags(branch: ast.If) -> Iterator[str]:
    """Yield the names that a branch gives a value as it is written: whether it was gone through."""
    for node in ast.walk(branch):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield from (path for target in node.targets for path in paths_of(target))


def assigned(loop: ast.stmt, *more: type[ast.AST]) -> set[str]:
    """Return the names that a loop gives values of their own, by whatever it has before; `more`: by such statements too."""
    kinds = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.For, *more)
    targets = [t for n in ast.walk(loop) if isinstance(n, kinds) for t in getattr(n, "targets", None) or [n.target]]  # type: ignore[attr-defined]
    return {path for target in targets for path in paths_of(target)}


def goes_into(call: ast.Call, loop: ast.stmt) -> set[str]:
    """Return the names that a pass depends on: by what is assigned in the loop, backwards from the call."""
    wanted = set(_read(call))
    given = [n for n in ast.walk(loop) if isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign) and n.value]
    for _ in range(len(given)):
        before = len(wanted)
        for node in given:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if node.value is not None and any(p in wanted for t in targets for p in paths_of(t)):
                wanted.update(_read(node.value))
        if len(wanted) == before:
            break
    return wanted


def _read(node: ast.AST) -> Iterator[str]:
    return (path for n in ast.walk(node) if isinstance(n, ast.expr) and (path := path_of(n)))


def _is_alike(value: ast.expr, local: set[str]) -> bool:
    """Whether an expression is the same in all sub-tasks of a step, as far as can be read: a rate computed from the step's number."""
    for node in ast.walk(value):
        if isinstance(node, ast.Name | ast.Attribute) and path_of(node) in local:
            return False
        if isinstance(node, ast.Call):
            root = path_of(node.func).partition(".")[0]
            # without arguments it may return anything, and these may draw random numbers
            if not (node.args or node.keywords) or root in ("", "torch", "np", "numpy", "random"):
                return False
    return True


def targets_of(target: ast.expr) -> Iterator[ast.expr]:
    """Yield what is assigned to, one by one, as it is written."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from targets_of(part)
    else:
        yield target


def paths_of(target: ast.expr) -> Iterator[str]:
    """Yield what is assigned to by name; a container where the key is not known."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from paths_of(part)
    elif path := path_of(target):
        yield path
    elif isinstance(target, ast.Starred | ast.Subscript):
        yield from paths_of(target.value)
