"""The order of samples that goes through one block (a shard, as data is stored) after another, for data that is read by shards.

The blocks of an epoch come in a seeded order, each whole, its samples in a seeded order: a pure function of (seed, epoch) and the
blocks' sizes. So whoever reads the samples in order has one block open at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from surefoot.errors import ContractError
from surefoot_actors.engine.data.shuffle import Shuffle

__all__ = ["ByBlocks", "Size", "block_sizes", "check_order", "described_size"]

#: samples a block, or those of each block
Size = int | npt.NDArray[np.int64]

# Where datasets say how many samples each of their shards has: mosaicml-streaming's (a good name for your own, too), and wids'.
_KNOWN = ("samples_per_shard", "lengths")

# The stream that orders blocks; block number n has the stream n + 1.
_OF_BLOCKS = 0
_KEPT = 2


def check_order(sampler: Any, shuffle: Any, block_size: Any, line: str) -> None:
    """Raise ContractError, naming the line, for words that ask for no order, or for two."""
    if not (isinstance(shuffle, str) and shuffle in ("samples", "blocks")):
        raise ContractError(
            f'{line}: shuffle={shuffle!r:.40}; it is "samples", as usual, or "blocks": one shard after another. For the samples in '
            f"turn, give sampler=range(len(dataset))"
        )
    if shuffle == "samples" and block_size is not None:
        raise ContractError(f'{line}: block_size is of use with shuffle="blocks" alone; give both, or neither')
    if shuffle == "blocks" and sampler is not None:
        raise ContractError(f'{line}: sampler= and shuffle="blocks" are two orders of the samples; give one of them')


def block_sizes(dataset: Any, given: Any, line: str) -> Size:
    """Return the size of blocks: what the user gives as `block_size`, or what the dataset says. Raises ContractError for neither."""
    if given is None:
        given = next((found for name in _KNOWN if (found := getattr(dataset, name, None)) is not None), None)
        if given is None:
            raise ContractError(
                f'{line}: shuffle="blocks" needs to know the dataset\'s blocks, and {type(dataset).__name__} has none of '
                f"{' and '.join(_KNOWN)}; give block_size=, the number of samples in each shard: one number, or a list of one for each"
            )
    if isinstance(given, int | np.integer) and not isinstance(given, bool) and given > 0:
        return int(given)
    sizes = _as_numbers(given)
    if sizes is None:
        raise ContractError(
            f"{line}: block_size is {given!r:.80}; give a number of samples of at least 1, or a list of one number for each shard"
        )
    return sizes


def _as_numbers(given: Any) -> npt.NDArray[np.int64] | None:
    try:
        sizes = np.asarray(given)
    except (TypeError, ValueError):
        return None
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not len(sizes) or (sizes < 0).any():
        return None
    return sizes.astype(np.int64)


def described_size(size: Size) -> str:
    """Return what trainers must agree on; equal sizes have equal words."""
    if isinstance(size, int):
        return f"blocks of {size}"
    return f"{len(size)} blocks ({xxhash.xxh3_64_hexdigest(np.ascontiguousarray(size).data)})"


class _Epoch(NamedTuple):
    # the blocks in their order, and the position after the last sample of each
    blocks: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class ByBlocks:
    """Every sample once an epoch, block by block."""

    def __init__(self, size: Size, seed: int) -> None:
        self._size = size
        # each block's first sample
        self._starts = None if isinstance(size, int) else np.cumsum(size) - size
        self._shuffle = Shuffle(seed)
        self._kept: OrderedDict[tuple[int, int], _Epoch] = OrderedDict()

    def described(self, epoch: int) -> str:
        return described_size(self._size)

    def check(self, length: int, line: str) -> None:
        if not isinstance(self._size, int) and (total := int(self._size.sum())) != length:
            raise ContractError(
                f"{line}: the {len(self._size)} blocks have {total} samples, the dataset {length}; give the size of each block, all of them"
            )

    def num_samples(self, length: int) -> int:
        return length

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        one, pieces, at = self._epoch(length, epoch), [], start
        place = int(np.searchsorted(one.ends, start, side="right"))
        while at < stop:
            block, end = int(one.blocks[place]), int(one.ends[place])
            first, size = self._extent(length, block)
            inside, upto = at - (end - size), min(stop, end) - (end - size)
            if upto > inside:
                pieces.append(first + self._shuffle.indices(size, epoch, inside, upto, block + 1))
            at, place = max(at, min(stop, end)), place + 1
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _extent(self, length: int, block: int) -> tuple[int, int]:
        """Return a block's first sample, and how many it has."""
        if isinstance(self._size, int):
            return block * self._size, min(self._size, length - block * self._size)
        assert self._starts is not None
        return int(self._starts[block]), int(self._size[block])

    def _epoch(self, length: int, epoch: int) -> _Epoch:
        one = self._kept.get((length, epoch))
        if one is None:
            one = self._kept[length, epoch] = self._epoch_anew(length, epoch)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return one

    def _epoch_anew(self, length: int, epoch: int) -> _Epoch:
        num = -(-length // self._size) if isinstance(self._size, int) else len(self._size)
        blocks = self._shuffle.indices(num, epoch, 0, num, _OF_BLOCKS).numpy()
        return _Epoch(blocks, np.cumsum([self._extent(length, block)[1] for block in blocks.tolist()]))
