"""State for joiners, striped from every settled member, and merged vectors for those that missed one. Inside the new group (R5)."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields

import torch
import xxhash

from surefoot.errors import DriftError
from surefoot_actors.engine.exchange.reduce import NodeHead
from surefoot_actors.engine.group.group import Group
from surefoot_actors.engine.group.wire import Message, Tag
from surefoot_actors.engine.types import Gathered, Layout, Merged, StateImage
from surefoot_actors.engine.vector.end_to_end import Piece, pieces
from surefoot_actors.engine.vector.memory import memory_of

__all__ = ["StripeMismatchError", "recv_merged", "recv_state", "send_merged", "send_state"]

# generation, round, digest of the whole image, skeleton bytes, extra bytes, number of tensors, bytes of the table of digests
_HEAD = struct.Struct("<qq16sQQQQ")
_LENGTH = struct.Struct("<Q")
# A piece is one message; small pieces let several sources flow side by side.
_PIECE_BYTES = 8 << 20


class StripeMismatchError(RuntimeError):
    """The stripes of a joiner's state are not of one generation and round: they are discarded, nothing was restored (R5)."""


def _stripe(sizes: Sequence[int], source: int, num_sources: int) -> Iterator[Piece]:
    """Yield, message by message, the stripe that the source at this place gives: bytes [B*k//n, B*(k+1)//n) of the image."""
    total = sum(sizes)
    low, high = total * source // num_sources, total * (source + 1) // num_sources
    for tensor, start, stop in pieces(sizes, low, high):
        for at in range(start, stop, _PIECE_BYTES):
            yield Piece(tensor, at, min(at + _PIECE_BYTES, stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What a source tells of its image before the tensors."""

    generation: int
    round: int
    digest: bytes
    skeleton_bytes: int
    extra_bytes: int
    num_tensors: int
    digests_bytes: int

    def pack(self) -> bytes:
        return _HEAD.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> _Head:
        return cls(**dict(zip((f.name for f in fields(cls)), _HEAD.unpack(data), strict=True)))


def _image_digest(image: StateImage) -> bytes:
    """Return 16 bytes over the image's values and tensors: not over its skeleton, whose bytes may differ where its values do not."""
    state = xxhash.xxh3_128()
    for name, digest in image.digests:
        state.update(name.encode() + b"\n" + digest)
    for tensor in image.tensors:
        state.update(_LENGTH.pack(tensor.numel()))
        if tensor.numel():
            state.update(memory_of(tensor))
    return state.digest()


def send_state(
    group: Group,
    joiners: Sequence[int],
    sources: Sequence[int],
    image: StateImage,
    generation: int,
    round: int,
    extra: bytes,
) -> None:
    """Send this rank's stripe of the state to every joiner; blocks until they have it. `sources` hold equal state.

    The image's tensors are sent from where they lie. Skeleton and `extra` go from the first source. Raises GroupClosedError.
    """
    place = list(sources).index(group.rank)
    sizes = [tensor.numel() for tensor in image.tensors]
    digests = pickle.dumps(image.digests)
    head = _Head(
        generation=generation,
        round=round,
        digest=_image_digest(image),
        skeleton_bytes=len(image.skeleton),
        extra_bytes=len(extra),
        num_tensors=len(sizes),
        digests_bytes=len(digests),
    )
    table = struct.pack(f"<{len(sizes)}Q", *sizes)
    tail = image.skeleton + extra if place == 0 else b""
    stripe = [image.tensors[p.number][p.start : p.stop] for p in _stripe(sizes, place, len(sources))]
    fixed = [
        (Tag.STATE_HEAD, _tensor(head.pack())),
        (Tag.STATE_TABLE, _tensor(table)),
        (Tag.STATE_DIGESTS, _tensor(digests)),
        (Tag.STATE_SKELETON, _tensor(tail)),
    ]
    messages = [Message(data, joiner, tag) for joiner in joiners for tag, data in fixed if data.numel()]
    messages += [Message(data, joiner, Tag.STATE + i) for joiner in joiners for i, data in enumerate(stripe)]
    group.post(messages, []).wait()


def recv_state(group: Group, sources: Sequence[int], generation: int, round: int) -> tuple[StateImage, bytes]:
    """Receive the state from all sources; return it and the first source's `extra`.

    Raises StripeMismatchError where the stripes are not all of this generation and round; DriftError naming what differs where
    sources hold different state; GroupClosedError.
    """
    received = _receive(group, dict.fromkeys(sources, _HEAD.size), Tag.STATE_HEAD)
    heads = {source: _Head.unpack(data) for source, data in received.items()}
    tables = _receive(group, {s: _LENGTH.size * h.num_tensors for s, h in heads.items()}, Tag.STATE_TABLE)
    told = _receive(group, {s: h.digests_bytes for s, h in heads.items()}, Tag.STATE_DIGESTS)
    digests = {source: pickle.loads(data) for source, data in told.items()}  # noqa: S301  from fellow trainers of the same job
    _check_sources(heads, tables, digests, generation, round)
    first = heads[sources[0]]
    sizes = struct.unpack(f"<{first.num_tensors}Q", tables[sources[0]])
    tensors = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    stripes = [
        Message(tensors[piece.number][piece.start : piece.stop], source, Tag.STATE + i)
        for place, source in enumerate(sources)
        for i, piece in enumerate(_stripe(sizes, place, len(sources)))
    ]
    posted = group.post([], stripes)
    tail = _receive(group, {sources[0]: first.skeleton_bytes + first.extra_bytes}, Tag.STATE_SKELETON)[sources[0]]
    posted.wait()
    image = StateImage(skeleton=tail[: first.skeleton_bytes], tensors=tensors, digests=digests[sources[0]])
    if _image_digest(image) != first.digest:
        raise StripeMismatchError("the stripes together do not make the image that their sources hold")
    return image, tail[first.skeleton_bytes :]


def _check_sources(
    heads: dict[int, _Head],
    tables: dict[int, bytes],
    digests: dict[int, Sequence[tuple[str, bytes]]],
    generation: int,
    round: int,
) -> None:
    for source, head in heads.items():
        if (head.generation, head.round) != (generation, round):
            raise StripeMismatchError(
                f"rank {source} gives state of generation {head.generation}, round {head.round}; "
                f"wanted generation {generation}, round {round}"
            )
    (rank, one), *others = digests.items()
    for other, theirs in others:
        if heads[other].digest != heads[rank].digest or tables[other] != tables[rank]:
            raise DriftError(_sources_differ(rank, other, _differing(one, theirs)))


def _differing(one: Sequence[tuple[str, bytes]], other: Sequence[tuple[str, bytes]]) -> list[str]:
    """Return the names of what two trainers hold different bytes of, or what only one of them holds."""
    return sorted({name for name, _ in set(one) ^ set(other)}) or ["the order of what they hold"]


def _sources_differ(rank: int, other: int, names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"ranks {rank} and {other} hold different state at the same step, found as a trainer joins. It is in: "
        f"{', '.join(names[:4])}{more}"
    )


def send_merged(group: Group, dst: int, merged: Merged) -> None:
    """Give another member the merged vector it missed; blocks until it has it. Raises GroupClosedError."""
    layout: Layout = merged.layout
    head: NodeHead = (
        merged.weight,
        tuple(merged.scalars[name] for name in layout.scalars),
        merged.presence,
        merged.exact,
    )
    rows = {name: (tensor.shape[0], tensor.numpy().tobytes()) for name, tensor in merged.gathered.items()}
    data = pickle.dumps((merged.round, layout, head, merged.digest, rows))
    messages = [
        Message(_tensor(_LENGTH.pack(len(data))), dst, Tag.MERGED_LENGTH),
        Message(_tensor(data), dst, Tag.MERGED_HEAD),
    ]
    # whole before the buckets: those may go by another way, which does not move these meanwhile
    group.post(messages, []).wait()
    buckets = [Message(flat, dst, Tag.MERGED + i) for i, flat in enumerate(merged.buckets) if flat.numel()]
    group.post(buckets, []).wait()


def recv_merged(group: Group, src: int) -> Merged:
    """Receive what `send_merged` sends, into memory of its own. Raises GroupClosedError."""
    (length,) = _LENGTH.unpack(_receive(group, {src: _LENGTH.size}, Tag.MERGED_LENGTH)[src])
    data = _receive(group, {src: length}, Tag.MERGED_HEAD)[src]
    layout: Layout
    round, layout, head, digest, rows = pickle.loads(data)  # noqa: S301  from a fellow trainer, which runs the same user code
    buckets = [torch.empty(b.numel, dtype=b.dtype, device=group.device) for b in layout.buckets]
    group.post([], [Message(flat, src, Tag.MERGED + i) for i, flat in enumerate(buckets) if flat.numel()]).wait()
    weight, scalars, presence, exact = head
    return Merged(
        round=round, layout=layout, buckets=buckets, weight=weight,
        scalars=dict(zip(layout.scalars, scalars, strict=True)), presence=presence, exact=exact, digest=digest,
        gathered={g.name: _rows(g, *rows[g.name]) for g in layout.gathers},
    )  # fmt: skip


def _rows(gather: Gathered, num_rows: int, data: bytes) -> torch.Tensor:
    return _tensor(data).view(gather.dtype).view(num_rows, *gather.row_shape)


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _receive(group: Group, sizes: dict[int, int], tag: Tag) -> dict[int, bytes]:
    """Return this many bytes from each of these ranks."""
    into = {source: torch.empty(size, dtype=torch.uint8) for source, size in sizes.items()}
    group.post([], [Message(flat, source, tag) for source, flat in into.items() if flat.numel()]).wait()
    return {source: flat.numpy().tobytes() for source, flat in into.items()}
