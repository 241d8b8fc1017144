"""Random streams: every piece of code that a trainer runs starts from a state that depends on what it is, never on who runs it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
import xxhash

__all__ = ["Purpose", "Streams", "drawn", "stream_key"]


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of the promise: never change one."""

    SETUP = 0  # the train function, before its first step
    OUTSIDE = 1  # at a step's start and after each round, on every trainer alike
    LOAD = 2  # `__getitem__` and `collate`, inline and in data workers
    COMPUTE = 3  # the user's code in a sub-task
    ORDER = 4  # the permutation of an epoch
    IMPORT = 5  # the execution of a user's module, named by its name


def stream_key(seed: int, purpose: Purpose, *where: int) -> bytes:
    """Return the 16 bytes that name a stream: a hash of the job's seed, the purpose and up to four numbers, each below 2**63."""
    return xxhash.xxh3_128_digest(struct.pack(f"<{len(where) + 2}q", seed, purpose, *where))


def drawn() -> bytes:
    """Return a digest of how far the random streams of this process are."""
    name, keys, *rest = np.random.get_state(legacy=True)
    plain = repr((name, rest, random.getstate()[1:])).encode()
    return xxhash.xxh3_128_digest(
        torch.default_generator.get_state().numpy().tobytes() + np.asarray(keys).tobytes() + plain
    )


class Streams:
    """Seeds torch (CPU and device), numpy's global state and `random`, in about 20 microseconds."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = None if device.type == "cpu" else torch.get_device_module(device)
        # what the device was seeded with last
        self._high = 0

    @contextmanager
    def aside(self, purpose: Purpose, *where: int) -> Iterator[None]:
        """Start a stream for the duration of the block; every generator is then where it was."""
        states = (torch.default_generator.get_state(), np.random.get_state(), random.getstate())
        device = self._device.get_rng_state() if self._device is not None else None
        self.start(purpose, *where)
        try:
            yield
        finally:
            torch.default_generator.set_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if self._device is not None:
                self._device.set_rng_state(device)

    def start(self, purpose: Purpose, *where: int) -> None:
        """Put every generator of this process at the start of a stream."""
        high, low = struct.unpack("<QQ", stream_key(self._seed, purpose, *where))
        torch.default_generator.manual_seed(high)
        if self._device is not None:
            self._high = high
            self._device.manual_seed(high)
        np.random.seed(low & 0xFFFFFFFF)
        random.seed(low)

    @contextmanager
    def importing(self, module: str) -> Iterator[None]:
        """Execute a user's module under the stream that its name gives it; afterwards every generator is where it was before.

        So what a module draws as it is imported depends on the seed and its name alone: not on who imports it, when, or after what.
        """
        states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        high, on_device = self._high, self._device_state()
        self.start(Purpose.IMPORT, xxhash.xxh3_64_intdigest(module.encode()) >> 1)
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            self._restore_device(on_device, high)

    def _device_state(self) -> torch.Tensor | None:
        if self._device is None or not self._device.is_initialized():
            return None
        state: torch.Tensor = self._device.get_rng_state()
        return state

    def _restore_device(self, state: torch.Tensor | None, high: int) -> None:
        if self._device is None:
            return
        self._high = high
        if state is not None:
            self._device.set_rng_state(state)
        else:  # nothing had been drawn since it was seeded: it was not even initialized
            self._device.manual_seed(high)
