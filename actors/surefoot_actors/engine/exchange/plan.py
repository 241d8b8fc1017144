"""Who sends how many bytes to whom in an exchange: a pure function of layout and covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from surefoot_actors.engine.exchange.header import header_bytes
from surefoot_actors.engine.exchange.reduce import slice_of
from surefoot_actors.engine.types import Layout, Range

__all__ = ["Plan", "plan_exchange"]

# Up to this many bytes from one rank to another, whole nodes go to everyone and each adds all of them: one wait instead of two.
ONE_PHASE_BYTES = 1 << 20


# Up to this many, header and parts are one message: a copy costs less than another wake-up.
SINGLE_MESSAGE_BYTES = 1 << 19


_ALIGNMENT = 16


class Section(NamedTuple):
    """Elements [start, stop) of one bucket of one node, which lie at `offset` in the single message."""

    node: Range
    bucket: int
    start: int
    stop: int
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Plan:
    """Who sends what to whom in one exchange. Equal on all ranks."""

    # None: no layout is agreed yet, so there are headers only
    layout: Layout | None
    # by rank: the nodes it holds
    covers: tuple[tuple[Range, ...], ...]

    @property
    def size(self) -> int:
        return len(self.covers)

    @cached_property
    def one_phase(self) -> bool:
        """Whether every rank merges the whole vector: one phase."""
        return self._node_bytes * max(map(len, self.covers)) * (self.size - 1) <= ONE_PHASE_BYTES

    @cached_property
    def single_message(self) -> bool:
        share = 1 if self.one_phase else self.size
        return self._node_bytes * max(map(len, self.covers)) // share <= SINGLE_MESSAGE_BYTES

    @cached_property
    def _node_bytes(self) -> int:
        return 0 if self.layout is None else sum(b.numel * b.dtype.itemsize for b in self.layout.buckets)

    def bounds(self, rank: int) -> list[tuple[int, int]]:
        """Return, a bucket, the elements that `rank` merges."""
        if self.layout is None:
            return []
        return [(0, b.numel) if self.one_phase else slice_of(b, rank, self.size) for b in self.layout.buckets]

    def header_bytes(self, source: int) -> int:
        return header_bytes(self.layout, len(self.covers[source]))

    def sections(self, source: int, to: int) -> tuple[Section, ...]:
        """Return what `source` sends `to`, in the order that both list it. Empty parts are not sent."""
        known = self._sections.get((source, to))
        if known is None:
            known = self._sections[source, to] = tuple(self._cut_sections(source, to))
        return known

    @cached_property
    def _sections(self) -> dict[tuple[int, int], tuple[Section, ...]]:
        return {}

    def _cut_sections(self, source: int, to: int) -> Iterator[Section]:
        offset = _aligned(self.header_bytes(source))
        if self.layout is None:
            return
        bounds = self.bounds(to)
        for node in self.covers[source]:
            for i, (bucket, (start, stop)) in enumerate(zip(self.layout.buckets, bounds, strict=True)):
                num_bytes = (stop - start) * bucket.dtype.itemsize
                if num_bytes:
                    yield Section(node, i, start, stop, offset, num_bytes)
                    offset += _aligned(num_bytes)

    def message_bytes(self, source: int, to: int) -> int:
        """Return the size of the message that starts with the header: the only one, or the first."""
        at = _aligned(self.header_bytes(source))
        if self.single_message:
            sections = self.sections(source, to)
            at = sections[-1].offset + _aligned(sections[-1].num_bytes) if sections else at
        return at


@lru_cache(maxsize=16)
def plan_exchange(layout: Layout | None, covers: tuple[tuple[Range, ...], ...]) -> Plan:
    """Return the plan, kept from round to round with all it has worked out."""
    return Plan(layout, covers)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
