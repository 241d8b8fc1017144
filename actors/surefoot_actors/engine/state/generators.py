"""Random generators of the user's own: their states, read and written."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["GENERATORS", "set_state", "state_of"]

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random, np.random.SeedSequence)
# Of numpy's: how many generators were made of this one, each of which has a seed of its own.
_SPAWNED = "spawned"

# The process's own, which every piece of code starts from a state of its own; they have no names.
_GLOBAL = (torch.default_generator, np.random.mtrand._rand, random._inst)


def state_of(generator: Any) -> Any:
    """Return the state of a generator; None for the process's own, for one without a state, and for what is no generator."""
    if any(generator is one for one in _GLOBAL):
        return None
    if isinstance(generator, torch.Generator):
        return bytes(generator.get_state().numpy()) if generator.device.type == "cpu" else None
    if isinstance(generator, np.random.SeedSequence):
        return _spawned(generator)
    if isinstance(generator, np.random.Generator):
        spawned, state = _spawned(_seeds_of(generator)), generator.bit_generator.state
        return {**state, _SPAWNED: spawned} if spawned else state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    # the system's own source has no state
    is_kept = isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom)
    return generator.getstate() if is_kept else None


def set_state(generator: Any, state: Any) -> None:
    """Put a generator where another was, of which `state_of` has told the state."""
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, np.random.SeedSequence):
        _spawn(generator, state)
    elif isinstance(generator, np.random.Generator):
        _spawn(_seeds_of(generator), state.get(_SPAWNED, 0))
        generator.bit_generator.state = {k: v for k, v in state.items() if k != _SPAWNED}
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _seeds_of(generator: np.random.Generator) -> Any:
    return getattr(generator.bit_generator, "_seed_seq", None)


def _spawned(seeds: Any) -> int:
    return int(getattr(seeds, "n_children_spawned", 0))


def _spawn(seeds: Any, num: int) -> None:
    """Make as many children of a sequence of seeds as there are elsewhere: nothing else sets its count, which only grows."""
    if num > _spawned(seeds):
        seeds.spawn(num - _spawned(seeds))
