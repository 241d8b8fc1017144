"""Train functions that never come to `steps()`."""

import itertools
import os
import signal
import time

import surefoot


def train(run: surefoot.Run) -> None:
    """Die, as soon as the test has opened this life's gate: config["lives"] is the folder where lives and gates are files."""
    folder = run.config["lives"]
    life = next(n for n in itertools.count(1) if begins(f"{folder}/life-{n}"))
    while not os.path.exists(f"{folder}/gate-{life}"):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


def begins(path):
    """Whether nobody has lived this life before."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def stumbles(run: surefoot.Run) -> None:
    raise RuntimeError("the user's own mistake")
