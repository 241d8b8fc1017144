"""A sub-task of another trainer, computed here to be compared: afterwards all is as if it had not been, and nothing was printed."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.objects import variables_in_sight

__all__ = ["ForAnother"]

_STREAMS = ("stdout", "stderr")


class ForAnother:
    """Begun before the sub-task's batch is handed out."""

    def __init__(self, attributes: Attributes) -> None:
        self._records = attributes.remember(variables_in_sight())
        # a process may have none
        self._held = {name: _Held(getattr(sys, name)) for name in _STREAMS if getattr(sys, name) is not None}
        for name, held in self._held.items():
            setattr(sys, name, held)
            _hand_over(held.file, held)

    def end(self) -> None:
        """The sub-task has ended: the other trainer prints what it has printed."""
        self._print_again()
        self._records.put_back()

    def abandon(self) -> None:
        """The user's code has left the loop, so that what it has printed may tell why."""
        for held in self._print_again():
            held.tell()

    def _print_again(self) -> list[_Held]:
        for name, held in self._held.items():
            held.holds = False
            if getattr(sys, name) is held:
                setattr(sys, name, held.file)
            _hand_over(held, held.file)
        return list(self._held.values())


def _hand_over(stream: Any, to: Any) -> None:
    """Have handlers of the logging module that write to a stream write to another one: each keeps that which was there when it was made."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for handler in {handler for logger in (logging.root, *loggers) for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            handler.setStream(to)


class _Held:
    """A text file; what one thread writes to it is held back. Who keeps it for good goes on to write to the file."""

    def __init__(self, file: Any) -> None:
        self.file, self.holds = file, True
        self._thread = threading.get_ident()
        self._texts: list[str] = []

    def write(self, text: str) -> int:
        if self.holds and threading.get_ident() == self._thread:
            self._texts.append(text)
            return len(text)
        return int(self.file.write(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def tell(self) -> None:
        """Write what was held back."""
        self.file.write("".join(self._texts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
