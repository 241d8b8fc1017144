"""Which checkpoints an attempt may begin from, which it makes, and which are kept. All of it blocks: called in threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surefoot.errors import CheckpointError, DamagedError
from surefoot.spec import JobSpec
from surefoot_actors.checkpoint.manifest import Manifest, make_manifest
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.store import CheckpointStore, read_manifest
from surefoot_actors.protocol.messages import Saved

__all__ = ["Catalogue", "Made"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A checkpoint that is durable."""

    url: str
    # that training goes on with
    step: int
    bytes: int
    # unix time of the snapshot
    taken_at: float
    # the folder of the exported modules; empty: none
    model: str


class Catalogue:
    """One attempt's view of its job's checkpoints. Raises CheckpointError where the storage is away, or full."""

    def __init__(self, spec: JobSpec, url: str, may_commit: Callable[[], bool], attempt: int = 1) -> None:
        """`may_commit`: whether no newer supervisor of the attempt has taken over; `attempt`: which of the job's this is."""
        self._policy, self._may_commit, self._attempt = spec.checkpoint, may_commit, attempt
        self._identity = spec.identity()
        # the other job's checkpoint, or where those lie, that the spec says to begin from
        self.beginning = spec.restore
        self._store = CheckpointStore(url) if url else None
        # the best value, and where it is
        self._best: tuple[float, str] | None = None
        self._lock = threading.Lock()

    @property
    def there(self) -> bool:
        """Whether there is a place for checkpoints at all."""
        return self._store is not None

    def find(self) -> tuple[str, ...]:
        """Return where the run may begin: this job's own checkpoints, newest first, then what the spec says to restore.

        From then on earlier attempts change nothing here, should one of them still run somewhere.

        Raises DamagedError where the spec names a place that has none, and the job has none of its own.
        """
        if self._store:
            self._store.take_over(self._attempt)
        own = [found.url for found in self._store.found()] if self._store else []
        for url in reversed(own):
            self._note_best_at(url)
        return (*own, *self._given(own))

    def _given(self, own: Sequence[str]) -> list[str]:
        """What the spec says to restore: a job that has come further needs it only if its own are damaged."""
        if self.beginning is None:
            return []
        try:
            given = [found.url for found in CheckpointStore(self.beginning).found()]
        except CheckpointError:
            if own:
                return []
            raise
        if not given and not own:
            raise DamagedError(f"there is no checkpoint at {self.beginning}, which the job is to begin from")
        return given

    def commit(self, shares: Sequence[Saved], reason: str) -> Made:
        """Make these shares a checkpoint, unless another supervisor has taken over."""
        assert self._store is not None
        entries = [saved.entry for saved in shares]
        manifest = make_manifest(self._identity, entries, reason)
        with self._lock:  # one at a time, in the order of its steps as far as can be
            self._check_may_write()
            url = self._store.commit(manifest)
            self._note_best(manifest, url)
        return Made(
            url=url,
            step=manifest.step,
            bytes=manifest.bytes,
            taken_at=manifest.head.taken_at,
            model=self._store.model_url(manifest),
        )

    def is_there(self, url: str) -> bool:
        """Whether all files of a checkpoint are there, for all that is seen from here. What is in them is not looked at."""
        try:
            manifest = read_manifest(url)
            sizes = Storage(url).sizes("")
        except DamagedError:
            return False
        except CheckpointError:
            return True
        return all(sizes.get(file.path) == file.bytes for file in manifest.files)

    def retain(self, committed: str) -> None:
        """Remove what need not be kept, now that `committed` is there."""
        assert self._store is not None
        with self._lock:
            self._check_may_write()
            self._store.retain(committed, self._policy.keep, self._best[1] if self._best else None)

    def _check_may_write(self) -> None:
        """There is a single writer: the newest supervisor of the newest attempt. Raises CheckpointError."""
        assert self._store is not None
        if not self._may_commit():
            raise CheckpointError("another supervisor has taken over, and commits checkpoints from now on")
        newest = self._store.newest_attempt()
        if newest < self._attempt:
            self._store.take_over(self._attempt)  # it could not be written when it began
        if newest > self._attempt:
            raise CheckpointError(f"attempt {newest} of the job has taken over from attempt {self._attempt}")

    def _note_best_at(self, url: str) -> None:
        """An earlier attempt's; one that cannot be read is not the best."""
        if self._policy.best is None or self._store is None:
            return
        try:
            self._note_best(read_manifest(url), url)
        except DamagedError:
            return

    def _note_best(self, manifest: Manifest, url: str) -> None:
        value = manifest.values.get(self._policy.best) if self._policy.best is not None else None
        if value is None or math.isnan(value):
            return
        better = self._best is None or (
            value < self._best[0] if self._policy.best_mode == "min" else value > self._best[0]
        )
        if better:
            self._best = (value, url)
