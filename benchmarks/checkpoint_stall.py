"""How long training is held up by a checkpoint, beside torch.distributed.checkpoint's async_save of the same state.

    python benchmarks/checkpoint_stall.py [--save] [--rounds 3] [--every 50] [--width 2048] [--blocks 3] [--batch 32]

One process trains a model of 100 million parameters with AdamW under Surefoot's engine, as one trainer does. At every 50th step boundary
the whole state (1.2 GB) is saved by one of the sides, which take turns: by nobody, by Surefoot's own writer, by async_save as it comes,
and by async_save with staging memory that it keeps. The stall is how long the training thread is held at that boundary. The writing
goes on beside the steps after it; what that costs them is told too, against the steps beside which nothing is written.
"""

from __future__ import annotations

import argparse
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
import torch.nn.functional as F
from measure import Spread, peak_memory_bytes, save, table
from torch import nn

from surefoot.contract import Run
from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.capture import Facts, Place
from surefoot_actors.determinism.fingerprint import make_deterministic
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.types import Position
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.protocol.messages import Saved
from surefoot_actors.trainer.checkpoints.saver import Saver

# Typed as Any, since torch's stubs lack half of what is used here.
dcp: Any = torch.distributed.checkpoint

NOBODY, SUREFOOT, ASYNC, KEPT = SIDES = (
    "no checkpoint",
    "Surefoot",
    "async_save",
    "async_save, staging memory kept",
)
WARMUP = 3


class Writers:
    """Each side's way to save the state at a boundary. `begin` holds the training thread, `end` waits for the writing."""

    def __init__(self, folder: Path, objects: dict[str, Any]) -> None:
        self._folder, self._objects, self._count = folder, objects, 0
        self._told: queue.SimpleQueue[Saved] = queue.SimpleQueue()
        self._saver = Saver(str(folder / "surefoot"), "t0", torch.device("cpu"), self._told.put)
        # as async_save makes one for each call
        self._stager = dcp.staging.DefaultStager(dcp.staging.StagingOptions(False, False, False, False))

    def begin(self, side: str, owner: StateOwner, step: int) -> Callable[[], None]:
        """Save; return what waits for the writing."""
        self._count += 1
        if side == NOBODY:
            return lambda: None
        if side == SUREFOOT:
            place = Place(generation=1, round=step, step=step, share=0, of=1)
            facts = Facts(fingerprint=(), num_steps=0, last=None, rows=())
            self._saver.snapshot(owner.survey, place, facts)
            return self._end_surefoot
        state = {name: thing.state_dict() for name, thing in self._objects.items()}
        kept = {"async_stager": self._stager} if side == KEPT else {}
        path = self._folder / f"dcp-{self._count}"
        done: Future[Any] = dcp.async_save(state, checkpoint_id=path, no_dist=True, **kept)
        return lambda: self._end_dcp(done, path)

    def prepare(self, owner: StateOwner) -> None:
        """Have memory ready, as a trainer has at its first boundary."""
        self._saver.prepare(owner.survey, 0, 1)

    def _end_surefoot(self) -> None:
        saved = self._told.get(timeout=600)
        if saved.error:
            raise RuntimeError(saved.error)
        shutil.rmtree(self._folder / "surefoot")

    def _end_dcp(self, done: Future[Any], path: Path) -> None:
        done.result(timeout=600)
        shutil.rmtree(path)


@dataclass(kw_only=True)
class Turn:
    """What a side's checkpoint cost: the seconds at the boundary, and those of the steps after it."""

    side: str
    stall_s: float
    steps_s: float = field(default=0.0)


class Turns(LocalCoordinator):
    """One trainer; at every `every`th boundary the next side has its turn."""

    def __init__(self, every: int, rounds: int, writers: Callable[[], Writers]) -> None:
        super().__init__(1)
        self._every, self._make = every, writers
        # once each before anything counts
        self._order = [*SIDES, *SIDES * rounds]
        self._num_warmup = len(SIDES)
        self._end: Callable[[], None] = lambda: None
        self._began = 0.0
        self.turns: list[Turn] = []

    @property
    def num_steps(self) -> int:
        return WARMUP + (1 + len(self._order)) * self._every

    @property
    def counted(self) -> list[Turn]:
        return self.turns[self._num_warmup :]

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        self._writers = self._make()
        return super().admit(state, num_steps)

    def end_step(self, row: LedgerRow) -> None:
        super().end_step(row)
        self.rows.clear()
        step = row.result.step + 1
        assert self._owner is not None
        if step == WARMUP:
            self._writers.prepare(self._owner)
        if step < WARMUP + self._every or (step - WARMUP) % self._every:
            return
        if self.turns:
            self.turns[-1].steps_s = time.monotonic() - self._began
        self._end()  # what is still being written would be in the way of the next side
        if len(self.turns) < len(self._order):
            self._take_turn(self._owner, step)

    def _take_turn(self, owner: StateOwner, step: int) -> None:
        side = self._order[len(self.turns)]
        before = time.monotonic()
        self._end = self._writers.begin(side, owner, step)
        self._began = time.monotonic()
        self.turns.append(Turn(side=side, stall_s=self._began - before))
        print(f"step {step}: {side}: {1000 * self.turns[-1].stall_s:.1f} ms", flush=True)


def model(width: int, blocks: int) -> nn.Module:
    """Return a stack of the feed-forward blocks of a transformer: 8 width² parameters each."""
    layers = [nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(blocks)]
    return nn.Sequential(*layers)


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Turn], int]:
    """Train, the sides taking turns; return what each turn cost, and the number of parameters."""
    net = model(args.width, args.blocks)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    turns = Turns(args.every, args.rounds, lambda: Writers(folder, {"model": net, "optimizer": optimizer}))
    data = [torch.randn(args.width, generator=torch.Generator().manual_seed(i)) for i in range(256)]

    def train(run: Run) -> None:
        run.track(model=net, optimizer=optimizer)
        for step in run.steps(turns.num_steps):
            for x in step.batches(data):
                loss = F.mse_loss(net(x), x)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    make_deterministic(args.threads)
    run_training(train, RunOptions(batch_size=args.batch, sub_tasks=1), turns)
    return turns.counted, sum(p.numel() for p in net.parameters())


def rows(turns: Sequence[Turn]) -> list[list[str]]:
    """A row a side: its stall, its part of the steps between two checkpoints, and the speed of those steps."""
    quiet = [turn.steps_s for turn in turns if turn.side == NOBODY]
    found = []
    for side in SIDES:
        own = [turn for turn in turns if turn.side == side]
        stall = Spread.of(1000 * turn.stall_s for turn in own)
        part = Spread.of(100 * turn.stall_s / turn.steps_s for turn in own)
        slower = Spread.of(turn.steps_s / alone for turn, alone in zip(own, quiet, strict=True))
        written = side != NOBODY
        found.append([side, stall.text(1) if written else "-", part.text(2) if written else "-", slower.text(3)])
    return found


PAGE = """# Checkpoint stall

`python benchmarks/checkpoint_stall.py --save`: {millions:.1f} million parameters with AdamW ({gigabytes:.2f} GB of state), one trainer
of {threads} thread(s), a batch of {batch}, one checkpoint every {every} steps; median (range) over {rounds} rounds in which all sides
took turns in one process. The stall is how long the training thread is held at the boundary; its part is of the time of the {every}
steps after it, beside which the state is written. Peak memory of the process, all sides in it: {peak:.1f} GiB.

{table}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 3), ("every", 50), ("width", 2048), ("blocks", 3), ("batch", 32), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/checkpoint_stall.md and .json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sf-", dir=args.folder) as folder:
        turns, num_parameters = measure(args, Path(folder))
    head = ["", "stall, ms", f"% of {args.every} steps", "time of those steps, ratio"]
    page = PAGE.format(
        millions=num_parameters / 1e6,
        gigabytes=3 * 4 * num_parameters / 1e9,
        threads=args.threads,
        batch=args.batch,
        every=args.every,
        rounds=args.rounds,
        peak=peak_memory_bytes() / 2**30,
        table=table(head, rows(turns)),
    )
    print(page)
    if args.save:
        save("checkpoint_stall", page, {"turns": [vars(turn) for turn in turns], "num_parameters": num_parameters})


if __name__ == "__main__":
    main()
