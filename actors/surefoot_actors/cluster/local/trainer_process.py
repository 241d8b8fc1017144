"""A trainer process of LocalCluster, from its birth by fork: serves one TrainerService over a socket."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from surefoot_actors.cluster.notice import on_sigterm
from surefoot_actors.cluster.ports import TrainerService, TrainerSetup
from surefoot_actors.liveness.watchdog_process import Watchdog
from surefoot_actors.logs.capture import Capture
from surefoot_actors.sealed import Sealed
from surefoot_actors.user_code import places

__all__ = ["LENGTH", "Birth", "Call", "Reply", "serve"]

# A frame is its length and a pickle. Both ends are processes of ours, on a socket that nobody else can reach.
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """The first frame: what this process is to be."""

    setup: TrainerSetup
    # of liveness: see `TrainerSetup.liveness_secret`
    secret: str
    # "module:Class" of the service, constructed with the setup
    service: str
    # where user code is found: put before sys.path by whoever loads it, so that nothing else is taken from there
    path: tuple[str, ...]
    # file for standard output and error; "": inherited
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    n: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    # of the call that it answers; 0 answers the birth
    n: int
    value: Any = None
    # traceback of what the call raised; "": it returned
    raised: str = ""


class _Wire:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self._lock = threading.Lock()

    def receive(self) -> Any:
        """The next frame, or None at the end."""
        head = self._file.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        body = self._file.read(LENGTH.unpack(head)[0])
        return pickle.loads(body)  # noqa: S301 (from the process that forked us, over its own socket pair)

    def send(self, reply: Reply) -> None:
        body = pickle.dumps(reply, protocol=5)
        with self._lock:
            self._sock.sendall(LENGTH.pack(len(body)) + body)


class _Trainer:
    """The service, as calls reach it: one thread for `collect`, which waits, and one for all else."""

    def __init__(
        self, wire: _Wire, service: TrainerService, watchdog: Watchdog | None, capture: Capture | None
    ) -> None:
        self._wire, self._service = wire, service
        self._beside = [beside for beside in (watchdog, capture) if beside is not None]
        self._collects = ThreadPoolExecutor(1, "collect")
        self._controls = ThreadPoolExecutor(1, "control")

    def run(self) -> None:
        """Serve until the cluster hangs up."""
        while (call := self._wire.receive()) is not None:
            pool = self._collects if call.method == "collect" else self._controls
            pool.submit(self._answer, call)

    def _answer(self, call: Call) -> None:
        target = self._tell_liveness if call.method == "liveness" else getattr(self._service, call.method)
        try:
            reply = Reply(n=call.n, value=target(*call.arguments))
        except Exception:  # noqa: BLE001 (the boundary of the process: the caller takes it for the trainer's loss)
            reply = Reply(n=call.n, raised=traceback.format_exc())
        self._wire.send(reply)

    def _tell_liveness(self, address: tuple[str, int], secret: str) -> None:
        for beside in self._beside:
            beside.tell(address, secret)


def serve(sock: socket.socket) -> None:
    """Be the trainer that the first frame describes, until the cluster hangs up."""
    wire = _Wire(sock)
    birth = wire.receive()
    if birth is None:
        return
    if birth.log:
        _log_to(birth.log)
    sys.path += birth.path
    places.set_folders(birth.path)
    try:
        trainer = _Trainer(wire, *_make(birth))
    except Exception:  # noqa: BLE001 (the boundary of the process: told to the caller, who ends it)
        wire.send(Reply(n=0, raised=traceback.format_exc()))
        return
    wire.send(Reply(n=0))
    trainer.run()


def _make(birth: Birth) -> tuple[TrainerService, Watchdog | None, Capture | None]:
    capture = Capture(birth.setup, Sealed(birth.secret)) if birth.setup.logs else None
    if capture is not None:
        capture.start()
    watchdog = Watchdog(birth.setup, Sealed(birth.secret)) if birth.setup.liveness[1] else None
    if watchdog is not None:
        watchdog.start()
    module, _, name = birth.service.partition(":")
    service: TrainerService = getattr(importlib.import_module(module), name)(birth.setup)
    on_sigterm(service.notice)
    return service, watchdog, capture


def _log_to(path: str) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)
