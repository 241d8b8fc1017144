"""`run.output_dir` on one trainer: whoever is elected has the job's files there, and keeps what is written in the job's place.

The training thread looks at the folder as a step begins (names, sizes, times, small files); a thread of its own hashes and uploads what is
new. So what is kept is as of one step: whoever is elected next, or goes on from a checkpoint, begins no later step than that, and nothing
that is written again is there twice. What was written since the last time is lost with a trainer that dies.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from surefoot.errors import CheckpointError, DamagedError
from surefoot.output import AFTER_ALL, DEFAULT_MAX_OUTPUT_BYTES, as_of
from surefoot_actors.output.folder import LocalFolder
from surefoot_actors.output.look import Look, look
from surefoot_actors.output.restore import restore
from surefoot_actors.output.store import FencedError, OutputStore, WriterId
from surefoot_actors.output.upload import Uploader
from surefoot_actors.process_log import log
from surefoot_actors.tasks import JobThread

__all__ = ["OutputSync", "Pending"]

# How often what is new is uploaded, beside checkpoints; and how many times as long as it takes to look at the folder, at the least.
SYNC_S = 30.0
_LOOKS = 300.0
# How long whoever is elected waits for a storage that is away, before it goes on with an empty folder.
AWAY_S = 600.0
# Between two tries of a storage that is away.
_TRY_AGAIN_S = 2.0
# How long training is held in all, once this trainer was given notice, so that it leaves nothing behind at whichever boundary it leaves.
_LEAVING_S = 20.0
# While training goes on the thread rests so many times as long as it computes.
_RESTS = 3.0


class Pending:
    """A synchronisation that was asked for."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self.error = ""

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def end(self, error: str = "") -> None:
        self.error = error
        self._over.set()

    def wait(self, within_s: float) -> bool:
        """Wait until it is over; return whether the files are there."""
        return self._over.wait(within_s) and not self.error


class OutputSync:
    """`folder`, `ready`, `boundary` and `sync` are called on the training thread, or while it stands still."""

    def __init__(
        self,
        url: str,
        me: Callable[[], WriterId],
        *,
        most_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
        warn: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        """`url`: the job's place; empty: nothing is kept. `check` raises where this trainer is to end: what waits then ends."""
        self._url, self._me, self._most_bytes, self._warn, self._check = url, me, most_bytes, warn, check
        self._local: LocalFolder | None = None
        self._store: OutputStore | None = None
        self._uploader: Uploader | None = None
        # a later trainer writes now; what there was could not be restored, and stays untouched
        self._fenced, self._keeps_all = False, False
        self._thread = JobThread("output-files")
        self._last: Pending | None = None
        self._due, self._hurry = 0.0, False
        self._newest: object = None
        self._failing = False
        self._told: set[str] = set()
        #: this trainer was given notice: it may leave at any boundary
        self.leaving = False
        self._leaving_s = _LEAVING_S

    @property
    def is_used(self) -> bool:
        """Whether the code has asked for the folder. Before that, and where it never does, nothing here costs anything."""
        return self._local is not None

    @property
    def _works(self) -> bool:
        return bool(self._url) and self._local is not None and not self._fenced

    def folder(self) -> Path:
        """The folder; it is made when it is asked for first."""
        if self._local is None:
            self._local = LocalFolder(self._check)
            self._thread.put(self._local.remove_leftovers)
        with contextlib.suppress(OSError):  # code may have removed it, to begin with an empty one
            self._local.path.mkdir(exist_ok=True)
        return self._local.path

    def ready(self, step: int) -> None:
        """Have the job's files in the folder, as they were when this step began, or one before: this trainer was elected. May block."""
        folder = self.folder()
        if self._uploader is not None or not self._works:
            return
        began = time.monotonic()
        while True:
            try:
                self._uploader = self._begin(folder, step)
                return
            except FencedError:
                self._fence()
                self._tell(
                    f"a later trainer than this one ({self._me().name}) has begun to keep the job's files: nothing of what is written to "
                    "run.output_dir here is kept; if the control plane's database was put back to an earlier state, submit the job anew"
                )
                return
            except CheckpointError as error:
                away_s = time.monotonic() - began
                self._tell(f"the job's files cannot be restored yet, and are waited for: {error}")
                if away_s > AWAY_S:
                    self._give_up(away_s)
                    return
            self._check()
            time.sleep(_TRY_AGAIN_S)

    def _begin(self, folder: Path, step: int) -> Uploader:
        """Take over, and restore. Raises FencedError, and CheckpointError where the storage is away."""
        store = OutputStore(self._url, self._me())
        try:
            store.take_over()
        except CheckpointError:
            if not store.is_empty():
                raise
            # there is nothing to wait for: it is tried again when there is something to be kept
        uploader = Uploader(store, folder, self._most_bytes, self._rest)
        for name in as_of(store.names, step):
            try:
                manifest = store.read(name.name)
                uploader.known = restore(store, manifest, folder)
                store.count_on(uploader.puts())
                # gone back, what is kept is to be the newest, though nothing is new
                self._newest = manifest.files if name == store.names[0] else None
                break
            except DamagedError as error:
                self._keeps_all = True
                self._tell(f"the job's files as of step {name.at} are damaged, those before them are tried: {error}")
            except OSError as error:
                self._fenced = True
                self._tell(
                    f"the job's files could not be written to {folder}: {error.strerror or error}; training goes on without them, and "
                    "nothing of what it writes here is kept; what was kept before is untouched, for whoever is elected next"
                )
                break
        self._store = store
        return uploader

    def _give_up(self, seconds: float) -> None:
        self._fenced = True
        self._tell(
            f"the job's files could not be restored in {seconds:.0f} s: training goes on with an empty run.output_dir, of which "
            "nothing is kept; what was kept before is untouched, for whoever is elected next"
        )

    def _rest(self, seconds: float) -> None:
        if not self._hurry:
            time.sleep(min(1.0, _RESTS * seconds))

    # ---- as steps begin

    def boundary(self, step: int, *, checkpoint: bool) -> Pending | None:
        """This step is about to begin here, on whoever is elected: have what is new uploaded, if it is time or a checkpoint is made."""
        if not self._works:
            return None
        self.ready(step)
        if self.leaving and self._leaving_s > 0:
            return self._before_leaving(step)
        under_way = self._last is not None and not self._last.is_over
        if not checkpoint and (under_way or time.monotonic() < self._due):
            return None
        return self._look(step, step)

    def _before_leaving(self, step: int) -> Pending | None:
        """Leave nothing behind, as far as the time goes that training is held for that; after it, files are kept in the background."""
        began = time.monotonic()
        self.sync(step, self._leaving_s)
        self._leaving_s -= time.monotonic() - began
        return self._last

    def sync(self, step: int, within_s: float, *, ended: bool = False, in_step: bool = False) -> bool:
        """Have everything uploaded, and wait for it; return whether it is there. The training thread stands still meanwhile.

        `ended`: the train function has returned. `in_step`: it was left in the midst of a step: nobody is to go on from that.
        """
        if not self._works or self._uploader is None:
            return not self._works
        self._hurry = True
        pending = self._look(step, AFTER_ALL if in_step else step + ended, ended=ended)
        try:
            return pending is None or pending.wait(within_s)
        finally:
            self._hurry = False

    def _look(self, step: int, at: int, *, ended: bool = False) -> Pending | None:
        uploader = self._uploader
        if uploader is None or self._local is None:
            return None
        began = time.monotonic()
        seen = look(self._local.path, uploader.is_known)
        now = time.monotonic()
        self._due = now + max(0.0 if self.leaving else SYNC_S, _LOOKS * (now - began))
        pending = self._last = Pending()
        self._thread.put(lambda: self._upload(uploader, seen, step, at, ended, pending))
        return pending

    # ---- on the thread

    def _upload(self, uploader: Uploader, seen: Look, step: int, at: int, ended: bool, pending: Pending) -> None:
        error = "a fault of Surefoot's own"
        try:
            error = self._try(uploader, seen, step, at, ended)
        finally:
            pending.end(error)

    def _try(self, uploader: Uploader, seen: Look, step: int, at: int, ended: bool) -> str:
        """Return why it could not be done; empty: it is."""
        store = self._store
        if store is None or self._fenced:
            return "a later trainer writes now"
        try:
            store.begin_if_not_yet()
            manifest = uploader.upload(seen, step, ended=ended)
            self._tell_of(manifest.left_out)
            if self._fenced:  # closed meanwhile: files have gone from under the look
                return "this trainer has ended"
            if manifest.files != self._newest or ended:
                store.commit(manifest, at)
                self._newest = manifest.files
                self._prune(store)
        except FencedError:
            self._fence()
            return "a later trainer writes now"
        except CheckpointError as error:
            if not self._failing:
                self._failing = True
                self._warn(f"what is in run.output_dir could not be kept, and is tried again: {error}")
            return str(error)
        self._failing = False
        return ""

    def _prune(self, store: OutputStore) -> None:
        """Remove what nobody needs. What is kept is kept, whatever comes of that: the rest goes the next time."""
        if self._keeps_all:
            return
        try:
            store.prune()
        except CheckpointError as error:
            log.warning("output_files_not_removed", error=str(error))

    def _fence(self) -> None:
        self._fenced = True
        log.info("output_files_left", reason="a later trainer was elected")

    def _tell_of(self, left_out: Sequence[str]) -> None:
        for text in left_out:
            self._tell(f"not all of run.output_dir is kept: {text}")

    def _tell(self, text: str) -> None:
        """Tell it once."""
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            self._warn(text)

    def close(self) -> None:
        """Remove the folder: whoever wrote there has ended."""
        self._fenced = True
        if self._local is not None:
            self._local.remove()
