"""The small train function, on trainers that are lost, once each, while one of them computes a sub-task of another's to compare it.

config["lost"]: "witness", the one that computes it, or "subject", whose sub-task it is (of two trainers: the other one); "both": at the
same moment, while both compute it, as when their node is lost.
"""

import os
import signal
import time
from pathlib import Path

import small

import surefoot


def train(run: surefoot.Run) -> None:
    place = Path(run.config["place"])
    (place / str(os.getpid())).touch()
    note = small.note

    def crossing(run, step, index):
        note(run, step, index)
        # a repeated first sub-task is nobody else's
        is_witness = run._loop.open._for_another is not None
        if run.config["lost"] == "both":
            lose_both(place, step, run._loop.open.sub_task.number, is_witness=is_witness)
        elif is_witness:
            lose(run.config["lost"], place, step)

    small.note = crossing
    small.train(run)


def lose(which, place, step):
    for name in which.split():
        if step.number < 3 and first(place / f"{name}-lost"):
            if name == "witness":
                os.kill(os.getpid(), signal.SIGKILL)
            for other in place.glob("[0-9]*"):
                if other.name != str(os.getpid()) and os.path.exists(f"/proc/{other.name}"):
                    os.kill(int(other.name), signal.SIGKILL)


def lose_both(place, step, sub_task, *, is_witness):
    """Of two trainers with eight sub-tasks the second one's lowest is 4."""
    if step.number or sub_task != 4 or len(list(place.glob("*-lost"))) == 2:
        return
    (place / ("witness-lost" if is_witness else "subject-lost")).touch()
    while len(list(place.glob("*-lost"))) < 2:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


def first(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
