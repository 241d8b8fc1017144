"""A trainer's part in what is done once a job or once a node: asks, waits, and does it if it is to."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import xxhash

from surefoot_actors.engine.ports import TrainerExit
from surefoot_actors.protocol.messages import FromTrainer, OnceAsked, OnceDone, OnceTold

__all__ = ["OnceRequests", "once_a_node"]


class OnceRequests:
    """`commit_lock` is the member's; `told` and `stop` are called with it held."""

    def __init__(
        self, trainer: str, run_id: str, commit_lock: threading.Condition, tell: Callable[[FromTrainer], None]
    ) -> None:
        """`run_id` names the attempt, and no other one ever, on this node."""
        self._trainer, self._run_id, self._commit_lock, self._tell = trainer, run_id, commit_lock, tell
        self._verdicts: dict[str, bool] = {}
        self._stopped = False

    def told(self, told: OnceTold) -> None:
        """Take the supervisor's word."""
        self._verdicts[told.key] = told.done
        self._commit_lock.notify_all()

    def stop(self) -> None:
        """This trainer is to end: nobody waits any more."""
        self._stopped = True

    def once(self, key: str, prepare: Callable[[], object], awaits: Callable[[str], None]) -> None:
        """Return when one trainer of the job has done it: this one, if it is told to. Raises TrainerExit."""
        self._tell(OnceAsked(trainer=self._trainer, key=key))
        awaits("another trainer, which does what is done once")
        with self._commit_lock:
            while key not in self._verdicts:
                self._check_stopped()
                self._commit_lock.wait()
            self._check_stopped()
            done = self._verdicts[key]
        awaits("")
        if not done:
            prepare()
            self._tell(OnceDone(trainer=self._trainer, key=key))

    def node_once(self, key: str, prepare: Callable[[], object], awaits: Callable[[str], None]) -> None:
        """Return when one process of this node has done it. Whoever dies at it lets go of the lock, and the next one does it."""

        def turn() -> None:
            awaits("")
            with self._commit_lock:
                self._check_stopped()

        folder = Path(tempfile.gettempdir()) / f"surefoot-once-{os.getuid()}"
        awaits("another process of this node, which does what is done once a node")
        once_a_node(folder, f"{self._run_id}\0{key}", prepare, turn)

    def _check_stopped(self) -> None:
        if self._stopped:
            raise TrainerExit


def once_a_node(folder: Path, key: str, prepare: Callable[[], object], turn: Callable[[], None]) -> None:
    """Do it, unless another process has that uses this folder. `turn` is called when it is this one's turn to look, and may raise."""
    folder.mkdir(mode=0o700, exist_ok=True)
    base = folder / xxhash.xxh3_128_hexdigest(key.encode())
    done = base.with_suffix(".done")
    lock = os.open(base.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        turn()
        if not done.exists():
            prepare()
            done.touch(mode=0o600)
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # by name: a process that `prepare` has left behind holds the file open too
        os.close(lock)
