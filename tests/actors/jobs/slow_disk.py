"""The small train function, in processes whose storage is slow, and not equally so from one write to another.

With FIRST_WRITE in the environment the first write takes until there is that file, and no other takes long.
"""

import os
import random
import time

import small

import surefoot
from surefoot_actors.trainer.checkpoints import saver

_write_share = saver.write_share
_chance = random.SystemRandom()


def write_share(*arguments):
    if "FIRST_WRITE" in os.environ:
        while not os.path.exists(os.environ["FIRST_WRITE"]):
            time.sleep(0.005)
    else:
        time.sleep(_chance.uniform(0.02, 0.12))
    return _write_share(*arguments)


saver.write_share = write_share


def train(run: surefoot.Run) -> None:
    small.train(run)
