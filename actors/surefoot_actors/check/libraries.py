"""Which slow libraries the user's modules import, so that a process imports them once and then forks.

Only those that are known to start no threads as they are imported, since a fork would leave those behind.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable
from pathlib import Path

from surefoot.spec import named_file

__all__ = ["import_all", "libraries"]

_KNOWN = frozenset({"PIL", "datasets", "pandas", "scipy", "sklearn", "tokenizers", "torchvision", "transformers"})


def libraries(folder: Path, entrypoint: str) -> list[str]:
    """Return the modules of known libraries that the entrypoint's module imports at its top, its fellows in the folder included."""
    found: dict[str, None] = {}
    script = named_file(entrypoint)
    waiting, seen = [entrypoint.partition(":")[0]] if script is None else _imports(folder / script), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.partition(".")[0] in _KNOWN and not _is_users(folder, name.partition(".")[0]):
            found[name] = None
        else:
            waiting += _imports(folder.joinpath(*name.split(".")).with_suffix(".py"))
    return list(found)


def _is_users(folder: Path, name: str) -> bool:
    return (folder / name).exists() or (folder / f"{name}.py").exists()


def _imports(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def import_all(names: Iterable[str]) -> list[str]:
    """Import what can be imported; return those names. What fails will fail again, and be told, in the user's own import."""
    done = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  a library may raise anything; see above
            continue
        done.append(name)
    return done
