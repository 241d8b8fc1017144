"""Flat buffers that are used again, for leaves and for merged vectors."""

from __future__ import annotations

import torch

from surefoot_actors.engine.types import Layout, Merged

__all__ = ["MOST_LAYOUTS", "BufferPool", "LeafPool", "shared_pool"]

# Of so many layouts is memory kept. The rounds of a step take turns; of layouts that do not come back, as a model is unfrozen layer by
# layer or a buffer grows, nothing may stay.
MOST_LAYOUTS = 8


class BufferPool:
    """Buffers for merged vectors, kept from one round to another: fresh memory costs a page fault every 4 KiB.

    Used by one thread at a time. Only complete vectors come back, so no receive of a dead generation can land in one.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        # what was given back last is at the end
        self._free: dict[tuple[object, ...], list[list[torch.Tensor]]] = {}

    def take(self, layout: Layout, device: torch.device) -> list[torch.Tensor]:
        """Return uninitialised flat buffers for a merged vector."""
        free = self._free.get(_kind(layout, device))
        return free.pop() if free else [torch.empty(b.numel, dtype=b.dtype, device=device) for b in layout.buckets]

    def give(self, merged: Merged) -> None:
        """Take back the buffers of a merged vector that nobody reads any more."""
        device = merged.buckets[0].device if merged.buckets else torch.device("cpu")
        kind = _kind(merged.layout, device)
        free = self._free[kind] = self._free.pop(kind, [])
        if len(free) < self._keep:
            free.append(merged.buckets)
        if len(self._free) > MOST_LAYOUTS:
            del self._free[next(iter(self._free))]


def _kind(layout: Layout, device: torch.device) -> tuple[object, ...]:
    return str(device), tuple((b.dtype, b.numel) for b in layout.buckets)


class LeafPool:
    """Flat buffers for leaves, kept from one sub-task to another: fresh memory costs a page fault every 4 KiB.

    Layouts may share buffers. Lists are only appended to and popped from, which is atomic: the training thread and a control thread may
    share a pool.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.device, torch.dtype, int], list[torch.Tensor]] = {}
        # the layouts that were asked for last, by signature, with their sizes; the newest at the end
        self._recent: dict[bytes, frozenset[tuple[torch.dtype, int]]] = {}
        self._newest: Layout | None = None

    def take(self, layout: Layout, device: torch.device) -> list[torch.Tensor]:
        """Return one flat buffer a bucket, contents undefined."""
        if layout is not self._newest:
            self._note(layout)
        taken = []
        for bucket in layout.buckets:
            free = self._free.get((device, bucket.dtype, bucket.numel))
            taken.append(free.pop() if free else torch.empty(bucket.numel, dtype=bucket.dtype, device=device))
        return taken

    def _note(self, layout: Layout) -> None:
        """Let go of what only layouts took that were not asked for lately."""
        self._newest = layout
        known = self._recent.pop(layout.signature, None)
        self._recent[layout.signature] = known or frozenset((b.dtype, b.numel) for b in layout.buckets)
        if len(self._recent) > MOST_LAYOUTS:
            del self._recent[next(iter(self._recent))]
            kept = frozenset().union(*self._recent.values())
            for device, dtype, numel in tuple(self._free):
                if (dtype, numel) not in kept:
                    self._free.pop((device, dtype, numel), None)

    def give(self, buffers: list[torch.Tensor]) -> None:
        """Take back buffers that nobody reads or sends any more."""
        for buffer in buffers:
            self._free.setdefault((buffer.device, buffer.dtype, buffer.numel()), []).append(buffer)

    def forget(self) -> None:
        """Release all memory."""
        self._free.clear()
        self._recent.clear()
        self._newest = None


_shared = LeafPool()


def shared_pool() -> LeafPool:
    """Return the process's pool: leaves are made by the Run and given up by the coordinator's NodeStore."""
    return _shared
