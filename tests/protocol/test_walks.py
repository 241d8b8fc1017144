"""Beyond what can be visited whole: random ways through large worlds in which much goes wrong."""

from __future__ import annotations

import random
from functools import lru_cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .explore import Explorer, walk
from .world import Bounds

worlds = st.builds(
    Bounds,
    trainers=st.integers(1, 4),
    spares=st.integers(0, 4),
    sub_tasks=st.integers(4, 7),
    steps=st.lists(st.integers(1, 2), min_size=1, max_size=4).map(tuple),
    crashes=st.integers(0, 4),
    freezes=st.integers(0, 3),
    supervisor_crashes=st.integers(0, 3),
    resizes=st.lists(st.integers(1, 4), max_size=4).map(tuple),
    doubles=st.integers(0, 4),
    breaks=st.integers(0, 2),
    warm=st.integers(0, 2),
    notices=st.integers(0, 3),
    checkpoints=st.integers(0, 3),
    damages=st.integers(0, 2),
    saves=st.booleans(),
    pauses=st.integers(0, 1),
    fine=st.booleans(),
    founded=st.booleans(),
)


@lru_cache(maxsize=8)
def explorer(bounds: Bounds) -> Explorer:
    return Explorer(bounds)


@given(bounds=worlds, seed=st.integers(0, 2**32), fault=st.sampled_from([0.02, 0.05, 0.1, 0.3]))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_way_comes_to_its_end(bounds: Bounds, seed: int, fault: float) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        walk(explorer(bounds), chance, fault)
