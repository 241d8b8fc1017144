"""What trainers tell of the job's data, before their steps: for people, and so that what copies is not taken for what hangs."""

from __future__ import annotations

from collections.abc import Callable

from surefoot.events import EventKind
from surefoot_actors.protocol.messages import DataTold

__all__ = ["DataNews"]


class DataNews:
    """Of all trainers of an attempt."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        #: counts what goes on: while one trainer copies, others of its node wait for it
        self.count = 0
        #: those that copy at present
        self.copying: set[str] = set()

    def hear(self, told: DataTold) -> None:
        """Tell it, if it is for people."""
        if told.what == "warning":
            self._tell(EventKind.WARNING, message=f"trainer {told.trainer}: {told.message}")
            return
        self.count += 1
        if told.what == "copying":
            self.copying.add(told.trainer)
            self._tell_copy(told, copied=False)
        elif told.what == "copied":
            self.copying.discard(told.trainer)
            self._tell_copy(told, copied=True, seconds=round(told.seconds, 3), digest=told.digest)

    def _tell_copy(self, told: DataTold, **more: object) -> None:
        about = {
            "trainer": told.trainer,
            "node": told.node,
            "name": told.name,
            "bytes": told.bytes,
            "files": told.files,
        }
        self._tell(EventKind.DATA, **about, **more)
