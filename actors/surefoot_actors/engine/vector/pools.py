"""Flat buffers that are used again, for leaves and for merged vectors."""

from __future__ import annotations

import torch

from surefoot_actors.engine.types import Layout, Merged

__all__ = ["BufferPool", "LeafPool", "shared_pool"]


class BufferPool:
    """Buffers for merged vectors, kept from one round to another: fresh memory costs a page fault every 4 KiB.

    Used by one thread at a time. Only complete vectors come back, so no receive of a dead generation can land in one.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._free: dict[tuple[object, ...], list[list[torch.Tensor]]] = {}

    def take(self, layout: Layout, device: torch.device) -> list[torch.Tensor]:
        """Return uninitialised flat buffers for a merged vector."""
        free = self._free.get(_kind(layout, device))
        return free.pop() if free else [torch.empty(b.numel, dtype=b.dtype, device=device) for b in layout.buckets]

    def give(self, merged: Merged) -> None:
        """Take back the buffers of a merged vector that nobody reads any more."""
        device = merged.buckets[0].device if merged.buckets else torch.device("cpu")
        free = self._free.setdefault(_kind(merged.layout, device), [])
        if len(free) < self._keep:
            free.append(merged.buckets)


def _kind(layout: Layout, device: torch.device) -> tuple[object, ...]:
    return str(device), tuple((b.dtype, b.numel) for b in layout.buckets)


class LeafPool:
    """Flat buffers for leaves, kept from one sub-task to another: fresh memory costs a page fault every 4 KiB.

    Lists are only appended to and popped from, which is atomic: the training thread and a control thread may share a pool.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.device, torch.dtype, int], list[torch.Tensor]] = {}

    def take(self, layout: Layout, device: torch.device) -> list[torch.Tensor]:
        """Return one flat buffer a bucket, contents undefined."""
        taken = []
        for bucket in layout.buckets:
            free = self._free.get((device, bucket.dtype, bucket.numel))
            taken.append(free.pop() if free else torch.empty(bucket.numel, dtype=bucket.dtype, device=device))
        return taken

    def give(self, buffers: list[torch.Tensor]) -> None:
        """Take back buffers that nobody reads or sends any more."""
        for buffer in buffers:
            self._free.setdefault((buffer.device, buffer.dtype, buffer.numel()), []).append(buffer)

    def forget(self) -> None:
        """Release all memory."""
        self._free.clear()


_shared = LeafPool()


def shared_pool() -> LeafPool:
    """Return the process's pool: leaves are made by the Run and given up by the coordinator's NodeStore."""
    return _shared
