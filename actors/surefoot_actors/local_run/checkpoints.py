"""Checkpoints of `run_local`: the same files, written by one trainer that is its own supervisor, while training waits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from surefoot.errors import ContractError, DamagedError, RefusedError
from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.capture import Facts, HostMemory, Place, capture
from surefoot_actors.checkpoint.manifest import Point, make_manifest
from surefoot_actors.checkpoint.read import Checkpoint, read_checkpoint
from surefoot_actors.checkpoint.store import CheckpointStore
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.determinism.fingerprint import fingerprint
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.types import Position

__all__ = ["LocalCheckpoints"]


class LocalCheckpoints:
    """Saves every so many steps and at the end; begins from another checkpoint."""

    def __init__(
        self,
        *,
        identity: Mapping[str, Any],
        device: torch.device,
        url: str | None = None,
        every: int | None = None,
        restore: str | None = None,
    ) -> None:
        self._identity, self._device, self._every = identity, device, every
        # whole: it is read when the code comes to `steps()`, which may have gone to another folder by then
        self._restore = os.path.abspath(restore) if restore and "://" not in restore else restore
        self._store = CheckpointStore(url) if url else None
        self._memory = HostMemory(device)
        #: how long the run is, None while that is not known
        self.num_steps: int | None = None

    def begin(self, owner: StateOwner, num_steps: int | None) -> tuple[Position, list[LedgerRow]]:
        """Overwrite the state by the checkpoint to begin from, if there is one; return where training goes on, and its rows."""
        self.num_steps = num_steps
        if self._restore is None:
            return Position(0, 0, 0), []
        checkpoint = self._read(self._restore)
        try:
            owner.check_image(checkpoint.image)
        except ContractError as error:
            raise RefusedError(
                f"the checkpoint {checkpoint.url} is of another model than this code builds: {error}"
            ) from error
        owner.restore(checkpoint.image)
        return Position(checkpoint.manifest.round, checkpoint.manifest.step, 0), list(checkpoint.rows)

    def _read(self, url: str) -> Checkpoint:
        found = CheckpointStore(url).found()
        if not found:
            raise DamagedError(f"there is no checkpoint at {url}")
        return read_checkpoint(found[0].url, self._identity, self._fingerprint())

    def _fingerprint(self) -> tuple[tuple[str, str], ...]:
        return fingerprint(self._device, self._identity["threads"])

    def end_step(self, owner: StateOwner, position: Position, rows: Sequence[LedgerRow]) -> None:
        """Save, if it is time. `position`: where training goes on."""
        if self._every is not None and position.step % self._every == 0 and position.step != self.num_steps:
            self._save(owner, position, rows, ended=False)

    def finish(self, owner: StateOwner, position: Position, rows: Sequence[LedgerRow]) -> None:
        """Save the end of training, and export the modules."""
        self._save(owner, position, rows, ended=True)

    def _save(self, owner: StateOwner, position: Position, rows: Sequence[LedgerRow], *, ended: bool) -> None:
        if self._store is None:
            return
        place = Place(generation=1, round=position.round, step=position.step, share=0, of=1)
        result = rows[-1].result if rows else None
        last = Point(step=result.step, digest=result.digest, values=result.values) if result else None
        facts = Facts(fingerprint=self._fingerprint(), num_steps=self.num_steps, last=last, rows=tuple(rows))
        captured = capture(owner.survey(), place, facts, self._memory)
        entry = write_share(self._store.storage, "local", captured, owner.models() if ended else {})
        manifest = make_manifest(self._identity, [entry.model_dump_json()], "run_local")
        self._store.commit(manifest)
