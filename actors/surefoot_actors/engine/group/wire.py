"""What a group carries: messages between two ranks, and the tags that keep them apart."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch

__all__ = ["Message", "Tag"]


class Message(NamedTuple):
    """One flat contiguous tensor to or from another rank. Both ends know its size; one of no bytes is never sent."""

    tensor: torch.Tensor
    peer: int
    tag: int


class Tag(IntEnum):
    """The first tag of each kind of message; those of one kind to one peer are numbered from it.

    Kinds never share tags, so that their order does not matter.
    """

    HEADER = 0
    LAYOUT = 1
    AGREED_HEADER = 2
    MERGED_LENGTH = 3
    MERGED_HEAD = 4
    STATE_HEAD = 5
    STATE_TABLE = 6
    STATE_SKELETON = 7
    NCCL_STORE = 8
    STATE_DIGESTS = 9
    GATHERED = 10
    TABLE_BYTES = 11
    TABLE = 12
    CHUNKS = 1_000_000
    PART = 2_000_000
    MEAN = 3_000_000
    MERGED = 4_000_000
    STATE = 5_000_000
