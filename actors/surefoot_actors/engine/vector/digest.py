"""Chunks, layouts and their hashes: functions of what a vector is, never of who holds it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import torch
import xxhash

from surefoot_actors.engine.types import Bucket, Gathered, Layout, Node
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of

__all__ = [
    "DIGEST_BYTES",
    "chunk_digests",
    "chunk_numel",
    "layout_signature",
    "leaf_digest",
    "make_layout",
    "merged_digest",
    "without_source",
]

DIGEST_BYTES = 16

_MIN_CHUNK_BYTES = 16 * 1024
_MAX_CHUNK_BYTES = 256 * 1024
# A bucket has about this many chunks until they reach the largest size: enough to cut into even slices.
_CHUNKS_WANTED = 64


def chunk_numel(numel: int, dtype: torch.dtype) -> int:
    """Return how many elements a chunk of a bucket of `numel` elements has: a power of two of bytes, 16 to 256 KiB."""
    wanted = max(1, numel * dtype.itemsize // _CHUNKS_WANTED)
    chunk_bytes = min(max(1 << (wanted - 1).bit_length(), _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES)
    return chunk_bytes // dtype.itemsize


def without_source(line: str) -> str:
    """Return a description line without its "  # file:line", which may differ where the layout does not."""
    return line.partition("  # ")[0]


def make_layout(
    *,
    buckets: Iterable[tuple[torch.dtype, int]],
    num_presence: int,
    scalars: Sequence[str],
    exact_bytes: int,
    description: Sequence[str],
    gathers: Sequence[Gathered] = (),
    identity: bytes = b"",
) -> Layout:
    """Return the layout of vectors with these buckets (accumulation dtype, numel).

    `identity` is whatever else must be equal on every trainer. Lines of `description` may end in "  # file:line".
    """
    cut = tuple(Bucket(dtype=dtype, numel=numel, chunk_numel=chunk_numel(numel, dtype)) for dtype, numel in buckets)
    names = tuple(scalars)
    lines = (
        *description,
        *(f"gather {g.name} {str(g.dtype).removeprefix('torch.')}{list(g.row_shape)}" for g in gathers),
    )
    return Layout(
        buckets=cut,
        num_presence=num_presence,
        scalars=names,
        exact_bytes=exact_bytes,
        gathers=tuple(gathers),
        description=lines,
        signature=layout_signature(cut, num_presence, names, exact_bytes, lines, identity),
    )


def layout_signature(
    buckets: Sequence[Bucket],
    num_presence: int,
    scalars: Sequence[str],
    exact_bytes: int,
    description: Sequence[str],
    identity: bytes,
) -> bytes:
    """Return 16 bytes over all that makes a layout, source lines excluded."""
    cut = [(str(b.dtype), b.numel, b.chunk_numel) for b in buckets]
    lines = [without_source(line) for line in description]
    text = repr((cut, num_presence, list(scalars), exact_bytes, lines, identity))
    return xxhash.xxh3_128_digest(text.encode())


def chunk_digests(flat: torch.Tensor, chunk: int) -> bytes:
    """Return the joined 16-byte hashes of the chunks of a flat contiguous tensor, read in place.

    `chunk` is in elements. A tensor on another device is copied to the host first.
    """
    memory = memory_of(flat.detach().cpu().view(torch.uint8))
    step = chunk * flat.dtype.itemsize
    digest = xxhash.xxh3_128_digest
    return b"".join([digest(memory[at : at + step]) for at in range(0, len(memory), step)])


def merged_digest(
    chunks: Iterable[bytes],
    *,
    scalars: Sequence[float],
    weight: float,
    presence: int,
    num_presence: int,
    exact: bytes,
    gathered: Iterable[torch.Tensor] = (),
) -> bytes:
    """Return the 16-byte digest of a merged vector: over chunk digests in order, scalars, weight, presence, exact, gathered rows."""
    state = xxhash.xxh3_128()
    for part in chunks:
        state.update(part)
    state.update(struct.pack(f"<{len(scalars) + 1}d", *scalars, weight))
    state.update(presence.to_bytes(-(-num_presence // 8), "little"))
    state.update(exact)
    for rows in gathered:
        state.update(struct.pack("<q", rows.shape[0]))
        if rows.numel():
            state.update(memory_of(rows.view(-1).view(torch.uint8)))
    return state.digest()


def leaf_digest(leaf: Node) -> bytes:
    """Return 16 bytes over all that a sub-task gives the merge."""
    state = xxhash.xxh3_128()
    for tensor in (*leaf.buckets, *leaf.gathered):
        state.update(memory_of(flat_bytes(tensor.cpu())))
    state.update(repr((leaf.weight, leaf.scalars, leaf.presence, leaf.exact)).encode())
    return state.digest()
