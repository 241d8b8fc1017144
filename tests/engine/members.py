"""Members of a group as real processes: this file is what each of them runs, and how the tests start and ask them."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from surefoot_actors.engine.exchange import plan
from surefoot_actors.engine.exchange.alone import merge_alone
from surefoot_actors.engine.exchange.contribution import Contribution, Shown
from surefoot_actors.engine.exchange.merge import merge_round
from surefoot_actors.engine.exchange.signals import Signals
from surefoot_actors.engine.exchange.transfer import recv_merged, recv_state, send_merged, send_state
from surefoot_actors.engine.group.group import Group, RendezvousHost
from surefoot_actors.engine.types import Layout, Merged, Node, Range, StateImage, StateTable
from surefoot_actors.engine.vector.digest import make_layout
from surefoot_actors.engine.vector.exact_buffers import Rule, header
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.faults import points as faults
from surefoot_actors.protocol.tree import cover, fold

_LIMIT_S = 270

# two values of an integer buffer
SAME, ELSE = (header(Rule.EQUAL, True, torch.int32, 4) + i.to_bytes(4, sys.byteorder) for i in (1, 2))

# ---- what is merged


def layout(kind: str = "plain", line: int = 1) -> Layout:
    """A layout of mixed dtypes; `kind` "other" logs one more name, "tiny" has no vector to speak of."""
    sizes = (
        [(torch.float32, 70_003), (torch.float64, 901), (torch.float32, 5)] if kind != "tiny" else [(torch.float32, 3)]
    )
    scalars = ["loss", "accuracy"] if kind == "other" else ["loss"]
    return make_layout(
        buckets=sizes,
        num_presence=5,
        scalars=scalars,
        exact_bytes=len(SAME),
        description=["grad weight float32[70003]", *(f"log {name}  # train.py:{line}" for name in scalars)],
    )


def leaf(of: Layout, sub_task: int, exact: bytes = SAME) -> Node:
    """The leaf of a sub-task: values of very different sizes, so that another association shows."""
    generator = torch.Generator().manual_seed(sub_task)
    buckets = [
        torch.randn(b.numel, generator=generator, dtype=b.dtype)
        * torch.randint(1, 100_000, (b.numel,), generator=generator)
        for b in of.buckets
    ]
    return Node(
        range=Range(sub_task, sub_task + 1), layout=of, buckets=buckets, weight=1.0 + sub_task / 3,
        scalars=tuple(0.1 * (sub_task + 1 + i) for i in range(len(of.scalars))), presence=1 << sub_task % 4, exact=exact,
    )  # fmt: skip


def add(a: Node, b: Node) -> Node:
    return Node(
        range=Range(a.range.lo, b.range.hi), layout=a.layout, weight=a.weight + b.weight, presence=a.presence | b.presence,
        buckets=[x + y for x, y in zip(a.buckets, b.buckets, strict=True)], exact=a.exact,
        scalars=tuple(x + y for x, y in zip(a.scalars, b.scalars, strict=True)),
    )  # fmt: skip


def nodes_of(covers: Sequence[Range], make: Callable[[int], Node]) -> dict[Range, Node]:
    """The nodes of a rank's cover, folded from leaves in tree order."""
    found = {}
    for node in covers:
        # A node [lo, hi) of the tree is folded as the tree over hi - lo sub-tasks is: its shape depends on its width alone.
        leaves = {Range(v - node.lo, v - node.lo + 1): make(v) for v in range(*node)}
        found[node] = fold(leaves, add, node.hi - node.lo)
        found[node].range = node
    return found


def covers_of(owners: str) -> list[tuple[Range, ...]]:
    """Covers by rank: "0011" gives sub-tasks 0, 1 to rank 0 and 2, 3 to rank 1; a rank unnamed below the highest has none."""
    size = 1 + max(map(int, owners))
    return [cover(sum(1 << v for v, o in enumerate(owners) if int(o) == rank), len(owners)) for rank in range(size)]


def alone(num_sub_tasks: int, kind: str = "plain", round: int = 0) -> Merged:
    nodes = nodes_of([Range(v, v + 1) for v in range(num_sub_tasks)], lambda v: leaf(layout(kind), v))
    covers = (tuple(sorted(nodes)),)
    contribution = Contribution(round=round, step=0, num_sub_tasks=num_sub_tasks, covers=covers, nodes=nodes)
    return merge_alone(contribution).merged


def told(merged: Merged) -> dict[str, Any]:
    """All of a merged vector as comparable bytes."""
    return {
        "round": merged.round,
        "digest": merged.digest.hex(),
        "buckets": [flat.numpy().tobytes() for flat in merged.buckets],
        "rest": (merged.weight, dict(merged.scalars), merged.presence, merged.exact, merged.layout.signature),
    }


# ---- what a member does


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One member's part in a test."""

    rank: int
    size: int
    store: tuple[str, int]
    name: str
    owners: str = ""
    # what this member's sub-tasks have, by round, the last one ever after
    kinds: tuple[str, ...] = ("plain",)
    exact: bytes = SAME
    flags: tuple[int, ...] = ()
    drift: bytes = bytes(16)
    table: StateTable | None = None
    # of a sub-task of rank 0 that rank 1 has computed too: what this member shows
    shown: tuple[bytes, bytes] = (bytes(16), bytes(16))
    rounds: int = 1
    two_phases: bool = False
    several_messages: bool = False
    faults: tuple[str, ...] = ()
    fired_file: str = ""
    digest_round: int = 0
    big: int = 0


def merge(setup: Setup, group: Group, say: Callable[[Any], None]) -> list[Any]:
    """Merge some rounds; the results, and how often `on_exchanged` came."""
    plan.ONE_PHASE_BYTES = -1 if setup.two_phases else plan.ONE_PHASE_BYTES
    plan.SINGLE_MESSAGE_BYTES = -1 if setup.several_messages else plan.SINGLE_MESSAGE_BYTES
    faults.arm(setup.faults, f"t{setup.rank}", setup.fired_file)
    covers, agreed, told_results, pool = covers_of(setup.owners), None, [], BufferPool()
    for round in range(setup.rounds):
        kind = setup.kinds[min(round, len(setup.kinds) - 1)]
        shape = layout(kind, line=setup.rank)
        nodes = nodes_of(covers[setup.rank], lambda v, shape=shape: leaf(shape, v, setup.exact))
        before = {r: [b.clone() for b in n.buckets] for r, n in nodes.items()}
        exchanged: list[int] = []
        contribution = Contribution(
            round=round, step=round, covers=covers, nodes=nodes, num_sub_tasks=len(setup.owners),
            signals=Signals(end_generation=round in setup.flags), drift=setup.drift, agreed=agreed,
            cross_checks=((0, 1, 0),), shown=Shown(*setup.shown),
            look=(lambda: setup.table) if setup.table else None,
        )  # fmt: skip
        result = merge_round(group, contribution, on_exchanged=partial(exchanged.append, 1), pool=pool)
        agreed = result.layout
        unmodified = all(torch.equal(a, b) for r, n in nodes.items() for a, b in zip(n.buckets, before[r], strict=True))
        told_results.append(
            {
                **told(result.merged),
                "flag": result.signals.end_generation,
                "exchanged": len(exchanged),
                "unmodified": unmodified,
            }
        )
        pool.give(result.merged)
        say(("round", round))
    return told_results


def sit(setup: Setup, group: Group, say: Callable[[Any], None]) -> None:
    """Be a live member that does not take part, until told to leave."""
    _left.wait()


def image(big: int) -> StateImage:
    generator = torch.Generator().manual_seed(7)
    sizes = [3, 0, 100_001, big, 17]
    tensors = [torch.randint(0, 256, (n,), generator=generator, dtype=torch.uint8) for n in sizes]
    digests = tuple((f"tensor{i}", t.numpy().tobytes()[:16].ljust(16)) for i, t in enumerate(tensors))
    return StateImage(skeleton=b"skeleton" * 1000, tensors=tensors, digests=digests)


def give_state(setup: Setup, group: Group, say: Callable[[Any], None]) -> None:
    """Ranks from 0: two sources, then joiners. The first source also gives the retained vector."""
    merged = alone(4)
    if setup.rank == 0:
        for joiner in range(2, setup.size):
            send_merged(group, joiner, merged)
    send_state(group, range(2, setup.size), (0, 1), image(setup.big), 5, setup.digest_round, b"extra")


def take_state(setup: Setup, group: Group, say: Callable[[Any], None]) -> Any:
    got, extra = recv_state(group, (0, 1), 5, 9)
    merged = recv_merged(group, 0)
    return got.skeleton, [flat.numpy().tobytes() for flat in got.tensors], extra, told(merged)


_left = threading.Event()


def run_member(action: str, setup: Setup, pipe: Connection) -> None:
    """The process: form the group, act, tell the outcome. "close" on the pipe closes the group from another thread."""
    torch.set_num_threads(1)
    group = Group(store=setup.store, name=setup.name, rank=setup.rank, size=setup.size)
    asked: list[float] = []

    def listen() -> None:
        while pipe.recv() == "close":
            asked.append(time.monotonic())
            group.close()
            _left.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        group.form()
        pipe.send(("said", "formed"))
        outcome: Any = ("returned", globals()[action](setup, group, lambda word: pipe.send(("said", word))))
    except Exception as error:  # noqa: BLE001  the process's edge: the test judges it
        waking_s = time.monotonic() - asked[0] if asked else None
        outcome = ("raised", type(error).__name__, str(error), waking_s)
    pipe.send(outcome)
    _left.wait()  # stay, with the group open, until the test has heard everyone


# ---- how a test starts and asks them


@dataclass(kw_only=True)
class Member:
    process: Any
    pipe: Connection
    said: list[Any] = field(default_factory=list)

    def hear(self, until: Callable[[Any], bool] = lambda heard: heard[0] != "said") -> Any:
        """Wait for a word of the member: by default its outcome."""
        deadline = time.monotonic() + _LIMIT_S
        while self.pipe.poll(max(0.0, deadline - time.monotonic())):
            heard = self.pipe.recv()
            if until(heard):
                return heard
        raise AssertionError("a member hangs")

    def close(self) -> None:
        self.pipe.send("close")


class Members:
    """Starts members and ends them all at the end of a test."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["surefoot_actors.engine.exchange.merge", "surefoot_actors.engine.exchange.transfer"]
        )
        self._host = RendezvousHost()
        self._all: list[Member] = []
        self._groups = 0

    def start(self, actions: Sequence[str], setups: Sequence[dict[str, Any]]) -> list[Member]:
        """Start one group: a member for each action, with Setup fields by rank."""
        self._groups += 1
        started = []
        for rank, (action, fields) in enumerate(zip(actions, setups, strict=True)):
            name = f"group{self._groups}"
            setup = Setup(rank=rank, size=len(actions), store=self._host.address, name=name, **fields)
            ours, theirs = self._context.Pipe()
            request = {"REQUEST": (action, vars(setup), theirs)}
            process = self._context.Process(target=runpy.run_path, args=(__file__, request, "member"), daemon=True)
            process.start()
            theirs.close()
            started.append(Member(process=process, pipe=ours))
        self._all += started
        return started

    def merge(self, owners: str, **fields: Any) -> list[Any]:
        """Run a merge on as many members as there are owners; a field that is a list is by rank. Returns the outcomes."""
        size = len(covers_of(owners))
        by_rank = [{k: v[r] if isinstance(v, list) else v for k, v in fields.items()} for r in range(size)]
        return [m.hear() for m in self.start(["merge"] * size, [{"owners": owners, **own} for own in by_rank])]

    def close(self) -> None:
        for member in self._all:
            member.process.kill()
            member.process.join()
            member.process.close()
            member.pipe.close()
        self._host.close()


if __name__ == "member":  # run by its path in the child, as test folders cannot be imported by name there
    run_member(REQUEST[0], Setup(**REQUEST[1]), REQUEST[2])  # type: ignore[name-defined]  # noqa: F821  given by run_path
