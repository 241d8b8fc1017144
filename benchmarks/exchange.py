"""The merge beside gloo's own all-reduce of the same vector: same processes, interleaved, one table. Loopback, one thread each.

python benchmarks/exchange.py [--sizes 2 4] [--numel 85000 10900000] [--seconds 4]
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
import torch.distributed

from surefoot_actors.engine.exchange.contribution import Contribution
from surefoot_actors.engine.exchange.merge import merge_round
from surefoot_actors.engine.group.group import Group, RendezvousHost
from surefoot_actors.engine.types import Layout, Merged, Node, Range
from surefoot_actors.engine.vector.digest import make_layout
from surefoot_actors.engine.vector.pools import BufferPool

# Typed as Any, since torch's stubs lack half of what is used here.
dist: Any = torch.distributed

Times = dict[str, list[float]]
KINDS = ("merge", "allreduce", "merge cpu", "allreduce cpu")


def member(
    rank: int, size: int, numel: int, rounds: int, store: tuple[str, int], plain: int, result: Connection
) -> None:
    """One rank: merge and all-reduce in turn; send the times of each."""
    torch.set_num_threads(1)
    tcp = dist.TCPStore("127.0.0.1", plain, is_master=False, wait_for_workers=False)
    dist.init_process_group("gloo", store=tcp, rank=rank, world_size=size)
    group = Group(store=store, name=f"bench{size}-{numel}", rank=rank, size=size)
    began = time.perf_counter()
    group.form()
    times: Times = {"form": [time.perf_counter() - began], **{kind: [] for kind in KINDS}}
    layout = make_layout(
        buckets=[(torch.float32, numel)], num_presence=8, scalars=["loss"], exact_bytes=0, description=["x"]
    )
    covers = [[Range(r, r + 1)] for r in range(size)]
    node = Node(
        range=Range(rank, rank + 1),
        layout=layout,
        buckets=[torch.randn(numel)],
        weight=1.0,
        scalars=(1.0,),
        presence=255,
        exact=b"",
    )
    pool, agreed, retained = BufferPool(), None, None
    for round in range(rounds):
        dist.barrier()
        with watch(times, "merge"):
            agreed, retained = one_merge(group, round, covers, node, agreed, pool, retained)
        flat = node.buckets[0].clone()
        dist.barrier()
        with watch(times, "allreduce"):
            dist.all_reduce(flat)
    result.send(times)
    dist.barrier()
    group.close()
    dist.destroy_process_group()


@contextmanager
def watch(times: Times, kind: str) -> Iterator[None]:
    """Keep the wall time and, as other work on the machine spoils that, the CPU time of all threads of the process."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    times[kind].append(time.perf_counter() - began)
    times[kind + " cpu"].append(time.process_time() - cpu)


def one_merge(
    group: Group,
    round: int,
    covers: list[list[Range]],
    node: Node,
    agreed: Layout | None,
    pool: BufferPool,
    retained: Merged | None,
) -> tuple[Layout, Merged]:
    contribution = Contribution(
        round=round, step=round, num_sub_tasks=group.size, covers=covers, nodes={node.range: node}, agreed=agreed
    )
    result = merge_round(group, contribution, pool=pool)
    if retained is not None:
        pool.give(retained)
    return result.layout, result.merged


def measure(size: int, numel: int, rounds: int) -> Times:
    """Run one configuration in fresh processes; the times of rank 0, without the first rounds."""
    context = multiprocessing.get_context("spawn")
    host = RendezvousHost()
    plain = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    workers = [
        context.Process(target=member, args=(r, size, numel, rounds, host.address, plain.port, pipes[r][1]))
        for r in range(size)
    ]
    for worker in workers:
        worker.start()
    times: Times = pipes[0][0].recv()
    for worker in workers:
        worker.join()
    host.close()
    return {kind: values if kind == "form" else values[len(values) // 5 + 1 :] for kind, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--numel", type=int, nargs="+", default=[85_000, 10_900_000])
    parser.add_argument("--rounds", type=int, default=0, help="0: 300 for small vectors, 20 for big ones")
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')} {platform.processor() or platform.machine()} torch {torch.__version__}, ms")
    print(f"{'ranks':>5} {'numel':>10} {'':>7} {'merge':>9} {'all-reduce':>10} {'ratio':>6}")
    for size in options.sizes:
        for numel in options.numel:
            rounds = options.rounds or (300 if numel < 1_000_000 else 20)
            times = measure(size, numel, rounds)
            form = f"formed in {1e3 * times['form'][0]:.1f}"
            for name, pick, suffix in (("median", median, ""), ("best", min, ""), ("cpu", median, " cpu")):
                merge, plain = (1e3 * pick(times[kind + suffix]) for kind in ("merge", "allreduce"))
                print(f"{size:>5} {numel:>10} {name:>7} {merge:>9.3f} {plain:>10.3f} {merge / plain:>6.2f}  {form}")


if __name__ == "__main__":
    main()
