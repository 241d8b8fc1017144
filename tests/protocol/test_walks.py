"""Beyond what can be visited whole: random ways through large worlds in which much goes wrong. For longer: `make fuzz`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import explore
from .fuzz import fresh_seed, go
from .world import Bounds, Move, Violation, World

FIXED = 20_261_126
WORLDS = 125


@pytest.mark.parametrize("seed", [FIXED, fresh_seed()], ids=["fixed", "fresh"])
def test_every_way_comes_to_its_end(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{WORLDS} worlds from seed {seed}")
    for number in range(seed, seed + WORLDS):
        go(number)


def test_a_violation_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_at_once(self: explore.Explorer, world: World) -> list[Move]:
        raise Violation("I0: as told")

    monkeypatch.setattr(explore.Explorer, "moves", break_at_once)
    with pytest.raises(Violation) as raised:
        go(FIXED)
    assert f"fuzz.py --seed {FIXED} --worlds 1" in str(raised.value)
    assert "Bounds(trainers=" in str(raised.value)


@pytest.mark.process
def test_a_walk_is_a_function_of_its_seed_in_every_process() -> None:
    """Whatever the order of sets in a process is, and whatever it has walked before."""
    go(FIXED + 7)
    program = Path(__file__).with_name("fuzz.py")
    told = {
        subprocess.run(
            [sys.executable, str(program), "--seed", str(FIXED), "--worlds", "5", "--minutes", "5"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    here = sum(go(FIXED + k).moves for k in range(5))
    assert len(told) == 1
    assert f" {here} moves " in told.pop()


def test_bounds_are_drawn_from_the_seed() -> None:
    from random import Random

    from .fuzz import draw

    assert draw(Random(FIXED)) == draw(Random(FIXED))
    assert isinstance(draw(Random(FIXED)), Bounds)
