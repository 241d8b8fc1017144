"""Reading a checkpoint back into a state image, on one trainer, of however many that wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surefoot.errors import DamagedError
from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.manifest import Manifest, TensorEntry, check_fits, load_manifest
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.store import MANIFEST
from surefoot_actors.checkpoint.tensor_file import read_tensors
from surefoot_actors.engine.types import StateImage

__all__ = ["Checkpoint", "read_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One that was read whole and verified."""

    url: str
    manifest: Manifest
    image: StateImage
    # the ledger rows that nobody had acknowledged, as JSON lines
    lines: bytes

    @property
    def rows(self) -> tuple[LedgerRow, ...]:
        """The same, read."""
        return tuple(map(LedgerRow.model_validate_json, self.lines.splitlines()))


def read_checkpoint(
    url: str, identity: Mapping[str, Any], fingerprint: Sequence[tuple[str, str]], *, own: bool = True
) -> Checkpoint:
    """Read all of a checkpoint, every byte verified. `own`: the job made it itself, and trained on the same data.

    Raises RefusedError or UnfitError before it reads much, where it is of another job than `identity` or of another kind of
    machine; DamagedError naming a file that is missing or corrupt; CheckpointError where the storage is away.
    """
    storage = Storage(url)
    manifest = load_manifest(storage.read_small(MANIFEST), storage.name(MANIFEST))
    check_fits(manifest, storage.url, identity, fingerprint, own=own)
    objects, rows, *shares = storage.read(manifest.files)
    tensors = _assemble(manifest, [torch.from_numpy(data) for data in shares])
    return Checkpoint(
        url=url,
        manifest=manifest,
        image=StateImage(skeleton=objects.tobytes(), tensors=tensors),
        lines=rows.tobytes(),
    )


def _assemble(manifest: Manifest, files: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return every tensor's bytes, in order; those that were cut are put together."""
    parts: dict[int, list[tuple[TensorEntry, torch.Tensor]]] = {}
    for share, file in zip(manifest.shares, files, strict=True):
        found = read_tensors(file)
        for entry in share.tensors:
            parts.setdefault(entry.number, []).append((entry, found[entry.name]))
    if sorted(parts) != list(range(manifest.head.num_tensors)):
        raise DamagedError("the manifest does not name every tensor of the state")
    return [_joined(parts[number]) for number in range(len(parts))]


def _joined(parts: list[tuple[TensorEntry, torch.Tensor]]) -> torch.Tensor:
    if len(parts) == 1:
        return parts[0][1]
    return torch.cat([flat for _, flat in sorted(parts, key=lambda part: part[0].rows or (0, 0))])
