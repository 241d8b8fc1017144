"""The trainer of `surefoot check`: a trainer that ends after a few steps, notes its state by the tensor, and waits for a joiner."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from surefoot.events import LedgerRow
from surefoot_actors.check.probe import cache_of
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.engine.contract.run import RunOptions
from surefoot_actors.output.sync import OutputSync
from surefoot_actors.protocol.messages import RequestBoundary, ToTrainer
from surefoot_actors.trainer.checkpoints.schedule import CheckpointSchedule
from surefoot_actors.trainer.member import Member
from surefoot_actors.trainer.once import OnceRequests
from surefoot_actors.trainer.trainer import TrainerProcess
from surefoot_actors.trainer.training_side import TrainingSide

__all__ = ["FOLDER", "HOLD", "OUT", "STEPS", "RehearsingTrainer"]

# Environment: how many steps; the folder with a folder an attempt, for digests; the user's folder, in which code finds its files.
STEPS, OUT, FOLDER = (f"SUREFOOT_CHECK_{name}" for name in ("STEPS", "OUT", "FOLDER"))
# A file in the attempt's folder: the step whose end waits for a joiner to be announced. Without it nobody waits.
HOLD = "hold"
# A joiner imports the user's code first; without one, going on at last lets the attempt end and tell that none joined.
_PATIENCE_S = 120.0


class RehearsingTrainer(TrainerProcess):
    """Everything else is a trainer's."""

    def __init__(self, setup: TrainerSetup) -> None:
        self._flagged = threading.Event()
        os.chdir(os.environ[FOLDER])
        super().__init__(setup)

    def _training_side(self) -> TrainingSide:
        out = Path(os.environ[OUT]) / self._setup.attempt
        return RehearsingSide(self._member, self._schedule, self._onces, self._output, out, self._flagged)

    def _options(self) -> RunOptions:
        # check finds what is carried between sub-tasks by itself, and says more of it
        cache_dir = partial(cache_of, Path(os.environ[FOLDER]))
        return replace(super()._options(), end_after=int(os.environ[STEPS]), proves=False, cache_dir=cache_dir)

    def deliver(self, message: ToTrainer) -> None:
        super().deliver(message)
        if isinstance(message, RequestBoundary):
            self._flagged.set()


class RehearsingSide(TrainingSide):
    """Notes the state at each step's end; `flagged`: a joiner is about to be admitted."""

    def __init__(
        self,
        member: Member,
        schedule: CheckpointSchedule,
        onces: OnceRequests,
        output: OutputSync,
        out: Path,
        flagged: threading.Event,
    ) -> None:
        super().__init__(member, schedule, onces, output)
        self._out, self._flagged = out, flagged
        hold = out / HOLD
        self._hold = int(hold.read_text()) if hold.exists() else None

    def end_step(self, row: LedgerRow) -> None:
        """Note the state, and hold the step's end back until the joiner is about to be admitted."""
        step = row.result.step
        self._note(step)
        if step == self._hold:
            self._flagged.wait(_PATIENCE_S)
        super().end_step(row)

    def _note(self, step: int) -> None:
        with torch.no_grad():
            digests = {name: digest.hex() for name, digest in self._member.owner.tensor_digests().items()}
        file = self._out / f"{step}-{self._member.trainer}.json"
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(digests))
        unfinished.rename(file)
