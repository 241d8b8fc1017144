"""Which checkpoints an attempt may begin from, which it makes, and which are kept. All of it blocks: called in threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surefoot.errors import CheckpointError, DamagedError
from surefoot.spec import JobSpec
from surefoot_actors.checkpoint.manifest import Manifest, make_manifest
from surefoot_actors.checkpoint.store import CheckpointStore
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

    def __init__(self, spec: JobSpec, url: str, may_commit: Callable[[], bool]) -> None:
        self._spec, self._policy, self._may_commit = spec, spec.checkpoint, may_commit
        self._store = CheckpointStore(url) if url else None
        # the best value, and where it is
        self._best: tuple[float, str] | None = None
        self._lock = threading.Lock()

    @property
    def there(self) -> bool:
        """Whether there is a place for checkpoints at all."""
        return self._store is not None

    def find(self) -> tuple[str, ...]:
        """Return where the run may begin: this job's own checkpoints, newest first; without any, what the spec says to restore.

        Raises DamagedError where the spec names a place that has none.
        """
        own = [found.url for found in self._store.found()] if self._store else []
        for url in reversed(own):
            self._note_best_at(url)
        if own or self._spec.restore is None:
            return tuple(own)  # newer than what the job began from, which need not be there any more
        given = [found.url for found in CheckpointStore(self._spec.restore).found()]
        if not given:
            raise DamagedError(f"there is no checkpoint at {self._spec.restore}, which the job is to begin from")
        return tuple(given)

    def commit(
        self,
        shares: Sequence[Saved],
        fingerprint: Sequence[tuple[str, str]],
        num_steps: int | None,
        reason: str,
    ) -> Made:
        """Make these shares a checkpoint, unless another supervisor has taken over."""
        assert self._store is not None
        entries = [saved.entry for saved in shares]
        manifest = make_manifest(self._spec.identity(), entries, fingerprint, num_steps, reason)
        with self._lock:  # one at a time, in the order of its steps as far as can be
            if not self._may_commit():
                raise CheckpointError("another supervisor has taken over, and commits checkpoints from now on")
            url = self._store.commit(manifest)
            self._note_best(manifest, url)
        return Made(
            url=url,
            step=manifest.step,
            bytes=manifest.bytes,
            taken_at=manifest.head.taken_at,
            model=self._store.model_url(manifest),
        )

    def retain(self, committed: str) -> None:
        """Remove what need not be kept, now that `committed` is there."""
        assert self._store is not None
        with self._lock:
            self._store.retain(committed, self._policy.keep, self._best[1] if self._best else None)

    def _note_best_at(self, url: str) -> None:
        """An earlier attempt's; one that cannot be read is not the best."""
        if self._policy.best is None or self._store is None:
            return
        try:
            self._note_best(self._store.read_manifest(url), url)
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
