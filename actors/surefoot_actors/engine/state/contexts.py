"""Context variables: each thread has values of its own, and only the thread that trains can give them new ones."""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any

__all__ = ["InContext", "TrainingContext"]


class TrainingContext:
    """The values as the thread that trains had them when it last came by."""

    def __init__(self) -> None:
        self.now: Context = copy_context()
        #: what is to be set as soon as that thread comes by
        self.pending: dict[ContextVar[Any], Any] = {}

    def refresh(self) -> None:
        """The thread that trains comes by."""
        for variable, value in self.pending.items():
            variable.set(value)
        self.pending = {}
        self.now = copy_context()


class InContext:
    """What a context variable holds in the thread that trains; `variable` has a name of its own."""

    def __init__(self, variable: ContextVar[Any], context: TrainingContext) -> None:
        self.variable, self._context = variable, context

    def read(self) -> dict[str, Any]:
        """Return {"value": the value}; nothing where it was never set."""
        for values in (self._context.pending, self._context.now):
            if self.variable in values:
                return {"value": values[self.variable]}
        return {}

    def write(self, _name: str, value: Any) -> None:
        self._context.pending[self.variable] = value
