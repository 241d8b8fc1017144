"""Writes down which values of its secret it has, by process; the last step raises, or not."""

import os

from small import train as small_train


def train(run):
    with open(run.config["seen"], "a") as file:
        file.write(f"{os.environ['KEY']}\n")
    small_train(run)
    if run.config.get("raises"):
        raise RuntimeError("401 for " + os.environ["KEY"])
