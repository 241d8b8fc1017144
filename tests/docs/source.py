"""What the documents speak of: the project's modules and what they define, read from the source, without importing anything."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NOT_OURS = {".git", ".venv", "site", "__pycache__", ".hypothesis"}
_SOURCES = {"surefoot": "api", "surefoot_actors": "actors", "surefoot_service": "service"}

# What stands between backquotes, but not in a block of code.
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(rf"^(?:{'|'.join(_SOURCES)})(?:\.\w+)+$")
_PATH = re.compile(r"^(?!/)[\w./-]*(?:\w\.(?:py|md|json|toml|yaml|yml)|\w/)$")


def documents() -> list[Path]:
    """Return the documents that are kept true: all but the changelog, which tells of the past."""
    top = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    return [*top, ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose(document: Path) -> str:
    return _BLOCK.sub("", document.read_text())


def quoted(document: Path) -> list[str]:
    return _QUOTED.findall(prose(document))


def names(document: Path) -> list[str]:
    """Return the dotted names of the project's own that a document speaks of."""
    return [text.removesuffix("()") for text in quoted(document) if _NAME.match(text.removesuffix("()"))]


def paths(document: Path) -> list[str]:
    """Return the files and folders of the project that a document speaks of."""
    return [text for text in quoted(document) if _PATH.match(text)]


def blocks(document: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


@cache
def files() -> frozenset[str]:
    """Return the project's files and folders; folders end with a slash."""
    found = set()
    for folder, below, here in os.walk(ROOT):
        below[:] = [name for name in below if name not in _NOT_OURS and not name.endswith("_cache")]
        place = Path(folder).relative_to(ROOT)
        found |= {f"{(place / name).as_posix()}/" for name in below} | {(place / name).as_posix() for name in here}
    return frozenset(found)


def is_path(text: str) -> bool:
    """Whether a file or folder is there by this path, or by one that ends with it."""
    return text in files() or any(file.endswith(f"/{text}") for file in files())


def is_name(dotted: str) -> bool:
    """Whether "package.module", "package.module.function" or "package.module.Class.method" is there."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if (tree := _module(".".join(parts[:length]))) is not None:
            return _has(tree, parts[length:])
    return False


@cache
def _module(name: str) -> ast.Module | None:
    place = ROOT / _SOURCES[name.split(".")[0]] / Path(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text())
    return None


def _has(scope: ast.AST, parts: list[str]) -> bool:
    if not parts:
        return True
    return any(_has(node, parts[1:]) for name, node in _defined(scope) if name == parts[0])


def _defined(scope: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in getattr(scope, "body", []):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.ImportFrom(names=imported) | ast.Import(names=imported):
                yield from ((alias.asname or alias.name, node) for alias in imported)
            case ast.Assign(targets=targets):
                yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If() | ast.Try():
                yield from _defined(node)
