"""Rows that sub-tasks gather (predictions, say): every trainer gets all of them, in the order of the sub-tasks."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import torch

from surefoot_actors.engine.types import Layout, Node, Range

__all__ = ["Rows", "join_rows", "own_rows", "pack_rows", "read_rows"]

_NUM_ROWS = struct.Struct("<Q")

Rows = tuple[torch.Tensor, ...]
"""What one node has gathered: one tensor a name, in the layout's order."""


def own_rows(nodes: Mapping[Range, Node]) -> dict[Range, Rows]:
    """Return what nodes have gathered."""
    return {range_: node.gathered for range_, node in nodes.items()}


def join_rows(rows: Mapping[Range, Rows], layout: Layout) -> dict[str, torch.Tensor]:
    """Return all rows by name, in the order of the sub-tasks, in memory of their own."""
    ordered = [rows[range_] for range_ in sorted(rows)]
    return {gather.name: torch.cat([own[i] for own in ordered]) for i, gather in enumerate(layout.gathers)}


def pack_rows(rows: Mapping[Range, Rows]) -> bytes:
    """Return rows as bytes: for each node, ascending, and each name, their number and content."""
    return b"".join(
        _NUM_ROWS.pack(tensor.shape[0]) + tensor.numpy().tobytes() for range_ in sorted(rows) for tensor in rows[range_]
    )


def read_rows(data: bytes, ranges: Sequence[Range], layout: Layout) -> dict[Range, Rows]:
    """Read what `pack_rows` made of the nodes with these ranges, ascending."""
    found, at = {}, 0
    for range_ in ranges:
        rows = []
        for gather in layout.gathers:
            (num_rows,) = _NUM_ROWS.unpack_from(data, at)
            stop = at + _NUM_ROWS.size + num_rows * gather.row_bytes
            flat = torch.frombuffer(bytearray(data[at + _NUM_ROWS.size : stop] or b"\0"), dtype=torch.uint8)
            rows.append(flat[: num_rows * gather.row_bytes].view(gather.dtype).view(num_rows, *gather.row_shape))
            at = stop
        found[range_] = tuple(rows)
    return found
