"""The messages of a merge: every rank's header and its nodes' parts to every other rank, and the merged slices back.

Who sends how many bytes to whom is a pure function of layout and covers, so nothing has to be asked before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch

from surefoot_actors.engine.exchange.header import Header, header_bytes, pack_header, read_header
from surefoot_actors.engine.exchange.reduce import slice_of
from surefoot_actors.engine.group.group import Group, Posted
from surefoot_actors.engine.group.wire import Message, Tag
from surefoot_actors.engine.types import Layout, Node, Range
from surefoot_actors.engine.vector.digest import DIGEST_BYTES

__all__ = ["Gather", "Parts", "Plan", "Swap", "plan_exchange", "post_swap", "swap_bytes"]

# Up to this many bytes from one rank to another, whole nodes go to everyone and each adds all of them: one wait instead of two.
ONE_PHASE_BYTES = 1 << 20
# Up to this many, header and parts are one message: a copy costs less than another wake-up.
PACKED_BYTES = 1 << 19

_ALIGNMENT = 16

Parts = dict[tuple[Range, int], torch.Tensor]
"""By node and bucket: the part of a node's bucket that this rank merges."""


class Section(NamedTuple):
    """Elements [start, stop) of one bucket of one node, which lie at `offset` in a packed message."""

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
    def whole(self) -> bool:
        """Whether every rank merges the whole vector: one phase."""
        return self._node_bytes * max(map(len, self.covers)) * (self.size - 1) <= ONE_PHASE_BYTES

    @cached_property
    def packed(self) -> bool:
        share = 1 if self.whole else self.size
        return self._node_bytes * max(map(len, self.covers)) // share <= PACKED_BYTES

    @cached_property
    def _node_bytes(self) -> int:
        return 0 if self.layout is None else sum(b.numel * b.dtype.itemsize for b in self.layout.buckets)

    def bounds(self, rank: int) -> list[tuple[int, int]]:
        """Return, a bucket, the elements that `rank` merges."""
        if self.layout is None:
            return []
        return [(0, b.numel) if self.whole else slice_of(b, rank, self.size) for b in self.layout.buckets]

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
        """Return the size of the message that starts with the header: all of it when packed."""
        at = _aligned(self.header_bytes(source))
        if self.packed:
            sections = self.sections(source, to)
            at = sections[-1].offset + _aligned(sections[-1].num_bytes) if sections else at
        return at


@lru_cache(maxsize=16)
def plan_exchange(layout: Layout | None, covers: tuple[tuple[Range, ...], ...]) -> Plan:
    """Return the plan, kept from round to round with all it has worked out."""
    return Plan(layout, covers)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


class Swap:
    """An exchange under way: everything is posted."""

    def __init__(
        self, group: Group, plan: Plan, heads: dict[int, torch.Tensor], parts: Parts, first: Posted, rest: Posted
    ) -> None:
        self._group, self._plan, self._heads, self._first, self._rest = group, plan, heads, first, rest
        # this rank's part of the other ranks' nodes, valid after wait_received()
        self.parts = parts

    def headers(self) -> dict[int, Header]:
        """Wait for the headers of all other ranks and return them, by rank. Raises GroupClosedError, ExchangeError."""
        self._first.wait_received()
        plan = self._plan
        return {
            source: read_header(_bytes(head[: plan.header_bytes(source)]), plan.layout, len(plan.covers[source]))
            for source, head in self._heads.items()
        }

    def wait_received(self) -> None:
        """Block until all parts are here. Raises GroupClosedError."""
        self._rest.wait_received()

    def wait(self) -> None:
        """Block until all that was sent may be changed. Raises GroupClosedError."""
        self._first.wait()
        self._rest.wait()


def post_swap(group: Group, plan: Plan, header: Header, nodes: Mapping[Range, Node] | None, tag: Tag) -> Swap:
    """Post an exchange: `header` and the parts of `nodes` to every other rank; zeros of the same size where `nodes` is None.

    Nodes are sent from where they lie, and belong to the exchange until `wait` returns.
    """
    others = [rank for rank in range(group.size) if rank != group.rank]
    heads = {r: group.scratch((tag, "in", r), plan.message_bytes(r, group.rank), torch.uint8) for r in others}
    packed = plan.packed
    parts, receives = _incoming(group, plan, heads, others, packed)
    data = pack_header(header, plan.layout, len(plan.covers[group.rank]))
    outgoing: dict[int, torch.Tensor] = {}
    for rank in others:
        if plan.whole and outgoing:
            outgoing[rank] = next(iter(outgoing.values()))
            continue
        outgoing[rank] = group.scratch((tag, "out", rank), plan.message_bytes(group.rank, rank), torch.uint8)
        _fill(outgoing[rank], data, plan.sections(group.rank, rank) if packed else (), nodes)
    first = group.post([Message(outgoing[r], r, tag) for r in others], [Message(heads[r], r, tag) for r in others])
    if packed:
        return Swap(group, plan, heads, parts, first, first)
    sends = [m for r in others for m in _outgoing(group, plan, nodes, r)]
    return Swap(group, plan, heads, parts, first, group.post(sends, receives))


def _incoming(
    group: Group, plan: Plan, heads: Mapping[int, torch.Tensor], others: Sequence[int], packed: bool
) -> tuple[Parts, list[Message]]:
    """Return where the parts of the other ranks' nodes arrive, and the messages that bring them."""
    parts: Parts = {}
    receives = []
    for source in others:
        for i, section in enumerate(plan.sections(source, group.rank)):
            dtype = plan.layout.buckets[section.bucket].dtype if plan.layout else torch.uint8
            if packed:
                part = heads[source][section.offset : section.offset + section.num_bytes].view(dtype)
            else:
                key = ("part", section.node, section.bucket)
                part = group.scratch(key, section.stop - section.start, dtype, group.device)
                receives.append(Message(part, source, Tag.PART + i))
            parts[section.node, section.bucket] = part
    return parts, receives


def _outgoing(group: Group, plan: Plan, nodes: Mapping[Range, Node] | None, to: int) -> Iterator[Message]:
    for i, section in enumerate(plan.sections(group.rank, to)):
        if nodes is not None:
            part = nodes[section.node].buckets[section.bucket][section.start : section.stop]
        else:
            part = torch.zeros(section.num_bytes, dtype=torch.uint8, device=group.device)
        yield Message(part, to, Tag.PART + i)


def _fill(message: torch.Tensor, data: bytes, sections: Sequence[Section], nodes: Mapping[Range, Node] | None) -> None:
    memory = message.numpy()
    memory[: len(data)] = bytearray(data)
    for section in sections:
        target = message[section.offset : section.offset + section.num_bytes]
        if nodes is None:
            target.zero_()
        else:
            bucket = nodes[section.node].buckets[section.bucket]
            target.view(bucket.dtype).copy_(bucket[section.start : section.stop])


def _bytes(flat: torch.Tensor) -> bytes:
    return flat.numpy().tobytes()


def swap_bytes(group: Group, own: bytes, sizes: Sequence[int], tag: Tag) -> list[bytes]:
    """Send `own` to every rank and return what each sent, by rank; `sizes` are the lengths, known to all.

    Raises GroupClosedError.
    """
    incoming = {r: torch.empty(size, dtype=torch.uint8) for r, size in enumerate(sizes) if r != group.rank and size}
    outgoing = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else None
    others = [r for r in range(group.size) if r != group.rank]
    sends = [Message(outgoing, r, tag) for r in others] if outgoing is not None else []
    group.post(sends, [Message(tensor, r, tag) for r, tensor in incoming.items()]).wait()
    return [own if r == group.rank else _bytes(incoming[r]) if r in incoming else b"" for r in range(group.size)]


class Gather:
    """The second phase: every rank's merged slices to all others, straight into place in `buckets`, which are whole.

    Made before the first phase ends, so that the slices of faster ranks need not be kept elsewhere.
    """

    def __init__(self, group: Group, plan: Plan, buckets: Sequence[torch.Tensor]) -> None:
        assert plan.layout is not None
        self._group, self._kinds, self._buckets = group, plan.layout.buckets, buckets
        self._bounds = [plan.bounds(r) for r in range(group.size)]
        self._others = [r for r in range(group.size) if r != group.rank]
        incoming = [message for r in self._others for message in self._slices(r, r)]
        # NCCL wants both directions at once.
        on_gpu = group.device.type == "cuda"
        self._late = incoming if on_gpu else []
        self._early = group.post([], [] if on_gpu else incoming)

    def run(self, digests: Sequence[bytes]) -> list[bytes]:
        """Send the own slices, filled in by now, with their joined chunk digests, one a bucket; wait for all of the others.

        Returns the joined chunk digests of the whole buckets. Raises GroupClosedError.
        """
        group = self._group
        posted = group.post([m for r in self._others for m in self._slices(group.rank, r)], self._late)
        lengths = [
            [DIGEST_BYTES * -(-(b - a) // kind.chunk_numel) for kind, (a, b) in zip(self._kinds, own, strict=True)]
            for own in self._bounds
        ]
        swapped = swap_bytes(group, b"".join(digests), [sum(own) for own in lengths], Tag.CHUNKS)
        self._early.wait()
        posted.wait()
        known = [_cut(data, lengths[r]) for r, data in enumerate(swapped)]
        return [b"".join(known[r][i] for r in range(group.size)) for i in range(len(self._buckets))]

    def _slices(self, owner: int, peer: int) -> list[Message]:
        cut = [flat[a:b] for flat, (a, b) in zip(self._buckets, self._bounds[owner], strict=True)]
        return [Message(part, peer, Tag.MEAN + i) for i, part in enumerate(cut) if part.numel()]


def _cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(data[at : at + length])
        at += length
    return pieces
