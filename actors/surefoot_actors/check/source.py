"""Finds in the user's source the lines that a cause points at: what is carried from turn to turn, what iterates over a set."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surefoot.parsing import parsed

__all__ = ["carrying_line", "set_lines"]

_MUTATORS = frozenset(
    {"append", "appendleft", "add", "extend", "insert", "update", "pop", "popleft", "remove", "clear"}
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ITERATES = frozenset({"list", "tuple", "enumerate", "iter", "map", "filter", "zip", "sum", "next", "reversed"})


def carrying_line(file: str, name: str, certain: bool, begins: int = 0) -> int | None:
    """Return the first line that makes `name` ("n", "self.calls", "stats['n']") from what it was; None where none does.

    `certain`: it is known to be carried on, so any line that uses its innermost name will do where no other is found.
    `begins`: the function that begins there is searched first.
    """
    tree = _parsed(file)
    if tree is None:
        return None
    functions = [n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS) and begins in (n.lineno, _first_line(n))]
    found = (_carrying_line(scope, _innermost(name), certain) for scope in (*functions, tree))
    return next((line for line in found if line is not None), None)


def _carrying_line(scope: ast.AST, key: str, certain: bool) -> int | None:
    found = sorted(_line(node) for node in ast.walk(scope) if _carries(node, key, certain))
    if found:
        return found[0]
    uses = sorted(n.lineno for n in ast.walk(scope) if isinstance(n, ast.Name | ast.Attribute) and _named(n, key))
    return uses[-1] if certain and uses else None


def _first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min((d.lineno for d in function.decorator_list), default=function.lineno)


def _innermost(name: str) -> str:
    return name.partition("[")[0].rpartition(".")[2]


def _carries(node: Any, key: str, certain: bool) -> bool:
    match node:
        case ast.AugAssign(target=target):
            return _named(target, key)
        case ast.Assign(targets=targets, value=value):
            return any(_named(t, key) for t in targets) and any(_named(n, key) for n in ast.walk(value))
        case ast.NamedExpr(target=target, value=value):
            return _named(target, key) and any(_named(n, key) for n in ast.walk(value))
        case ast.Call(func=ast.Attribute(value=owner, attr=attribute)):
            return _named(owner, key) and (certain or attribute in _MUTATORS or attribute.endswith("_"))
        case ast.Call(func=ast.Name(id="next"), args=[first, *_]):
            return _named(first, key)
        case ast.keyword(arg="generator", value=value):
            return _named(value, key)
    return False


def _line(node: Any) -> int:
    return int(node.lineno)


def _named(node: ast.AST, key: str) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == key
        case ast.Subscript(value=value):
            return _named(value, key)
    return False


def set_lines(file: str) -> list[int]:
    """Return the lines that depend on the order of a set, or on hash()."""
    tree = _parsed(file)
    if tree is None:
        return []
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_set(node.value, frozenset())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return sorted({line for node in ast.walk(tree) for line in _ordered_by_hash(node, frozenset(names))})


def _ordered_by_hash(node: ast.AST, sets: frozenset[str]) -> Iterator[int]:
    match node:
        case ast.For(iter=over) | ast.comprehension(iter=over) if _is_set(over, sets):
            yield over.lineno
        case ast.Call(func=ast.Name(id=name), args=[*args]) if name in _ITERATES and any(
            _is_set(a, sets) for a in args
        ):
            yield node.lineno
        case ast.Call(func=ast.Attribute(value=owner, attr="pop"), args=[]) if _is_set(owner, sets):
            yield node.lineno
        case ast.Call(func=ast.Attribute(attr="join"), args=[over]) if _is_set(over, sets):
            yield node.lineno
        case ast.Starred(value=over) if _is_set(over, sets):
            yield node.lineno
        case ast.Call(func=ast.Name(id="hash")):
            yield node.lineno


def _is_set(node: ast.AST, sets: frozenset[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Name(id=name):
            return name in sets
        case ast.Call(func=ast.Name(id="enumerate" | "list" | "tuple" | "zip"), args=[*args]):
            return any(_is_set(a, sets) for a in args)
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
            return _is_set(left, sets) or _is_set(right, sets)
    return False


def _parsed(file: str) -> ast.Module | None:
    try:
        return parsed(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
