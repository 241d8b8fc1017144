"""Whether a package holds the function that an entrypoint names: read from its source, never imported."""

from __future__ import annotations

import ast
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from surefoot.errors import EntrypointError
from surefoot.spec import named_file, refused_module

__all__ = ["check_entrypoint"]

# a source file above it is not parsed: parsing takes a hundred times its size
_MAX_SOURCE_BYTES = 2 * 1024 * 1024


def check_entrypoint(package: Path, entrypoint: str, *, may_be_installed: bool) -> None:
    """Raise EntrypointError unless "module:function", or "folder/script.py:function", can be there.

    `may_be_installed`: the job has pip requirements, so a module that is not in the package may come from them.
    """
    module, function = entrypoint.split(":")
    if named_file(entrypoint) is None and (refused := refused_module(module)):
        raise EntrypointError(f"{entrypoint} cannot be imported: {refused}")
    with zipfile.ZipFile(package) as archive:
        member = _member(archive, module)
        if member is None:
            if may_be_installed and named_file(entrypoint) is None:
                return
            what = "module" if named_file(entrypoint) is None else "file"
            raise EntrypointError(f"{what} {module!r} is not in the package; {_modules(archive)}")
        if member.file_size > _MAX_SOURCE_BYTES:
            raise EntrypointError(f"{member.filename} is too long to be read: {member.file_size} bytes")
        tree = _parse(archive.read(member), member.filename)
    _check_function(tree, member.filename, function)


def _member(archive: zipfile.ZipFile, module: str) -> zipfile.ZipInfo | None:
    names = archive.NameToInfo
    if module.endswith(".py"):
        return names.get(module)
    path = module.replace(".", "/")
    return names.get(f"{path}.py") or names.get(f"{path}/__init__.py")


def _modules(archive: zipfile.ZipFile) -> str:
    found = sorted(n[:-3].replace("/", ".") for n in archive.namelist() if n.endswith(".py") and n.count("/") <= 1)[:20]
    return f"it has {', '.join(found)}" if found else "it has no Python files"


def _parse(source: bytes, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, not ours
            return ast.parse(source, filename=name)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise EntrypointError(f"{name}{line} is not Python: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise EntrypointError(f"{name} is nested too deeply to be read") from error


def _check_function(tree: ast.Module, name: str, function: str) -> None:
    bound: dict[str, ast.stmt] = {n: s for s in _top_level(tree.body) for n in _bound_by(s)}
    found = bound.get(function)
    if isinstance(found, ast.AsyncFunctionDef):
        raise EntrypointError(f"{function!r} in {name} is an async function; a train function is a plain one")
    if isinstance(found, ast.FunctionDef) and not found.decorator_list and _yields(found):
        raise EntrypointError(
            f"{function!r} in {name} has a yield, so a call of it runs nothing; a train function is a plain one"
        )
    if isinstance(found, ast.ClassDef):
        raise EntrypointError(f"{function!r} in {name} is a class; an entrypoint is a function")
    if found is None and "*" not in bound:
        functions = sorted(n for n, s in bound.items() if isinstance(s, ast.FunctionDef))
        there = f"there are {', '.join(functions)}" if functions else "there are no functions"
        raise EntrypointError(f"{name} has no function {function!r}; {there}")


def _yields(node: ast.AST) -> bool:
    """Whether a function is a generator: functions inside it are their own."""
    return any(
        isinstance(child, ast.Yield | ast.YieldFrom) or _yields(child)
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef)
    )


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import, those under a top-level if, try or with as well."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from _top_level(handler.body)


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (a.asname or a.name.split(".")[0] for a in names)
        case _:
            return
