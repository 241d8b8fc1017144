"""What the engine's tests share: a scripted coordinator, and small models, data and train functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from surefoot.contract import Run
from surefoot.local import LocalResult
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.exchange.contribution import Contribution
from surefoot_actors.engine.exchange.merge import merge_round
from surefoot_actors.engine.types import Node, Range, StateImage
from surefoot_actors.engine.vector.exact_buffers import Rule, header
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.local_run.run_local import run_local
from surefoot_actors.protocol.tree import mask


class ScriptedCoordinator(LocalCoordinator):
    """Hands out sub-tasks in a scripted order and folds them as several trainers would, each a part of them."""

    def __init__(self, num_sub_tasks: int, *, order: Sequence[int], parts: Sequence[Iterable[int]]) -> None:
        super().__init__(num_sub_tasks, keep_state=True)
        self._order = order
        self._parts = [sum(1 << v for v in part) for part in parts]
        self._stores = [NodeStore(num_sub_tasks) for _ in parts]
        self.most_nodes = 0

    def next_sub_task(self) -> int | None:
        if self._next < self._num_sub_tasks:
            self._next += 1
            return self._order[self._next - 1]
        self._merge()
        return None

    def put_leaf(self, leaf: Node) -> None:
        for part, store in zip(self._parts, self._stores, strict=True):
            if part & mask(leaf.range):
                store.put(leaf)
        self.most_nodes = max(self.most_nodes, sum(len(store._nodes) for store in self._stores))

    def _merge(self) -> None:
        nodes: dict[Range, Node] = {}
        for store in self._stores:
            nodes.update(store.nodes())
        result = merge_round(
            None,
            Contribution(
                round=self._position.round,
                step=self._position.step,
                num_sub_tasks=self._num_sub_tasks,
                covers=(tuple(sorted(nodes)),),
                nodes=nodes,
            ),
        )
        self._merged = result.merged
        for store in self._stores:
            store.clear()


def run_scripted(
    train: Callable[[Run], None],
    *,
    order: Sequence[int],
    parts: Sequence[Iterable[int]],
    batch_size: int,
    seed: int = 0,
    data_workers: int = 0,
    config: Mapping[str, Any] | None = None,
) -> LocalResult:
    """Run `train` with sub-tasks in this order, folded by these parts."""
    coordinator = ScriptedCoordinator(len(order), order=order, parts=parts)
    options = RunOptions(
        config=dict(config or {}), seed=seed, batch_size=batch_size, sub_tasks=len(order), data_workers=data_workers
    )
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        run_training(train, options, coordinator)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
    return coordinator.result()


def pack(buffers: Sequence[tuple[Rule, bool, torch.Tensor]]) -> bytes:
    """Return buffers as a node carries those that cannot be averaged."""
    parts = []
    for rule, written, tensor in buffers:
        value = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        parts += [header(rule, written, tensor.dtype, len(value)), value]
    return b"".join(parts)


def results(result: LocalResult) -> list[bytes]:
    """Return the result part of every row, as it is compared."""
    return [row.result.canonical() for row in result.rows]


def same(one: LocalResult, other: LocalResult) -> bool:
    """Whether two runs kept the promise: the same ledger and the same final state."""
    return results(one) == results(other) and one.digest == other.digest


def points(num: int = 203, width: int = 16, seed: int = 1) -> TensorDataset:
    """Return a small classification problem."""
    x = torch.randn(num, width, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())


class Net(nn.Module):
    """BatchNorm and Dropout, so that buffers and random streams matter."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def classify(
    build: Callable[[], nn.Module] = Net,
    optimize: Callable[[nn.Module], torch.optim.Optimizer] = lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2),
    *,
    num_steps: int = 5,
    dataset: Any = None,
    seen: Callable[[nn.Module], None] | None = None,
) -> Callable[[Run], None]:
    """Return a plain train function."""
    data = points() if dataset is None else dataset

    def train(run: Run) -> None:
        model = build()
        optimizer = optimize(model)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(num_steps):
            for x, y in step.batches(data):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
        if seen is not None:
            seen(model)

    return train


__all__ = [
    "Net",
    "ScriptedCoordinator",
    "StateImage",
    "classify",
    "pack",
    "points",
    "results",
    "run_local",
    "run_scripted",
    "same",
]
