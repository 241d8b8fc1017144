"""The secrets that this trainer's process has been given: in its environment for the user's code, and taken out of all else.

They are put into the environment here, in the process that uses them, and not where it is started: what starts it shows the environment
that it gives (Ray's listings, /proc). What is printed by Python code goes through a masking writer from then on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from surefoot_actors.masking import MaskedStream, Masking

__all__ = ["MaskedWriter", "disclose", "holds_secret", "is_disclosed", "masking"]

_masking = Masking(())
_raw: tuple[bytes, ...] = ()
_disclosed = False


def disclose(secrets: Mapping[str, str], *, masked: bool = False) -> None:
    """Give this process its secrets, by environment variable; before any code of the user's. Doubled calls do nothing.

    `masked`: what is printed is masked elsewhere, line by line, so that no line waits here for the next.
    """
    global _masking, _raw, _disclosed
    if _disclosed:
        return
    _masking, _raw = Masking(secrets.values()), tuple(value.encode() for value in secrets.values())
    if not masked:
        sys.stdout, sys.stderr = (MaskedWriter(stream, _masking) for stream in (sys.stdout, sys.stderr))
    os.environ.update(secrets)
    _disclosed = True


def is_disclosed() -> bool:
    """Whether the process has been given what it is to have."""
    return _disclosed


def masking() -> Masking:
    """What takes this process's secrets out of text; it changes nothing where there are none."""
    return _masking


def holds_secret(data: bytes) -> bool:
    """Whether a secret is part of what is about to be stored: pickles and JSON hold text as it is."""
    return any(value in data for value in _raw)


class MaskedWriter:
    """A text stream that has secrets taken out of what is written to it. Used from any thread."""

    def __init__(self, stream: TextIO, masking: Masking) -> None:
        self._stream, self._masked, self._lock = stream, MaskedStream(masking), threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            self._stream.write(self._masked.feed(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what has waited for more, too."""
        with self._lock:
            self._stream.write(self._masked.flush())
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
