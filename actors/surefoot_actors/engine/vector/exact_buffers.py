"""Buffers that cannot be averaged: how a node carries them, and how two nodes' become one.

A sub-task that leaves such a buffer alone has no say: what the others wrote counts, as in a model that skips a layer now and then.
Those that wrote it must agree, unless one process would have had the largest or smallest: counters of batches, an observer's extremes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch

from surefoot.errors import ContractError

__all__ = ["HEADER_BYTES", "Rule", "combine", "first_conflict", "header", "unpack"]


class Rule(IntEnum):
    """How a buffer's values of several sub-tasks become one."""

    MEAN = 0  # in the vector's buckets, like gradients
    EQUAL = 1
    LARGEST = 2
    SMALLEST = 3
    # not at all: computed anew from other buffers once those are merged
    DERIVED = 4


class Segment(NamedTuple):
    """One buffer's part of a node's exact bytes."""

    rule: int
    written: bool
    dtype: torch.dtype
    value: bytes


_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
# rule, written, dtype, bytes of the value
_HEADER = struct.Struct("<BBBxI")
HEADER_BYTES = _HEADER.size


def header(rule: Rule, written: bool, dtype: torch.dtype, size: int) -> bytes:
    """Return what stands before a buffer's value of so many bytes."""
    return _HEADER.pack(rule, written, _CODES[dtype], size)


def unpack(exact: bytes) -> list[Segment]:
    """Read headers and values, one after the other."""
    return list(_segments(exact))


def _segments(exact: bytes) -> Iterator[Segment]:
    at = 0
    while at < len(exact):
        rule, written, code, size = _HEADER.unpack_from(exact, at)
        at += HEADER_BYTES
        yield Segment(rule, bool(written), _DTYPES[code], exact[at : at + size])
        at += size


def first_conflict(one: bytes, other: bytes) -> int | None:
    """Return the number of the first buffer that two nodes do not agree on, if there is one."""
    if one == other:
        return None
    return next(
        (i for i, (a, b) in enumerate(zip(_segments(one), _segments(other), strict=True)) if _conflict(a, b)), None
    )


def _conflict(a: Segment, b: Segment) -> bool:
    return a.rule == Rule.EQUAL and a.written and b.written and a.value != b.value


def combine(one: bytes, other: bytes) -> bytes:
    """Return the exact bytes of two nodes together: the same in whatever order many are combined.

    Raises ContractError where they do not agree.
    """
    if one == other:
        return one
    parts = []
    for a, b in zip(_segments(one), _segments(other), strict=True):
        if _conflict(a, b):
            raise ContractError(
                "an integer buffer differs between sub-tasks: integer and bool buffers written in a sub-task must end "
                "equal in all that write them, as they cannot be averaged; keep what depends on the data out of them"
            )
        value = _extreme(a, b) if a.rule in (Rule.LARGEST, Rule.SMALLEST) else a.value if a.written else b.value
        parts += [_HEADER.pack(a.rule, a.written or b.written, _CODES[a.dtype], len(value)), value]
    return b"".join(parts)


def _extreme(a: Segment, b: Segment) -> bytes:
    one, other = (torch.frombuffer(bytearray(s.value), dtype=s.dtype) for s in (a, b))
    extreme = torch.maximum(one, other) if a.rule == Rule.LARGEST else torch.minimum(one, other)
    return extreme.view(torch.uint8).numpy().tobytes()
