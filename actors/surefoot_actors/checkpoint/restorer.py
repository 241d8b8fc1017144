"""A trainer's reading side: restores a checkpoint while the training thread waits to be admitted, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from surefoot.errors import CheckpointError, ContractError, DamagedError, RefusedError, UnfitError
from surefoot_actors.checkpoint.read import Checkpoint
from surefoot_actors.protocol.messages import NotRestored, Restored

__all__ = ["Restorer"]

# How often storage that is away is tried again, and how long it may stay so before an older checkpoint is taken.
TRY_AGAIN_S, NUM_TRIES = 2.0, 60


class Restorer:
    """Answers every request with Restored or NotRestored, a doubled one once more."""

    def __init__(
        self,
        trainer: str,
        read: Callable[[str], Checkpoint],
        adopt: Callable[[Checkpoint], bool],
        tell: Callable[[Restored | NotRestored], None],
    ) -> None:
        """`adopt` overwrites the tracked state, or raises ContractError and changes nothing; False: it is too late for that."""
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

    def stop(self) -> None:
        """Try no more."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            url = self._asked[0]
            answer = self._answer(url)
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
            if checkpoint is None or not self._adopt(checkpoint):
                return None
        except (RefusedError, ContractError) as error:
            return NotRestored(trainer=self._trainer, url=url, why="refused", reason=_refusal(url, error))
        except UnfitError as error:
            return NotRestored(trainer=self._trainer, url=url, why="unfit", reason=str(error))
        except CheckpointError as error:
            return NotRestored(trainer=self._trainer, url=url, why="damaged", reason=str(error))
        except Exception as error:  # noqa: BLE001  the thread's edge: what cannot be understood is not whole
            reason = f"{url} could not be restored: {error!r}"
            return NotRestored(trainer=self._trainer, url=url, why="damaged", reason=reason)
        manifest = checkpoint.manifest
        self._restored = Restored(trainer=self._trainer, url=url, round=manifest.round, step=manifest.step)
        return self._restored

    def _read_patiently(self, url: str) -> Checkpoint | None:
        """Wait while the storage is away: an older checkpoint would not be nearer. None: this trainer is to end."""
        for n in range(NUM_TRIES):
            try:
                return self._read(url)
            except (DamagedError, RefusedError, UnfitError):
                raise
            except CheckpointError:
                if n == NUM_TRIES - 1:
                    raise
            if self._stopped.wait(TRY_AGAIN_S):
                return None
        raise AssertionError("NUM_TRIES is at least 1")


def _refusal(url: str, error: Exception) -> str:
    if isinstance(error, RefusedError):
        return str(error)
    return (
        f"the checkpoint {url} is of another model than this job's code builds: {error}; submit the job with the code that "
        "made it, or without `restore`, to begin from step 0"
    )
