"""The other side: a bare PyTorch loop, and plain DistributedDataParallel over gloo, as their tutorials write them.

    python benchmarks/plain.py WORKLOAD NUM_PROCESSES STEPS [--feed loader|slices]

NUM_PROCESSES 1 is the bare loop, without a process group. Prints one JSON line (see `measure.Figures`).
"--feed loader" reads the map-style dataset through a DataLoader; "slices" cuts batches out of a tensor held ready, which is less
than any real job can do, to show how much of a step the reading is.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measure import Figures, free_port, peak_memory_bytes
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate
from workloads import WORKLOADS, Sample, Workload

Batches = Iterator[list[torch.Tensor]]


def loader_batches(dataset: Dataset[Sample], rank: int, world: int, batch_size: int) -> Batches:
    """Yield this rank's share of global batches of `batch_size`, shuffled anew every epoch, without end."""
    sampler: DistributedSampler[Sample] = DistributedSampler(dataset, world, rank, seed=1, drop_last=True)
    loader = DataLoader(dataset, batch_size=batch_size // world, sampler=sampler, drop_last=True)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def slice_batches(dataset: Dataset[Sample], rank: int, world: int, batch_size: int) -> Batches:
    """Yield rows of tensors that hold all of the dataset, in order, without end."""
    columns = default_collate([dataset[i] for i in range(len(dataset))])  # type: ignore[arg-type]
    share = batch_size // world
    last = len(columns[0]) - batch_size
    for first in itertools.cycle(range(0, last, batch_size)):
        lo = first + rank * share
        yield [column[lo : lo + share] for column in columns]


def loop(workload: Workload, model: nn.Module, batches: Batches, warmup: int, steps: int) -> list[float]:
    """Train and return the clock at the end of each timed step, and before the first."""
    optimizer = workload.optimizer(model)
    marks = []
    for number in range(steps):
        if number == warmup:
            marks.append(time.perf_counter())
        inputs, targets = next(batches)
        optimizer.zero_grad()
        loss = workload.loss(model, inputs, targets)
        loss.backward()
        optimizer.step()
        if number >= warmup:
            marks.append(time.perf_counter())
    return marks


def run(rank: int, world: int, args: argparse.Namespace, port: int, results: mp.SimpleQueue[Figures]) -> None:
    """Be one process of the measured run."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    workload = WORKLOADS[args.workload]
    model = workload.model()
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
        model = nn.parallel.DistributedDataParallel(model)
    feed = loader_batches if args.feed == "loader" else slice_batches
    batches = feed(workload.dataset(), rank, world, workload.batch_size)
    marks = loop(workload, model, batches, min(workload.warmup, args.steps - 1), args.steps)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    results.put(Figures(step_ends=marks if rank == 0 else [], peak_bytes=[peak_memory_bytes()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("processes", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--feed", choices=("loader", "slices"), default="loader")
    args = parser.parse_args()
    results: mp.SimpleQueue[Figures] = mp.get_context("spawn").SimpleQueue()
    spawn(run, args=(args.processes, args, free_port(), results), nprocs=args.processes)
    told = [results.get() for _ in range(args.processes)]
    Figures(
        step_ends=next(f.step_ends for f in told if f.step_ends),
        peak_bytes=sorted(itertools.chain.from_iterable(f.peak_bytes for f in told)),
    ).tell()


if __name__ == "__main__":
    main()
