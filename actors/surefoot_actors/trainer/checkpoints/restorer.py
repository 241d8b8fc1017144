"""A trainer's reading side: restores a checkpoint while the training thread waits to be admitted, on a thread of its own."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from typing import Literal

from surefoot.errors import CheckpointError, ContractError, DamagedError, MissingError, RefusedError, UnfitError
from surefoot_actors.checkpoint.read import Checkpoint
from surefoot_actors.process_log import log, say
from surefoot_actors.protocol.messages import NotRestored, Restored

__all__ = ["Restorer"]

# Storage that is away is tried again after so long, and then more and more seldom: from an older checkpoint, or from step 0, the end
# would be the same, but perhaps a week later.
TRY_AGAIN_S, MOST_TRY_AGAIN_S = 2.0, 30.0


class Restorer:
    """Answers every request with Restored or NotRestored, a doubled one once more."""

    def __init__(
        self,
        trainer: str,
        read: Callable[[str], Checkpoint],
        adopt: Callable[[Checkpoint], bool],
        tell: Callable[[Restored | NotRestored], None],
    ) -> None:
        """`adopt` overwrites the tracked state, or raises ContractError and changes nothing; False: it is too late for that.

        Every request is answered, unless this trainer is to end: whoever asked waits for nothing else.
        """
        self._trainer, self._read, self._adopt, self._tell = trainer, read, adopt, tell
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._asked: list[str] = []
        self._restored: Restored | None = None

    def ask(self, url: str) -> None:
        """Restore this checkpoint. Never blocks."""
        with self._lock:
            if url in self._asked:
                return
            self._asked.append(url)
            if len(self._asked) == 1:
                threading.Thread(target=self._run, name="restore", daemon=True).start()

    def forget(self) -> None:
        """The tracked state is another now: what was restored before is read anew when it is asked for."""
        self._restored = None

    def stop(self) -> None:
        """Try no more."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            url = self._asked[0]
            try:
                answer = self._answer(url)
            except Exception:  # noqa: BLE001  the thread's edge: no memory for it, say; this trainer's loss, not the checkpoint's
                say(traceback.format_exc())
                os._exit(1)
            with self._lock:
                self._asked.pop(0)
                more = bool(self._asked)
            if answer is not None:
                self._tell(answer)
            if not more:
                return

    def _answer(self, url: str) -> Restored | NotRestored | None:
        if self._restored is not None and self._restored.url == url:
            return self._restored
        try:
            checkpoint = self._read_patiently(url)
            if checkpoint is None:
                return None
            if not self._adopt(checkpoint):
                return NotRestored(trainer=self._trainer, url=url, cause="late", reason=_LATE)
        except (RefusedError, ContractError) as error:
            return NotRestored(trainer=self._trainer, url=url, cause="refused", reason=_refusal(url, error))
        except UnfitError as error:
            return NotRestored(trainer=self._trainer, url=url, cause="unfit", reason=str(error))
        except DamagedError as error:
            cause: Literal["missing", "damaged"] = "missing" if isinstance(error, MissingError) else "damaged"
            return NotRestored(trainer=self._trainer, url=url, cause=cause, reason=str(error))
        manifest = checkpoint.manifest
        self._restored = Restored(trainer=self._trainer, url=url, round=manifest.round, step=manifest.step)
        return self._restored

    def _read_patiently(self, url: str) -> Checkpoint | None:
        """Wait while the storage is away. None: this trainer is to end."""
        pause = TRY_AGAIN_S
        while True:
            try:
                return self._read(url)
            except (DamagedError, RefusedError, UnfitError):
                raise
            except CheckpointError as error:
                log.warning("checkpoint_not_read", url=url, error=str(error))
            if self._stopped.wait(pause):
                return None
            pause = min(2 * pause, MOST_TRY_AGAIN_S)


_LATE = "this trainer holds a state of the run, or takes part in a generation"


def _refusal(url: str, error: Exception) -> str:
    if isinstance(error, RefusedError):
        return str(error)
    return (
        f"the checkpoint {url} is of another model than this job's code builds: {error}; submit the job with the code that "
        "made it, or without `restore`, to begin from step 0"
    )
