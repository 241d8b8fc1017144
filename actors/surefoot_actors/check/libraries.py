"""Which slow libraries the user's modules import, so that a process imports them once and then forks.

Only those that are known to start no threads as they are imported, since a fork would leave those behind. What they are asked for by name
counts too: transformers and others import next to nothing before that, and seconds of it then.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from surefoot.parsing import parsed
from surefoot.spec import named_file

__all__ = ["import_all", "libraries"]

_KNOWN = frozenset(
    {"PIL", "accelerate", "datasets", "lightning", "pandas", "peft", "pytorch_lightning", "scipy", "sklearn", "tokenizers", "torchvision",
     "transformers"}
)  # fmt: skip
# ours, which import what they are for
_ADAPTERS = "surefoot.integrations"


def libraries(folder: Path, entrypoint: str) -> list[str]:
    """Return what the entrypoint's module, its fellows in the folder included, imports of known libraries at its top.

    "scipy.linalg" is a module; "transformers:Trainer" is what is taken from one.
    """
    found: dict[str, None] = {}
    script = named_file(entrypoint)
    waiting, seen = [entrypoint.partition(":")[0]] if script is None else _imports(folder / script), set[str]()
    while waiting:
        asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        name = asked.partition(":")[0]
        if name == _ADAPTERS or (_package(name) in _KNOWN and not _is_users(folder, _package(name))):
            found[asked] = None
        else:
            waiting += _imports(folder.joinpath(*name.split(".")).with_suffix(".py"))
    return list(found)


def _package(name: str) -> str:
    return name.partition(".")[0]


def _is_users(folder: Path, name: str) -> bool:
    return (folder / name).exists() or (folder / f"{name}.py").exists()


def _imports(file: Path) -> list[str]:
    try:
        tree = parsed(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}:{alias.name}" for alias in node.names if alias.name != "*")]
    return names


def import_all(names: Iterable[str]) -> list[str]:
    """Import what can be imported; return the modules. What fails will fail again, and be told, in the user's own import."""
    done: dict[str, None] = {}
    for name in names:
        try:
            done[_imported(*name.split(":"))] = None
        except Exception:  # noqa: BLE001  a library may raise anything; see above
            continue
    return list(done)


def _imported(module: str, name: str = "") -> str:
    """Import a module, or have it give what it has by that name; return the module that this was in."""
    found = importlib.import_module(module)
    if not name:
        return module
    try:
        where = getattr(getattr(found, name), "__module__", module)
    except AttributeError:
        where = importlib.import_module(f"{module}.{name}").__name__
    return where if where in sys.modules else module
