"""Copying one trainer's share of the state into host memory: all that training is held for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.manifest import Point, TensorEntry
from surefoot_actors.checkpoint.shares import TensorSpec, keys, parts_of
from surefoot_actors.checkpoint.tensor_file import TensorFile, lay_out
from surefoot_actors.engine.state.image import skeleton_of
from surefoot_actors.engine.state.survey import Survey
from surefoot_actors.process_log import log

__all__ = ["Captured", "Facts", "HostMemory", "Place", "capture", "specs_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which share of which state."""

    generation: int
    # that training goes on with
    round: int
    step: int
    share: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What share 0 tells of the whole run: where it can go on, and where its ledger is."""

    # what must be equal on every trainer, as sorted (name, value) pairs
    fingerprint: tuple[tuple[str, str], ...]
    # None while that is not known
    num_steps: int | None
    # the ledger's last row, and those that nobody has acknowledged
    last: Point | None
    rows: Iterable[LedgerRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A share in host memory, to be written."""

    place: Place
    tensors: tuple[TensorEntry, ...]
    file: TensorFile
    num_tensors: int
    # of share 0; None for the others
    skeleton: bytes | None
    facts: Facts | None
    # unix time
    taken_at: float


class HostMemory:
    """One buffer, kept from snapshot to snapshot: fresh memory costs a page fault every 4 KiB. Pinned for a GPU's sake."""

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._lock = threading.Lock()
        self._flat = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int) -> torch.Tensor:
        """Return so many bytes of it; what was taken before is of no use then."""
        with self._lock:
            return self._sized(num_bytes, touched=False)

    def prepare(self, num_bytes: int) -> None:
        """Have so many bytes ready, touched. For another thread than the training thread, before the first snapshot."""
        with self._lock:
            self._sized(num_bytes, touched=True)

    def _sized(self, num_bytes: int, *, touched: bool) -> torch.Tensor:
        if not num_bytes <= self._flat.numel() <= 2 * num_bytes:
            self._flat = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            self._flat = self._new(num_bytes)
            if touched:
                self._flat.zero_()
        return self._flat[:num_bytes]

    def _new(self, num_bytes: int) -> torch.Tensor:
        if self._pinned:
            try:
                return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:  # too little memory for that: the device is well, and the copy only slower
                log.warning("memory_not_pinned", num_bytes=num_bytes, error=str(error))
                self._pinned = False
        return torch.empty(num_bytes, dtype=torch.uint8)


def specs_of(survey: Survey) -> list[TensorSpec]:
    """Return the specs of a state's tensors, in the order of their numbers."""
    return [TensorSpec(e.name, e.tensor.dtype, tuple(e.tensor.shape)) for e in survey.entries]


@torch.no_grad()
def capture(survey: Survey, place: Place, facts: Facts, memory: HostMemory) -> Captured:
    """Copy a share of the state as it is now into `memory`. Reads nothing of the state once it has returned."""
    specs = specs_of(survey)
    parts, names = parts_of(specs, place.share, place.of), keys(specs)
    shapes = [(p.rows[1] - p.rows[0], *specs[p.number].shape[1:]) if p.rows else specs[p.number].shape for p in parts]
    slots = lay_out([(names[p.number], specs[p.number].dtype, s) for p, s in zip(parts, shapes, strict=True)])
    flat = memory.take(sum(part.nbytes for part in parts))
    sources = [
        survey.entries[p.number].tensor[slice(*p.rows)] if p.rows else survey.entries[p.number].tensor for p in parts
    ]
    _copy([slot.view(flat) for slot in slots], sources)
    return Captured(
        place=place,
        tensors=tuple(_entry(p.number, names[p.number], specs[p.number], p.rows) for p in parts),
        file=TensorFile(slots, flat),
        num_tensors=len(specs),
        skeleton=skeleton_of(survey) if place.share == 0 else None,
        facts=facts if place.share == 0 else None,
        taken_at=time.time(),
    )


def _copy(into: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    devices = {source.device for source in sources if source.device.type == "cuda"}
    for device in devices:
        torch.cuda.synchronize(
            device
        )  # the training thread may compute on a stream of its own, and need not be this one
    for target, source in zip(into, sources, strict=True):
        target.copy_(source.detach(), non_blocking=bool(devices))
    for device in devices:
        torch.cuda.synchronize(device)


def _entry(number: int, key: str, spec: TensorSpec, rows: tuple[int, int] | None) -> TensorEntry:
    return TensorEntry(
        number=number, name=key, dtype=str(spec.dtype).removeprefix("torch."), shape=spec.shape, rows=rows
    )
