"""Which names of the config training code reads, by its source alone: nothing of it is run. Pure, but for the files that it opens."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from surefoot.parsing import parsed

__all__ = ["ConfigReads", "reads_of"]

_MOST_FILES, _MOST_BYTES = 200, 2_000_000
# what of a mapping tells no name
_WHOLE = frozenset({"items", "keys", "values", "copy", "update", "pop", "setdefault"})


@dataclass(slots=True)
class ConfigReads:
    """What was found. `whole`: the config is also handed on, or read by names that are made as it runs: any name may be read."""

    names: set[str] = field(default_factory=set)
    whole: bool = False


def reads_of(file: Path, folder: Path) -> ConfigReads:
    """Read the entrypoint's file, and what it imports of the folder."""
    found, waiting, seen = ConfigReads(), [file], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            tree = parsed(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else None
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            tree = None
        if tree is None or len(seen) > _MOST_FILES:
            found.whole = True  # nobody knows what it reads
            continue
        _read(tree, found)
        waiting += [module for module in _imported(tree, path, folder) if module not in seen]
    return found


def _imported(tree: ast.AST, path: Path, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (p for alias in node.names for p in _files(folder, alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = folder if not node.level else path.parents[node.level - 1]
            names = [node.module or "", *(f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names)]
            yield from (p for name in names for p in _files(base, name))


def _files(base: Path, name: str) -> Iterator[Path]:
    parts = [part for part in name.split(".") if part]
    for n in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:n])
        yield from (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file())


def _read(tree: ast.AST, found: ConfigReads) -> None:
    """Note what is read of anything called `.config`, and of the variables that it is given to."""
    above = {id(below): node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)}
    aliases = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_config(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        is_alias = isinstance(node, ast.Name) and node.id in aliases and isinstance(node.ctx, ast.Load)
        if is_alias or (_is_config(node) and isinstance(getattr(node, "ctx", None), ast.Load)):
            _note(node, above, found)


def _is_config(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "config"


def _note(node: ast.AST, above: dict[int, ast.AST], found: ConfigReads) -> None:
    use = above.get(id(node))
    match use:
        case ast.Subscript(slice=ast.Constant(value=str(name))) if use.value is node:
            found.names.add(name)
        case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
            found.names.add(name)
        case ast.Attribute(attr="get"):
            _note_get(above.get(id(use)), found)
        case ast.Attribute(attr=name) if name not in _WHOLE:
            found.names.add(name)
        case ast.Assign(targets=[ast.Name()]):
            pass  # what is read of the variable is noted
        case _:
            found.whole = True


def _note_get(call: ast.AST | None, found: ConfigReads) -> None:
    match call:
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            found.names.add(name)
        case _:
            found.whole = True
