"""Which function a job runs, and the folder it is importable from: found without importing anything.

A job's code is imported on the trainers, where the package's root is on the path; here it is only looked at.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from surefoot._paths import folder_at
from surefoot.errors import EntrypointError
from surefoot.parsing import parsed
from surefoot.spec import ENTRYPOINT, named_file, refused_module

__all__ = ["Entrypoint", "locate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    """A function in a file that is there."""

    # "package.module:function", importable from `folder`, or "folder/script.py:function" in it
    name: str
    # absolute
    folder: Path
    # absolute, below `folder`
    file: Path


def locate(train: str | Callable[..., Any], folder: str | os.PathLike[str] | None = None) -> Entrypoint:
    """Find the entrypoint that `train` means: "module:function" in `folder` (default: the current one), or a function.

    "folder/script.py:function" names a script, which imports what lies beside it. A function's folder is the one its module is
    importable from. Raises EntrypointError saying what is missing.
    """
    if isinstance(train, str):
        return _check(train, Path(folder or "."))
    name, home = _of_function(train)
    if folder is None:
        return _check(name, home)
    root, function = folder_at(folder, EntrypointError), name.partition(":")[2]
    file = Path(sys.modules[train.__module__].__file__ or "").resolve()
    if home != root and file.is_relative_to(root) and train.__module__ == "__main__":
        return _check(f"{file.relative_to(root).as_posix()}:{function}", root)
    return _check(name, root)


# ---- functions


def _of_function(train: Callable[..., Any]) -> tuple[str, Path]:
    qualname = getattr(train, "__qualname__", None)
    module = sys.modules.get(getattr(train, "__module__", None) or "")
    if not isinstance(qualname, str) or module is None or not callable(train):
        raise EntrypointError(f"{train!r} is no function of a module: give a top-level function, or 'module:function'")
    if "<" in qualname or "." in qualname:
        raise EntrypointError(
            f"{qualname!r} is defined inside something else, so trainers cannot import it: move it to the top level of its file"
        )
    name = _import_name(module)
    file = Path(module.__file__ or "").resolve()
    # The root is as many folders up as the dotted name is long; a package's own file is its __init__.
    depth = 0 if name.endswith(".py") else name.count(".") + (1 if file.stem == "__init__" else 0)
    return f"{name}:{qualname}", file.parents[depth]


def _import_name(module: ModuleType) -> str:
    if not getattr(module, "__file__", None):
        raise EntrypointError(
            f"the module {module.__name__!r} is no file (a notebook or an interactive session?): put the function into a .py file"
        )
    if module.__name__ != "__main__":
        return module.__name__
    # `python -m package.module` tells its real name; `python script.py` has none but the file's.
    spec = module.__spec__
    return spec.name if spec is not None else Path(module.__file__ or "").name


# ---- "module:function", "folder/script.py:function"


def _check(name: str, folder: Path) -> Entrypoint:
    name = name.removeprefix("./")
    if not ENTRYPOINT.match(name):
        raise EntrypointError(f'entrypoint {name!r} must look like "package.module:function"')
    folder = folder_at(folder, EntrypointError)
    where, function = name.split(":")
    script = named_file(name)
    file = _module_file(where, folder) if script is None else _script_file(script, folder)
    _check_function(function, file, folder)
    module = where if script is None else _importable(file, folder)
    if module is not None and (refused := refused_module(module)):
        raise EntrypointError(f"{module}:{function} cannot be imported: {refused}")
    return Entrypoint(name=f"{module or script}:{function}", folder=folder, file=file)


def _script_file(script: str, folder: Path) -> Path:
    file = folder / script
    if file.is_file():
        return file
    raise EntrypointError(f"there is no file {script} in {folder}")


def _importable(file: Path, folder: Path) -> str | None:
    """The module that a script is to Python without more: it lies in the folder itself, or says by its imports that it is a package's.

    None for any other: its own folder is where it imports from, as `python folder/script.py` has it.
    """
    parts = file.relative_to(folder).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        return None
    return ".".join(parts) if len(parts) == 1 or _imports_relatively(file) else None


def _imports_relatively(file: Path) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(_parsed(file, file.name)))


def _parsed(file: Path, shown: Path | str) -> ast.Module:
    try:
        return parsed(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise EntrypointError(f"{shown}{line} is no valid Python: {error}") from None
    except (RecursionError, MemoryError):
        raise EntrypointError(f"{shown} is nested too deeply to be read") from None


def _module_file(module: str, folder: Path) -> Path:
    stem = folder.joinpath(*module.split("."))
    candidates = [stem.with_name(stem.name + ".py"), stem / "__init__.py"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    near = get_close_matches(stem.name, [path.stem for path in sorted(stem.parent.glob("*.py"))], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else _where_it_is(module, folder)
    raise EntrypointError(
        f"there is no module {module!r} in {folder} ({candidates[0].relative_to(folder)} is missing){hint}"
    )


def _where_it_is(module: str, folder: Path) -> str:
    """Name the folder below that has the module, as `src` often has."""
    path = module.replace(".", "/")
    for place in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if (place / f"{path}.py").is_file():
            return f"; it is in {place.name}: give {place.name}/{path}.py, or {place} as the folder"
    return "; name the folder that the module is importable from"


def _check_function(function: str, file: Path, folder: Path) -> None:
    shown = file.relative_to(folder)
    tree = _parsed(file, shown)
    bound = dict(_bound(tree.body))
    found = bound.get(function)
    if found is None and "*" not in bound:
        names = [name for name, node in bound.items() if isinstance(node, ast.FunctionDef)]
        near = get_close_matches(function, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its functions: {', '.join(names) or 'none'}"
        raise EntrypointError(f"there is no function {function!r} at the top level of {shown}; {hint}")
    if isinstance(found, ast.AsyncFunctionDef):
        raise EntrypointError(f"{function!r} in {shown}:{found.lineno} is async: a train function is a plain function")
    if isinstance(found, ast.ClassDef):
        raise EntrypointError(
            f"{function!r} in {shown}:{found.lineno} is a class: a train function is a plain function"
        )
    if isinstance(found, ast.FunctionDef):
        _check_no_generator(found, shown)
        _check_parameters(found, shown)


def _check_no_generator(node: ast.FunctionDef, shown: Path) -> None:
    for inner in _own_nodes(node):
        if isinstance(inner, ast.Yield | ast.YieldFrom) and not node.decorator_list:
            raise EntrypointError(
                f"{node.name!r} in {shown}:{inner.lineno} has a yield, so a call of it runs nothing: a train function is a plain function"
            )


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what lies in a function, but not in functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own_nodes(child)


def _check_parameters(node: ast.FunctionDef, shown: Path) -> None:
    taken = len(node.args.posonlyargs) + len(node.args.args)
    needed = taken - len(node.args.defaults)
    undefaulted = [
        a.arg for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is None
    ]
    # A decorator may change the parameters.
    if node.decorator_list or (needed <= 1 and not undefaulted and (taken or node.args.vararg)):
        return
    raise EntrypointError(
        f"{node.name!r} in {shown}:{node.lineno} must take one argument, the run: def {node.name}(run: surefoot.Run)"
    )


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that a module's top level binds, each with its statement; "*" for a star import."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in names)
            case ast.Assign(targets=targets):
                yield from ((n.id, node) for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                handlers = node.handlers if isinstance(node, ast.Try) else []
                parts = [*ast.iter_child_nodes(node), *(stmt for handler in handlers for stmt in handler.body)]
                yield from _bound([part for part in parts if isinstance(part, ast.stmt)])
            case _:
                pass
