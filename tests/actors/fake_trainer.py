"""Services that stand in for TrainerProcess in the tests of clusters, named as "module:Class"."""

from __future__ import annotations

import os
import signal
import threading
import time

from surefoot.events import LedgerRow
from surefoot_actors.cluster.environment import node_kind
from surefoot_actors.cluster.ports import Inbox, TrainerSetup, Where
from surefoot_actors.protocol.messages import (
    End,
    EndGeneration,
    FromTrainer,
    Hello,
    RequestBoundary,
    Snapshot,
    ToTrainer,
)

__all__ = ["FailsToStart", "Fake", "SlowToStart"]


class Fake:
    """Says hello; answers each EndGeneration with another; exits by End; raises at RequestBoundary; dies of a bus error at Snapshot."""

    def __init__(self, setup: TrainerSetup) -> None:
        self._setup = setup
        self._changed = threading.Condition()
        self._messages: list[tuple[int, FromTrainer]] = []
        self._busy = False
        self._n = 0

    def start(self) -> None:
        self._say("started")

    def deliver(self, message: ToTrainer) -> None:
        match message:
            case End():
                os._exit(7)
            case RequestBoundary():
                raise RuntimeError("a broken service")
            case Snapshot():
                signal.raise_signal(signal.SIGBUS)
            case EndGeneration(number=number):
                self._say(f"over {number}")
            case _:
                raise AssertionError(message)

    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        assert not self._busy, "two collects at a time"
        self._busy = True
        try:
            with self._changed:
                self._messages = [m for m in self._messages if m[0] > after]
                self._changed.wait_for(lambda: bool(self._messages), wait_s)
                rows: tuple[LedgerRow, ...] = ()
                return Inbox(messages=tuple(self._messages), rows=rows)
        finally:
            self._busy = False

    def where(self) -> Where:
        return Where(step=3, line="train.py:12")

    def notice(self, reason: str) -> None:
        self._say(reason)

    def _say(self, node: str) -> None:
        facts = tuple((name, os.environ.get(name, "")) for name in ("MARK", "OMP_NUM_THREADS", "PYTHONHASHSEED"))
        with self._changed:
            self._n += 1
            hello = Hello(
                trainer=self._setup.trainer,
                store=("", 0),
                fingerprint=facts,
                pid=os.getpid(),
                node=node,
                num_steps=1,
                node_kind=node_kind(os.environ),
            )
            self._messages.append((self._n, hello))
            self._changed.notify_all()


class FailsToStart:
    def __init__(self, setup: TrainerSetup) -> None:
        raise ValueError("no such device")


class SlowToStart(Fake):
    """Takes a minute to start, unless killed."""

    def __init__(self, setup: TrainerSetup, seconds: float = 60.0) -> None:
        with open(setup.spec.env["STARTING"], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(seconds)
        super().__init__(setup)
