"""The messages of a merge: every rank's header and its nodes' parts to every other rank, and the merged slices back.

Who sends how many bytes to whom is a pure function of layout and covers, so nothing has to be asked before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch

from surefoot_actors.engine.exchange.header import Header, pack_header, read_header
from surefoot_actors.engine.exchange.plan import Plan, Section
from surefoot_actors.engine.group.group import Group, Posted
from surefoot_actors.engine.group.wire import Message, Tag
from surefoot_actors.engine.types import Node, Range
from surefoot_actors.engine.vector.digest import DIGEST_BYTES
from surefoot_actors.engine.vector.end_to_end import offsets

__all__ = ["AllGather", "Exchange", "Parts", "exchange_bytes", "post_exchange"]


Parts = dict[tuple[Range, int], torch.Tensor]
"""By node and bucket: the part of a node's bucket that this rank merges."""


class Exchange:
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


def post_exchange(group: Group, plan: Plan, header: Header, nodes: Mapping[Range, Node] | None, tag: Tag) -> Exchange:
    """Post an exchange: `header` and the parts of `nodes` to every other rank; zeros of the same size where `nodes` is None.

    Nodes are sent from where they lie, and belong to the exchange until `wait` returns.
    """
    others = [rank for rank in range(group.size) if rank != group.rank]
    heads = {r: group.scratch((tag, "in", r), plan.message_bytes(r, group.rank), torch.uint8) for r in others}
    single_message = plan.single_message
    parts, receives = _incoming(group, plan, heads, others, single_message)
    data = pack_header(header, plan.layout, len(plan.covers[group.rank]))
    outgoing: dict[int, torch.Tensor] = {}
    for rank in others:
        if plan.one_phase and outgoing:
            outgoing[rank] = next(iter(outgoing.values()))
            continue
        outgoing[rank] = group.scratch((tag, "out", rank), plan.message_bytes(group.rank, rank), torch.uint8)
        _fill(outgoing[rank], data, plan.sections(group.rank, rank) if single_message else (), nodes)
    first = group.post([Message(outgoing[r], r, tag) for r in others], [Message(heads[r], r, tag) for r in others])
    if single_message:
        return Exchange(group, plan, heads, parts, first, first)
    sends = [m for r in others for m in _outgoing(group, plan, nodes, r)]
    return Exchange(group, plan, heads, parts, first, group.post(sends, receives))


def _incoming(
    group: Group, plan: Plan, heads: Mapping[int, torch.Tensor], others: Sequence[int], single_message: bool
) -> tuple[Parts, list[Message]]:
    """Return where the parts of the other ranks' nodes arrive, and the messages that bring them."""
    parts: Parts = {}
    receives = []
    for source in others:
        for i, section in enumerate(plan.sections(source, group.rank)):
            dtype = plan.layout.buckets[section.bucket].dtype if plan.layout else torch.uint8
            if single_message:
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


def exchange_bytes(group: Group, own: bytes, sizes: Sequence[int], tag: Tag) -> list[bytes]:
    """Send `own` to every rank and return what each sent, by rank; `sizes` are the lengths, known to all.

    Raises GroupClosedError.
    """
    incoming = {r: torch.empty(size, dtype=torch.uint8) for r, size in enumerate(sizes) if r != group.rank and size}
    outgoing = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else None
    others = [r for r in range(group.size) if r != group.rank]
    sends = [Message(outgoing, r, tag) for r in others] if outgoing is not None else []
    group.post(sends, [Message(tensor, r, tag) for r, tensor in incoming.items()]).wait()
    return [own if r == group.rank else _bytes(incoming[r]) if r in incoming else b"" for r in range(group.size)]


class AllGather:
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
        received = exchange_bytes(group, b"".join(digests), [sum(own) for own in lengths], Tag.CHUNKS)
        self._early.wait()
        posted.wait()
        known = [_split(data, lengths[r]) for r, data in enumerate(received)]
        return [b"".join(known[r][i] for r in range(group.size)) for i in range(len(self._buckets))]

    def _slices(self, owner: int, peer: int) -> list[Message]:
        cut = [flat[a:b] for flat, (a, b) in zip(self._buckets, self._bounds[owner], strict=True)]
        return [Message(part, peer, Tag.MEAN + i) for i, part in enumerate(cut) if part.numel()]


def _split(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in pairwise(offsets(lengths))]
