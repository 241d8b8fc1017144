"""The small train function; the process that is asked first to restore a checkpoint sees nothing where checkpoints lie."""

import os
from pathlib import Path

import small

import surefoot
from surefoot_actors.checkpoint.read import read_checkpoint as _read_checkpoint
from surefoot_actors.trainer.checkpoints import schedule as keeping


def read_checkpoint(url, *arguments, **how):
    marker = Path(url).parent.with_suffix(".blind")
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return _read_checkpoint(url, *arguments, **how)
    return _read_checkpoint(f"/not-mounted/{url}", *arguments, **how)


keeping.read_checkpoint = read_checkpoint


def train(run: surefoot.Run) -> None:
    small.train(run)
