"""The loop over steps inside another `for` loop, which counts on its own: on a trainer that joins it would begin anew."""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from types import FrameType

from surefoot.errors import ContractError
from surefoot_actors.engine.contract.called import tree_of
from surefoot_actors.user_code import places
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import is_library

__all__ = ["check_not_nested"]

_ASKS = dis.opmap["FOR_ITER"]


def check_not_nested() -> None:
    """Raise ContractError where the steps, kept in a variable, are asked for in the midst of a `for` loop over something else."""
    frame = next((f for f in user_frames() if not is_library(f.f_code.co_filename)), None)
    if frame is None or (outer := _outer(frame)) is None:
        return
    path = places.shown(frame.f_code.co_filename)
    raise ContractError(
        f"{path}:{frame.f_lineno}: run.steps() is asked for its next step inside the loop over {ast.unparse(outer.iter)} at "
        f"{path}:{outer.lineno}, which counts on its own: a trainer that joins at step 100 would begin it anew. Write one loop, `for step "
        f"in run.steps(n):` or run.steps(epochs=n), and take what the outer one counts from step.epoch or step.number"
    )


def _outer(frame: FrameType) -> ast.For | None:
    """Return the loop over something else that the frame is in as it asks for a step."""
    tree = tree_of(frame.f_code)
    if tree is None:
        return None
    around = list(_around(tree, frame.f_lineno))
    if frame.f_code.co_code[frame.f_lasti] == _ASKS and around:
        # the loop that asks is the innermost; one that calls run.steps() itself would be refused the second time
        *around, own = around
        if _calls_steps(own.iter):
            return None
    return around[-1] if around else None


def _around(node: ast.AST, line: int) -> Iterator[ast.For]:
    """Yield the `for` loops that a line is in, outermost first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.For) and child.lineno <= line <= (child.end_lineno or 0):
            yield child
        yield from _around(child, line)


def _calls_steps(node: ast.expr) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "steps" for n in ast.walk(node)
    )
