"""A trainer as a Ray actor. Light to import: torch is imported by the service inside it alone."""

from __future__ import annotations

import importlib
import os
import threading
import time
from typing import TYPE_CHECKING

import ray
import ray.actor
import ray.exceptions
import ray.util

from surefoot_actors.cluster.environment import tell_node_kind, without_secrets
from surefoot_actors.cluster.notice import on_sigterm
from surefoot_actors.cluster.ports import Inbox, TrainerService, TrainerSetup, Where
from surefoot_actors.liveness.watchdog_process import Watchdog
from surefoot_actors.logs.capture import Capture
from surefoot_actors.protocol.messages import ToTrainer
from surefoot_actors.sealed import Sealed

if TYPE_CHECKING:
    pass

__all__ = ["DEFAULT_SERVICE", "TrainerActor"]

DEFAULT_SERVICE = "surefoot_actors.trainer.trainer:TrainerProcess"


# A trainer that no supervisor has asked for so long ends itself.
ORPHANED_S = 600.0


class TrainerActor:
    """A trainer process: serves its TrainerService by Ray calls. "control" is never behind a waiting "collect"."""

    def __init__(self, setup: TrainerSetup, service: str, liveness_secret: str) -> None:
        without_secrets(os.environ)
        os.environ["SUREFOOT_HOST"] = _node_address()
        tell_node_kind(os.environ, _node_labels())
        self._capture = Capture(setup, Sealed(liveness_secret)) if setup.logs else None
        if self._capture is not None:
            self._capture.start()
        self._watchdog = Watchdog(setup, Sealed(liveness_secret))
        self._watchdog.start()
        self._asked = time.monotonic()
        threading.Thread(target=self._end_when_orphaned, name="orphan-guard", daemon=True).start()
        module, _, name = service.partition(":")
        self._service: TrainerService = getattr(importlib.import_module(module), name)(setup)
        on_sigterm(self._service.notice)

    @ray.method(concurrency_group="control")
    def start(self) -> str:
        """Start the service; returns the node's id."""
        self._service.start()
        return _node_id()

    @ray.method(concurrency_group="control")
    def deliver(self, message: ToTrainer) -> None:
        self._service.deliver(message)

    @ray.method(concurrency_group="collect")
    def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        self._asked = time.monotonic()
        return self._service.collect(after, rows_below, wait_s)

    @ray.method(concurrency_group="control")
    def where(self) -> Where:
        return self._service.where()

    @ray.method(concurrency_group="control")
    def liveness(self, address: tuple[str, int], secret: str) -> str:
        """Beat to another server: a restarted supervisor's. Returns the node's id."""
        self._watchdog.tell(address, secret)
        if self._capture is not None:
            self._capture.tell(address, secret)
        return _node_id()

    def _end_when_orphaned(self) -> None:
        wait = threading.Event()
        while (left := self._asked + ORPHANED_S - time.monotonic()) > 0:
            wait.wait(left)
        os._exit(0)


def _node_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _node_id() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def _node_labels() -> dict[str, str]:
    # annotated in Ray as if its values were lists
    return {name: str(value) for name, value in ray.get_runtime_context().get_node_labels().items()}
