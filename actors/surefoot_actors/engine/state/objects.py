"""The variables that the user's code has in sight when its loop begins."""

from __future__ import annotations

from collections.abc import Iterator

from surefoot_actors.engine.state.variables import Globals, Variables
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import is_library

__all__ = ["variables_in_sight"]


def variables_in_sight() -> Iterator[tuple[str, Variables | Globals]]:
    """Yield (name, variables) of the user's functions that are under way, and of their modules; the same names on every trainer."""
    seen: set[int] = set()
    # counted from the train function, so that those further in, such as a generator around run.steps(), have names of their own
    for depth, frame in enumerate(reversed(list(user_frames()))):
        if is_library(frame.f_code.co_filename):
            continue
        yield f"{depth}:{frame.f_code.co_qualname}", Variables(frame)
        if id(frame.f_globals) not in seen:
            seen.add(id(frame.f_globals))
            yield f"module {frame.f_globals.get('__name__')}", Globals(frame.f_globals)
