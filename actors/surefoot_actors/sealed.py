"""Secrets that no attribute of an actor holds.

Whoever may use a Ray cluster can have any actor look at itself (`__ray_call__`) and send back what it sees. What the actor has to know is
therefore no Python object that stays: its bytes are in a file of the kernel's memory, and are read when they are used. It cannot
be sent, printed or compared by mistake. Code that runs in the process can still read it; jobs on one Ray cluster trust each other.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["Sealed"]


class Sealed:
    """One secret."""

    __slots__ = ("_handle",)

    def __init__(self, secret: str) -> None:
        self._handle = os.memfd_create("surefoot-sealed", os.MFD_CLOEXEC)
        os.write(self._handle, secret.encode())

    def reveal(self) -> str:
        """Return the secret: to be used at once, and kept nowhere."""
        return os.pread(self._handle, os.fstat(self._handle).st_size, 0).decode()

    def __repr__(self) -> str:
        return "Sealed()"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a sealed secret is not sent: whoever is to have it is given it by itself")

    def __del__(self) -> None:
        # not made: its constructor failed
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._handle)
