"""Writes into its working folder, which is a folder of its own, and then trains."""

import os
from pathlib import Path

from small import train as small_train

os.chdir(os.environ["WORK"])


def train(run):
    Path("runs").mkdir(exist_ok=True)
    Path("runs", "events").write_text("loss")
    Path("old").write_text("changed")
    small_train(run)
    Path("model.pt").write_text("weights")
