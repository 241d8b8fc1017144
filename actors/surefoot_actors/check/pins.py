"""Pins what makes one process unlike another (clocks, entropy, its identity), so that each can be varied alone.

In a probe every such source answers by a salt: the same salt, the same answers. Two probes that differ in one salt tell whether the
result depends on that source; the lines that asked are noted. Clocks and identity are pinned where user code asks itself, never for
libraries under it, whose waits would go wrong.
"""

from __future__ import annotations

import datetime as datetime_module
import hashlib
import os
import platform
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

__all__ = ["Factor", "Pins", "UserCode"]

_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
_IDENTITY = {
    os: ("getpid", "getppid"),
    threading: ("get_ident", "get_native_id"),
    socket: ("gethostname", "getfqdn"),
    platform: ("node",),
}
_EPOCH_S = 1_800_000_000.0
# Seconds between two readings, by salt: the second is long enough for "every minute" to come round.
_TICK_S = (0.001, 97.3)
_SHIFT_S = 40_000.0


class Factor(StrEnum):
    """What makes one process unlike another."""

    CLOCK = "clock"
    ENTROPY = "entropy"
    IDENTITY = "identity"


class UserCode:
    """Which files are the user's."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve()) + os.sep
        ours = (Path(str(sys.modules[name].__file__)).parent for name in ("surefoot", "surefoot_actors", "torch"))
        self._ours = tuple(f"{path}{os.sep}" for path in ours)

    def __contains__(self, file: str) -> bool:
        return file.startswith(self._folder) and not file.startswith(self._ours) and "-packages" + os.sep not in file

    def line(self, file: str, number: int) -> str:
        """Return "file.py:12", the file relative to the folder."""
        return f"{file.removeprefix(self._folder)}:{number}"

    def line_of(self, frame: FrameType) -> str:
        """Return the line that a frame is at."""
        return self.line(frame.f_code.co_filename, frame.f_lineno)


class Pins:
    """The pinned sources of this process. `calls` notes which user lines asked."""

    def __init__(self, salts: Mapping[Factor, int], code: UserCode) -> None:
        self._salts = {factor: salts.get(factor, 0) for factor in Factor}
        self._code = code
        self._readings = 0
        self._draws = 0
        self.calls: dict[Factor, dict[str, None]] = {factor: {} for factor in Factor}

    def install(self) -> None:
        """Pin everything, for as long as the process lives. Call it before user code is imported."""
        self._pin_clocks()
        self._pin_dates()
        self._pin_entropy()
        for module, names in _IDENTITY.items():
            for name in names:
                self._pin_identity(module, name)

    def _asked(self, factor: Factor, frame: FrameType) -> None:
        self.calls[factor][self._code.line_of(frame)] = None

    def _directly(self, factor: Factor) -> bool:
        """Whether user code itself calls the pinned function that calls this."""
        frame = sys._getframe(2)
        if frame.f_code.co_filename not in self._code:
            return False
        self._asked(factor, frame)
        return True

    # ---- clocks

    def _now(self) -> float:
        self._readings += 1
        salt = self._salts[Factor.CLOCK]
        return _EPOCH_S + salt * _SHIFT_S + self._readings * _TICK_S[salt]

    def _pin_clocks(self) -> None:
        for name in _CLOCKS:
            self._pin_clock(name, float)
            self._pin_clock(f"{name}_ns", lambda now: int(now * 1e9))
        for name in ("localtime", "gmtime", "ctime"):
            self._pin_calendar(name, 0)
        self._pin_calendar("strftime", 1)

    def _pin_clock(self, name: str, make: Callable[[float], Any]) -> None:
        real = getattr(time, name)

        def read() -> Any:
            return make(self._now()) if self._directly(Factor.CLOCK) else real()

        setattr(time, name, read)

    def _pin_calendar(self, name: str, time_argument: int) -> None:
        """The functions that take the present time where none is given, as argument number `time_argument`."""
        real, localtime = getattr(time, name), time.localtime

        def read(*args: Any) -> Any:
            if len(args) > time_argument or not self._directly(Factor.CLOCK):
                return real(*args)
            return real(*args, localtime(self._now()) if name == "strftime" else self._now())

        setattr(time, name, read)

    def _pin_dates(self) -> None:
        real, real_date, pins = datetime_module.datetime, datetime_module.date, self

        class Stamp(real, metaclass=_same_as(real)):  # type: ignore[misc, valid-type, metaclass]
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return real.fromtimestamp(pins._now(), tz) if pins._directly(Factor.CLOCK) else real.now(tz)

            @classmethod
            def utcnow(cls) -> Any:
                here = pins._directly(Factor.CLOCK)
                return real.fromtimestamp(pins._now() if here else time.time(), datetime_module.UTC).replace(
                    tzinfo=None
                )

            @classmethod
            def today(cls) -> Any:
                return real.fromtimestamp(pins._now()) if pins._directly(Factor.CLOCK) else real.today()

            @classmethod
            def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
                return handler(real)

        class Day(real_date, metaclass=_same_as(real_date)):  # type: ignore[misc, valid-type, metaclass]
            @classmethod
            def today(cls) -> Any:
                return real_date.fromtimestamp(pins._now()) if pins._directly(Factor.CLOCK) else real_date.today()

            @classmethod
            def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
                return handler(real_date)

        datetime_module.datetime, datetime_module.date = Stamp, Day  # type: ignore[misc]

    # ---- entropy

    def _pin_entropy(self) -> None:
        """Everything unseeded: os.urandom and what draws from it (secrets, SystemRandom, uuid4, numpy), Random(), torch.seed."""
        for module, name in ((os, "urandom"), (random, "_urandom"), (os, "getrandom")):
            self._pin_bytes(module, name)
        seed = random.Random.seed

        def seed_random(generator: random.Random, a: Any = None, version: int = 2) -> None:
            self._note_entropy(a is None)
            seed(generator, self._entropy(16) if a is None else a, version)

        random.Random.seed = seed_random  # type: ignore[method-assign, assignment]
        random.seed = random._inst.seed
        # what the user's modules draw as they are imported: no run has seeded anything yet
        random.seed(self._entropy(16))
        np.random.seed(int.from_bytes(self._entropy(4), "little"))
        self._pin_torch()

    def _pin_torch(self) -> None:
        pins = self

        class Generator(torch.Generator):
            def seed(self) -> int:
                pins._note_entropy(True)
                number = int.from_bytes(pins._entropy(8), "little") >> 1
                self.manual_seed(number)
                return number

        def seed() -> int:
            self._note_entropy(True)
            number = int.from_bytes(self._entropy(8), "little") >> 1
            torch.manual_seed(number)
            return number

        torch.Generator = Generator  # type: ignore[misc]
        torch.seed = torch.random.seed = seed

    def _pin_bytes(self, module: Any, name: str) -> None:
        real = getattr(module, name, None)
        if real is None:
            return

        def draw(size: int, *flags: Any) -> Any:
            return self._entropy(size) if self._note_entropy(True) else real(size, *flags)

        setattr(module, name, draw)

    def _note_entropy(self, drawn: bool) -> bool:
        """Note the user's line above, if user code draws; imports of libraries draw for themselves."""
        frame: FrameType | None = sys._getframe(2) if drawn else None
        while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
            if frame.f_code.co_filename in self._code:
                self._asked(Factor.ENTROPY, frame)
                return True
            frame = frame.f_back
        return False

    def _entropy(self, size: int) -> bytes:
        self._draws += 1
        return hashlib.shake_128(f"{self._salts[Factor.ENTROPY]} {self._draws}".encode()).digest(size)

    # ---- identity

    def _pin_identity(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        def read(*args: Any) -> Any:
            if not self._directly(Factor.IDENTITY):
                return real(*args)
            number = 4001 + 1013 * self._salts[Factor.IDENTITY]
            return f"node-{number}" if isinstance(real(*args), str) else number

        setattr(module, name, read)


def _same_as(real: type) -> type:
    """A metaclass whose classes stand in for `real`: its instances are theirs."""

    class Meta(type):
        def __instancecheck__(cls, thing: object) -> bool:
            return isinstance(thing, real)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, real)

    return Meta
