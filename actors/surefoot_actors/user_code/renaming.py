"""The user's import statements, rewritten to say which module they mean: `import queue` becomes
`import surefoot_actors.user_code.users.queue as queue`.

Said in the code itself, it holds for whoever reads the code as well, as torch.compile does.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

__all__ = ["renamed"]


def renamed(tree: ast.Module, names: Collection[str], package: str) -> ast.Module:
    """Have absolute imports of the top-level modules `names` mean those in `package`; every name that is bound stays bound to the same."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            node.names = [new for alias in node.names for new in _aliases(alias, names, package)]
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_of(node.module, names):
            node.module = f"{package}.{node.module}"
    return tree


def _is_of(module: str | None, names: Collection[str]) -> bool:
    return (module or "").partition(".")[0] in names


def _aliases(alias: ast.alias, names: Collection[str], package: str) -> Iterator[ast.alias]:
    if not _is_of(alias.name, names):
        yield alias
        return
    top, dot, _ = alias.name.partition(".")
    if alias.asname or dot:
        yield ast.copy_location(ast.alias(f"{package}.{alias.name}", alias.asname or top), alias)
    if not alias.asname:  # `import a.b` binds a, once b is imported
        yield ast.copy_location(ast.alias(f"{package}.{top}", top), alias)
