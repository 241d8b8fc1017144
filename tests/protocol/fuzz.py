"""Random ways through large worlds in which much goes wrong: `python tests/protocol/fuzz.py --minutes 60`.

A walk is a pure function of its seed: the bounds, how likely faults are, and every choice on the way. So what a violation prints is all
that is needed to see it again.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __package__ or TYPE_CHECKING:
    from .explore import Explorer, walk
    from .world import Bounds, Violation
else:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from protocol.explore import Explorer, walk
    from protocol.world import Bounds, Violation

__all__ = ["Walked", "draw", "fresh_seed", "go", "reproduction"]

FAULT_RATES = (0.02, 0.05, 0.1, 0.3)
# Walks of one world: so many go over the same bounds, since some violations are rare in the right ones.
WALKS_A_WORLD = 3


class Walked(NamedTuple):
    """What one seed came to."""

    walks: int
    moves: int


def draw(chance: random.Random) -> Bounds:
    """Draw the bounds of a large world."""
    return Bounds(
        trainers=chance.randint(1, 4),
        spares=chance.randint(0, 4),
        sub_tasks=chance.randint(4, 7),
        steps=tuple(chance.randint(1, 2) for _ in range(chance.randint(1, 4))),
        crashes=chance.randint(0, 4),
        freezes=chance.choice((0, 0, 1, 2, 3)),
        supervisor_crashes=chance.choice((0, 0, 1, 2, 3)),
        resizes=tuple(chance.randint(1, 4) for _ in range(chance.randint(0, 4))),
        doubles=chance.choice((0, 0, 1, 4)),
        breaks=chance.randint(0, 2),
        warm=chance.randint(0, 2),
        notices=chance.randint(0, 3),
        checkpoints=chance.randint(0, 3),
        damages=chance.randint(0, 2),
        saves=chance.random() < 0.5,
        pauses=chance.choice((0, 0, 1)),
        raises=chance.choice((0, 0, 1, 2, 3)),
        bug=chance.choice((None,) * 9 + ((chance.randint(0, 3), chance.randint(0, 3)),)),
        fine=chance.random() < 0.5,
        founded=chance.random() < 0.5,
    )


def fresh_seed() -> int:
    """Return a seed that nobody has tried."""
    return secrets.randbelow(2**48)


def go(seed: int) -> Walked:
    """Walk the world of this seed. Raises Violation, with how to see it again."""
    chance = random.Random(seed)
    bounds, fault = draw(chance), chance.choice(FAULT_RATES)
    # its own: interned numbers, and so the order of moves, hang on what an explorer has seen
    explorer, moves = Explorer(bounds), 0
    for _ in range(WALKS_A_WORLD):
        try:
            moves += walk(explorer, chance, fault)
        except Violation as violation:
            violation.args = (f"{violation.args[0]}\n{reproduction(seed, bounds)}",)
            raise
    return Walked(WALKS_A_WORLD, moves)


def reproduction(seed: int, bounds: Bounds) -> str:
    return f"to see it again: python tests/protocol/fuzz.py --seed {seed} --worlds 1\n(bounds {bounds})"


def main() -> int:
    """Walk until the time is over, or as many worlds as are asked for. Return 1 if an invariant broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first world; the next ones have the next seeds")
    parser.add_argument("--worlds", type=int, default=None, help="so many at most")
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation")
    asked = parser.parse_args()
    first = fresh_seed() if asked.seed is None else asked.seed
    print(f"walking from seed {first}", flush=True)
    until, worlds, walks, moves, broken = time.monotonic() + 60 * asked.minutes, 0, 0, 0, 0
    told = time.monotonic()
    while time.monotonic() < until and (asked.worlds is None or worlds < asked.worlds):
        try:
            walked = go(first + worlds)
            walks, moves = walks + walked.walks, moves + walked.moves
        except Violation as violation:
            broken += 1
            print(violation, flush=True)
        worlds += 1
        if broken and not asked.keep_going:
            break
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{worlds} worlds, {walks} walks, {moves} moves, {broken} violations so far", flush=True)
    print(f"{worlds} worlds, {walks} walks, {moves} moves from seed {first}: {broken} violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
