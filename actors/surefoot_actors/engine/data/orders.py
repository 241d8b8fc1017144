"""The order of samples: shuffled, or what the user gives as `sampler`. Each is a pure function of (seed, epoch) and the length."""

from __future__ import annotations

import copy
import random
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import xxhash
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose, stream_key
from surefoot_actors.engine.data.block_order import ByBlocks, block_sizes, described_size
from surefoot_actors.engine.data.changes import Survey, compare, survey
from surefoot_actors.engine.data.shuffle import Shuffle, uniform

__all__ = ["Order", "Orders", "Shuffled"]

# The epoch that stands for all, where a sampler's epochs are counted and tried.
_FIRST = 0
_KEPT = 2

# What can be gone through, but in no order, or to no numbers.
_NO_ORDER = (str, bytes, dict, set, frozenset)
_LOOK_AT = 2000
_LOOK_BYTES = 1 << 20


class Order(Protocol):
    """Which samples an epoch has, in which order."""

    def described(self, epoch: int) -> str:
        """Return what trainers must agree on; "" for the usual order."""

    def check(self, length: int, line: str) -> None:
        """Raise ContractError, naming the line, where it does not fit a dataset of this length."""

    def num_samples(self, length: int) -> int:
        """Return how many samples an epoch has."""

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        """Return the samples (int64) at positions [start, stop) of an epoch."""


class Orders:
    """Makes orders of what users give as `sampler`, and knows them again: it is often another object of the same content."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.usual = Shuffled(seed)
        self._known: OrderedDict[str, tuple[Survey, Order]] = OrderedDict()
        self._by_blocks: OrderedDict[str, ByBlocks] = OrderedDict()

    def of(self, sampler: Any, line: str) -> Order:
        """Return the order. Raises ContractError for what is none."""
        if sampler is None:
            return self.usual
        look = survey((sampler,), limit=_LOOK_AT, most_bytes=_LOOK_BYTES)
        known = self._known.get(line)
        # tensors have versions, other large things may have been changed in place
        if (
            known is not None
            and not (look.partial and not isinstance(sampler, torch.Tensor))
            and compare(known[0], look) == []
        ):
            return known[1]
        order = _order(sampler, self._seed, line) or self.usual
        # kept as it was before it ran
        self._known[line] = (look, order)
        if len(self._known) > 8:
            self._known.popitem(last=False)
        return order

    def by_blocks(self, dataset: Any, block_size: Any, line: str) -> Order:
        """Return the order that goes through the dataset block by block. Raises ContractError where they are not known."""
        size = block_sizes(dataset, block_size, line)
        words = described_size(size)
        order = self._by_blocks.get(words)
        if order is None:
            order = self._by_blocks[words] = ByBlocks(size, self._seed)
            if len(self._by_blocks) > 8:
                self._by_blocks.popitem(last=False)
        return order


class Shuffled:
    """Every sample once an epoch, in a seeded permutation."""

    def __init__(self, seed: int) -> None:
        self._shuffle = Shuffle(seed)

    def described(self, epoch: int) -> str:
        return ""

    def check(self, length: int, line: str) -> None:
        """It fits any dataset."""

    def num_samples(self, length: int) -> int:
        return length

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        return self._shuffle.indices(length, epoch, start, stop)


class InTurn:
    """Every sample once an epoch, or every one of a range, in its order."""

    def __init__(self, numbers: range | None) -> None:
        self._numbers = numbers

    def described(self, epoch: int) -> str:
        return "in turn" if self._numbers is None else str(self._numbers)

    def check(self, length: int, line: str) -> None:
        if self._numbers is not None:
            if not len(self._numbers):
                raise _none(line)
            _check_bounds(min(self._numbers), max(self._numbers), length, line)

    def num_samples(self, length: int) -> int:
        return length if self._numbers is None else len(self._numbers)

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        numbers = range(length) if self._numbers is None else self._numbers
        return numbers.start + numbers.step * torch.arange(start, stop)


class Listed:
    """The samples of a list, the same in every epoch."""

    def __init__(self, samples: np.ndarray[Any, Any]) -> None:
        self._samples = torch.from_numpy(samples.astype(np.int64))
        self._description = f"{len(samples)} indices ({_digest(self._samples.numpy())})"

    def described(self, epoch: int) -> str:
        return self._description

    def check(self, length: int, line: str) -> None:
        if not len(self._samples):
            raise _none(line)
        _check_bounds(int(self._samples.min()), int(self._samples.max()), length, line)

    def num_samples(self, length: int) -> int:
        return len(self._samples)

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        return self._samples[start:stop]


class Weighted:
    """Samples drawn by weight, with replacement: a sum of weights is kept, and no draws."""

    def __init__(self, weights: np.ndarray[Any, Any], num_samples: int | None, seed: int, line: str) -> None:
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise ContractError(
                f"{line}: sampler= was given weights of shape {weights.shape} that are not one finite number of at least 0 for "
                f"each sample, one of them above 0"
            )
        self._sums = np.cumsum(weights, dtype=np.float64)
        self._last = int(np.nonzero(weights)[0][-1])
        self._num, self._seed = num_samples, seed
        self._description = f"{num_samples or len(weights)} draws by weights ({_digest(weights)})"

    def described(self, epoch: int) -> str:
        return self._description

    def check(self, length: int, line: str) -> None:
        if len(self._sums) != length:
            raise ContractError(
                f"{line}: sampler= has {len(self._sums)} weights, the dataset {length} samples; give one for each"
            )

    def num_samples(self, length: int) -> int:
        return self._num or length

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        drawn = uniform(stream_key(self._seed, Purpose.ORDER, epoch, self.num_samples(length)), start, stop)
        found = np.searchsorted(self._sums, drawn * self._sums[-1], side="right")
        return torch.from_numpy(np.minimum(found, self._last))


class _Epoch(NamedTuple):
    samples: torch.Tensor
    least: int
    most: int
    digest: str


class Drawn:
    """What a function or a sampler object of the user's says, an epoch at a time."""

    def __init__(self, draw: Callable[[int], Any], seed: int, line: str) -> None:
        self._draw, self._seed, self._line = draw, seed, line
        self._kept: OrderedDict[int, _Epoch] = OrderedDict()
        self._first = self._epoch_anew(_FIRST)
        if self._first.digest != self._epoch_anew(_FIRST).digest:
            raise ContractError(
                f"{line}: sampler= gives other samples when it is asked for the same epoch again. It has to be a pure function of "
                f"(seed, epoch), as every trainer asks its own: draw from a generator seeded by both, or from torch's, numpy's or "
                f"Python's global one, which are seeded for it, and keep nothing from one epoch to the next"
            )

    def described(self, epoch: int) -> str:
        one = self._epoch(epoch)
        return f"{len(one.samples)} chosen samples ({one.digest})"

    def check(self, length: int, line: str) -> None:
        self._line = line
        _check_bounds(self._first.least, self._first.most, length, line)

    def num_samples(self, length: int) -> int:
        return len(self._first.samples)

    def indices(self, length: int, epoch: int, start: int, stop: int) -> torch.Tensor:
        one = self._epoch(epoch)
        _check_bounds(one.least, one.most, length, self._line)
        return one.samples[start:stop]

    def _epoch(self, number: int) -> _Epoch:
        if number == _FIRST:
            return self._first
        one = self._kept.get(number)
        if one is None:
            one = self._kept[number] = self._epoch_anew(number)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            if len(one.samples) != len(self._first.samples):
                raise ContractError(
                    f"{self._line}: sampler= gives {len(one.samples)} samples in epoch {number} and {len(self._first.samples)} in the "
                    f"first; all epochs need as many, so that any trainer knows where one begins without going through those before"
                )
        return one

    def _epoch_anew(self, epoch: int) -> _Epoch:
        key = stream_key(self._seed, Purpose.ORDER, epoch, 0)
        with _seeded(key):
            samples = _numbers(self._draw(epoch))
        if not samples.size:
            raise _none(self._line)
        if samples.ndim != 1 or samples.dtype.kind not in "iu":
            raise ContractError(
                f"{self._line}: sampler= gave {samples.dtype} of shape {samples.shape} for an epoch; give one list of sample numbers"
            )
        samples = samples.astype(np.int64)
        return _Epoch(torch.from_numpy(samples), int(samples.min()), int(samples.max()), _digest(samples))


def _order(sampler: Any, seed: int, line: str) -> Order | None:
    """Return the order that a sampler stands for; None for the usual one."""
    if isinstance(sampler, DistributedSampler):
        raise ContractError(
            f"{line}: sampler= was given a DistributedSampler, but Surefoot itself divides each batch among the trainers there are; "
            f"leave it out, as samples are shuffled anew in every epoch"
        )
    if isinstance(sampler, BatchSampler):
        raise ContractError(
            f"{line}: sampler= was given a BatchSampler, but the size of a batch is the job's batch_size; give the sampler inside it"
        )
    if isinstance(sampler, SequentialSampler):
        return InTurn(None)
    if isinstance(sampler, range):
        return InTurn(sampler)
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source):
        return None
    if type(sampler) is WeightedRandomSampler and sampler.replacement:
        return Weighted(sampler.weights.numpy(), sampler.num_samples, seed, line)
    if isinstance(sampler, torch.Tensor | np.ndarray | list | tuple):
        return _of_numbers(_numbers(sampler), seed, line)
    if callable(sampler):
        return Drawn(lambda epoch: sampler(seed, epoch), seed, line)
    if hasattr(sampler, "__iter__") and not (hasattr(sampler, "__next__") or isinstance(sampler, _NO_ORDER)):
        return Drawn(lambda epoch: _iterated(sampler, epoch), seed, line)
    raise ContractError(
        f"{line}: sampler= was given a {type(sampler).__name__}; give weights (floats, one for each sample), sample numbers (integers), "
        f"a sampler of torch.utils.data, or a function of (seed, epoch) that returns sample numbers"
    )


def _of_numbers(numbers: np.ndarray[Any, Any], seed: int, line: str) -> Order:
    if numbers.dtype.kind == "f":
        return Weighted(numbers, None, seed, line)
    if numbers.dtype.kind in "iu" and numbers.ndim == 1:
        return Listed(numbers)
    raise ContractError(
        f"{line}: sampler= was given {numbers.dtype} of shape {numbers.shape}; give weights (floats) or sample numbers (integers), in "
        f"one dimension"
    )


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value if isinstance(value, np.ndarray) else list(value))


def _iterated(sampler: Any, epoch: int) -> list[int]:
    """Return a sampler object's samples of an epoch, drawn from a generator that is seeded for it. The object stays as it is."""
    own = copy.copy(sampler)
    if callable(getattr(own, "set_epoch", None)):
        own.set_epoch(epoch)
    if isinstance(getattr(own, "generator", None), torch.Generator):
        own.generator = torch.Generator().manual_seed(torch.initial_seed())
    return [int(i) for i in own]


@contextmanager
def _seeded(key: bytes) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python within, and leave them as they were."""
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    high, low = struct.unpack("<QQ", key)
    torch.default_generator.manual_seed(high)
    np.random.seed(low & 0xFFFFFFFF)
    random.seed(low)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _digest(values: np.ndarray[Any, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _check_bounds(least: int, most: int, length: int, line: str) -> None:
    if least < 0 or most >= length:
        raise ContractError(
            f"{line}: sampler= gives sample {least if least < 0 else most}, but the dataset has {length}, numbered from 0"
        )


def _none(line: str) -> ContractError:
    return ContractError(f"{line}: sampler= gives no samples, so there is nothing to take batches from")
