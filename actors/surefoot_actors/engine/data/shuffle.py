"""Permutations: of a small dataset as a list, of a large one position by position, in memory that does not grow with it.

The large ones are a Feistel network over the smallest power of two that holds the dataset: a bijection whatever its round function.
Where it leads out of the dataset it is followed on until it leads back in (cycle walking: Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002), which keeps it one. The values are part of the promise.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from surefoot_actors.determinism.rng import Purpose, stream_key

__all__ = ["LARGEST_LIST", "Shuffle", "permute", "uniform"]

#: samples; larger datasets are permuted position by position
LARGEST_LIST = 1 << 16

# Positions that are computed at a time, as the price is that of some sixty calls of numpy, whatever their number.
_BLOCK = 1 << 12

# Epochs, or blocks, that are kept: what two datasets need whose batches straddle epochs.
_KEPT = 4

_ROUNDS = 8
_Numbers = npt.NDArray[np.uint64]


class Shuffle:
    """The seeded permutations of each epoch."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()

    def indices(self, length: int, epoch: int, start: int, stop: int, *of: int) -> torch.Tensor:
        """Return the samples (int64) at positions [start, stop) of an epoch. `of`: numbers that name another permutation."""
        size = length if length <= LARGEST_LIST else _BLOCK
        pieces = []
        for number in range(start // size, -(-stop // size)):
            block = self._block(length, epoch, number, of)
            pieces.append(block[max(start - number * size, 0) : stop - number * size])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _block(self, length: int, epoch: int, number: int, of: tuple[int, ...]) -> torch.Tensor:
        block = self._kept.get((length, epoch, number, *of))
        if block is None:
            key = stream_key(self._seed, Purpose.ORDER, epoch, length, *of)
            if length <= LARGEST_LIST:
                generator = torch.Generator().manual_seed(struct.unpack("<Q", key[:8])[0])
                block = torch.randperm(length, generator=generator)
            else:
                positions = np.arange(number * _BLOCK, min((number + 1) * _BLOCK, length), dtype=np.uint64)
                block = torch.from_numpy(permute(positions, length, key).astype(np.int64))
            self._kept[(length, epoch, number, *of)] = block
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return block


def permute(positions: _Numbers, length: int, key: bytes) -> _Numbers:
    """Return where a permutation of range(length) has each position; the key (16 bytes) names the permutation."""
    bits = max(length - 1, 3).bit_length()
    keys = _round_keys(key)
    values = _encipher(positions, bits, keys)
    while True:
        (outside,) = np.nonzero(values >= length)
        if not len(outside):
            return values
        values[outside] = _encipher(values[outside], bits, keys)


def uniform(key: bytes, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Return the numbers in [0, 1) at positions [start, stop) of the stream that the key (16 bytes) names."""
    (number,) = struct.unpack("<Q", key[:8])
    mixed = _mix(
        _mix(np.arange(start, stop, dtype=np.uint64), np.uint64(number)), np.uint64(number ^ 0x9E3779B97F4A7C15)
    )
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _round_keys(key: bytes) -> list[np.uint64]:
    return [np.uint64(xxhash.xxh3_64_intdigest(key, seed=i)) for i in range(_ROUNDS)]


def _encipher(values: _Numbers, bits: int, keys: list[np.uint64]) -> _Numbers:
    """Map range(2**bits) onto itself: the halves, of about equal width, are changed in turn by a hash of the other."""
    low_bits = bits // 2
    low_mask, high_mask = np.uint64((1 << low_bits) - 1), np.uint64((1 << (bits - low_bits)) - 1)
    low, high = values & low_mask, values >> np.uint64(low_bits)
    for i, key in enumerate(keys):
        if i % 2:
            low = low ^ (_mix(high, key) & low_mask)
        else:
            high = high ^ (_mix(low, key) & high_mask)
    return (high << np.uint64(low_bits)) | low


def _mix(values: _Numbers, key: np.uint64) -> _Numbers:
    """Hash 64-bit numbers (the finalizer of splitmix64)."""
    mixed = values + key
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
