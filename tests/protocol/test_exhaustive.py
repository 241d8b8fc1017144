"""Everything that can happen within bounds, visited: no invariant breaks, and from everywhere the run comes to its end."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import pytest

from .explore import Explored
from .explore import explore as explore_with
from .machines import Machines
from .world import Bounds

# What they answer is the same within all bounds.
MACHINES = Machines()


def explore(bounds: Bounds) -> Explored:
    return explore_with(bounds, machines=MACHINES)


BOUNDS: dict[str, Bounds] = {
    "nothing goes wrong": Bounds(trainers=3, steps=(1, 2), fine=True),
    "a crash, sub-task by sub-task": Bounds(trainers=2, sub_tasks=4, steps=(1, 2), crashes=1, fine=True),
    "a crash among three": Bounds(trainers=3, sub_tasks=3, steps=(1, 2), crashes=1),
    "two crashes among three": Bounds(trainers=3, sub_tasks=3, steps=(1,), crashes=2),
    "a crash, and a replacement": Bounds(trainers=2, spares=1, steps=(1, 2), crashes=1),
    "a crash while founding": Bounds(trainers=2, spares=1, crashes=1, founded=False),
    "two crashes, replaced": Bounds(trainers=2, spares=2, crashes=2, steps=(1,)),
    "a crash of the only one while another joins": Bounds(trainers=1, spares=2, resizes=(2,), crashes=1),
    "a freeze": Bounds(trainers=2, freezes=1),
    "a freeze among three": Bounds(trainers=3, freezes=1, steps=(1,)),
    "a freeze while founding": Bounds(trainers=1, spares=1, freezes=1, crashes=1, founded=False),
    "two freezes": Bounds(trainers=2, freezes=2, steps=(1,)),
    "a freeze and a crash": Bounds(trainers=2, freezes=1, crashes=1, steps=(1,)),
    "a supervisor's crash": Bounds(trainers=3, sub_tasks=3, supervisor_crashes=1, steps=(1, 1)),
    "two supervisors' crashes": Bounds(trainers=2, supervisor_crashes=2, steps=(1,)),
    "a supervisor's crash and a trainer's": Bounds(trainers=2, crashes=1, supervisor_crashes=1),
    "a supervisor's crash and a freeze": Bounds(trainers=2, freezes=1, supervisor_crashes=1, steps=(1,)),
    "a group that breaks, and a crash": Bounds(trainers=2, breaks=1, crashes=1),
    "messages doubled": Bounds(trainers=2, doubles=2, breaks=1, steps=(1,)),
    "up": Bounds(trainers=2, spares=1, resizes=(3,), steps=(2, 1)),
    "up and down": Bounds(trainers=2, spares=1, resizes=(3, 1)),
    "up, and a crash": Bounds(trainers=1, spares=1, resizes=(2,), crashes=1, steps=(1, 2)),
    "up, and a supervisor's crash": Bounds(trainers=1, spares=1, resizes=(2,), supervisor_crashes=1, steps=(1, 2)),
    "down, and a crash": Bounds(trainers=2, resizes=(1,), crashes=1, steps=(1, 2)),
    "down, and a supervisor's crash": Bounds(trainers=2, resizes=(1,), supervisor_crashes=1),
    "down, and a group that breaks": Bounds(trainers=2, resizes=(1,), breaks=1, steps=(1, 2)),
    "a checkpoint, and everyone lost": Bounds(trainers=1, spares=2, crashes=2, checkpoints=2, steps=(1, 2)),
    "a checkpoint, and two of two lost": Bounds(trainers=2, spares=1, crashes=2, checkpoints=1, steps=(1,)),
    "a checkpoint that rots": Bounds(trainers=1, spares=1, crashes=1, checkpoints=2, damages=2, steps=(1, 1, 1)),
    "a restore, and a crash": Bounds(trainers=2, spares=1, crashes=1, stored=(1, 2), damages=1, founded=False),
    "a restore, and two crashes": Bounds(trainers=1, spares=2, crashes=2, stored=(1,), damages=1, founded=False),
    "a restore that needs two": Bounds(
        trainers=2, min_trainers=2, spares=1, crashes=1, stored=(1,), damages=1, steps=(1,), founded=False
    ),
    "a restore, and a supervisor's crash": Bounds(
        trainers=1, spares=1, crashes=1, supervisor_crashes=1, stored=(1,), founded=False
    ),
    "a restore, and a freeze": Bounds(trainers=2, freezes=1, stored=(1,), steps=(1,), founded=False),
    # cut short at the beginning, it waits as one that may begin anew, and later reads the checkpoint of those that went on without it
    "a joiner cut short at the beginning, and a restore": Bounds(
        trainers=2, resizes=(1,), crashes=1, breaks=1, checkpoints=1, steps=(1,), founded=False
    ),
    "the end is saved, and a crash": Bounds(trainers=2, crashes=1, saves=True, steps=(1,)),
    "the end is saved, and everyone lost": Bounds(trainers=1, spares=1, crashes=1, checkpoints=1, saves=True),
    "the end is saved, and a supervisor's crash": Bounds(
        trainers=2, crashes=1, supervisor_crashes=1, saves=True, steps=(1,)
    ),
    "the end is saved, and a freeze": Bounds(trainers=2, freezes=1, saves=True, steps=(1,)),
    "a pause, and a crash": Bounds(trainers=2, crashes=1, pauses=1, saves=True),
    "a pause while founding": Bounds(trainers=2, crashes=1, pauses=1, steps=(1,), founded=False),
    "a pause, and a supervisor's crash": Bounds(trainers=2, supervisor_crashes=1, pauses=1),
    "a pause, and a freeze": Bounds(trainers=2, freezes=1, pauses=1, steps=(1,)),
    "a notice": Bounds(trainers=2, notices=1, spares=1, steps=(1, 2)),
    "a notice, and a crash": Bounds(trainers=2, notices=1, spares=1, crashes=1, steps=(1,)),
    "a notice to the only one, and a crash": Bounds(trainers=1, notices=1, spares=2, crashes=1),
    "a notice, and a supervisor's crash": Bounds(trainers=2, notices=1, supervisor_crashes=1, steps=(1,)),
    "notices to all": Bounds(trainers=2, notices=2, spares=1, steps=(1,)),
    "a spare, and a crash": Bounds(trainers=2, warm=1, spares=2, crashes=1),
    "one raises what the other does not": Bounds(trainers=2, raises=1, crashes=1, steps=(1,)),
    "one raises, and is replaced": Bounds(trainers=2, spares=1, raises=1, crashes=1, steps=(1,)),
    "one raises while founding": Bounds(trainers=2, spares=1, raises=1, steps=(1,), founded=False),
    "one raises, and a supervisor's crash": Bounds(trainers=2, raises=1, supervisor_crashes=1, steps=(1,)),
    "two of three raise": Bounds(trainers=3, raises=2, steps=(1,)),
    "everybody raises the same, and a crash": Bounds(trainers=2, spares=1, bug=(1, 1), crashes=1),
    "everybody raises the same, and a supervisor's crash": Bounds(trainers=3, bug=(0, 1), supervisor_crashes=1),
}


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS.keys())
def test_every_world_is_sound(bounds: Bounds) -> None:
    explored = explore(bounds)
    assert explored.ends > 0
    print(explored)


# What may happen to a run of one trainer, with room for another.
HAPPENINGS: dict[str, dict[str, Any]] = {
    "a crash": {"crashes": 1},
    "a freeze": {"freezes": 1},
    "a supervisor's crash": {"supervisor_crashes": 1},
    "up": {"resizes": (2,)},
    "down": {"resizes": (1,)},
    "a message doubled": {"doubles": 1},
    "a group that breaks": {"breaks": 1},
    "a notice": {"notices": 1},
    "a pause": {"pauses": 1},
    "one raises": {"raises": 1},
    "the end is saved": {"saves": True},
    "a checkpoint": {"checkpoints": 1},
}


@pytest.mark.parametrize("pair", list(combinations_with_replacement(HAPPENINGS, 2)), ids=" and ".join)
def test_any_two_happenings_in_the_smallest_run_are_sound(pair: tuple[str, str]) -> None:
    """No pair is left to the imagination of who writes a list: a freeze while another joins was missing in the one above."""
    amounts: dict[str, Any] = {}
    for happening in pair:
        for name, amount in HAPPENINGS[happening].items():
            amounts[name] = amounts[name] + amount if name in amounts and amount is not True else amount
    assert explore(Bounds(trainers=1, spares=1, sub_tasks=2, steps=(1,), **amounts)).ends > 0


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(trainers=2, crashes=1),
        Bounds(trainers=2, freezes=1),
        Bounds(trainers=2, supervisor_crashes=1),
        Bounds(trainers=2, breaks=1),
    ],
)
def test_faults_do_happen(bounds: Bounds) -> None:
    """The worlds with a fault are many more than those without: no bound is idle."""
    assert explore(bounds).worlds > 10 * explore(Bounds(trainers=2)).worlds
