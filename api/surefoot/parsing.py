"""Reading Python source into a syntax tree, whatever else the process does meanwhile."""

from __future__ import annotations

import ast
import contextlib

__all__ = ["parsed"]

# So often a source is parsed anew where something else in the process has parsed in between.
_PARSES = 5


def parsed(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """Parse a source as `ast.parse` does, and raise what it raises.

    Python 3.11 counts for all threads together how deep a tree is. Where a finalizer that the garbage collector calls within a parse
    parses too, as that of an asyncio task whose exception nobody has asked for does when it is logged, or another thread that then has
    its turn, the outer parse raises SystemError, although the source is well.
    """
    for _ in range(_PARSES):
        with contextlib.suppress(SystemError):
            return ast.parse(source, filename)
    return ast.parse(source, filename)
