"""Which queued jobs start: a pure decision, each with its reason.

The queue's order holds: a job that waits for room is not overtaken by a later one, or a stream of small jobs would starve it.
A job that the cluster could never hold does not keep the others waiting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from surefoot.spec import JobSpec, Resources

__all__ = ["Candidate", "Capacity", "Decision", "NodeSize", "decide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSize:
    """What one node has in total."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the cluster has in total, a node at a time, and what jobs that are on it have reserved."""

    nodes: tuple[NodeSize, ...]
    used_cpus: float = 0.0
    used_gpus: float = 0.0

    @property
    def cpus(self) -> float:
        return sum(n.cpus for n in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(n.gpus for n in self.nodes)

    @property
    def free_cpus(self) -> float:
        return max(0.0, self.cpus - self.used_cpus)

    @property
    def free_gpus(self) -> float:
        return max(0.0, self.gpus - self.used_gpus)

    def with_used(self, cpus: float, gpus: float) -> Capacity:
        return Capacity(nodes=self.nodes, used_cpus=self.used_cpus + cpus, used_gpus=self.used_gpus + gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A queued job."""

    job: str
    spec: JobSpec
    # how many trainers it wants now
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether a job starts, and why."""

    job: str
    start: bool
    reason: str


def decide(queue: Sequence[Candidate], capacity: Capacity) -> list[Decision]:
    """Return a decision for each queued job, in the queue's order."""
    decisions: list[Decision] = []
    waiting: str | None = None
    for candidate in queue:
        never = _never_fits(candidate.spec, capacity)
        if never:
            decisions.append(Decision(job=candidate.job, start=False, reason=never))
            continue
        if waiting is not None:
            decisions.append(Decision(job=candidate.job, start=False, reason=f"behind job {waiting} in the queue"))
            continue
        short = _short(candidate.spec, capacity)
        decisions.append(Decision(job=candidate.job, start=not short, reason=short or _fits(candidate, capacity)))
        if short:
            waiting = candidate.job
        else:
            each = candidate.spec.resources
            capacity = capacity.with_used(candidate.wanted * each.cpus, candidate.wanted * each.gpus)
    return decisions


def _never_fits(spec: JobSpec, capacity: Capacity) -> str:
    """Why the empty cluster could not hold the job's fewest trainers, or nothing."""
    least, each = spec.min_trainers, spec.resources
    if least * each.cpus > capacity.cpus:
        return f"{_needs(least, each.cpus, 'CPU')}; the cluster has {capacity.cpus:g}"
    if least * each.gpus > capacity.gpus:
        return f"{_needs(least, each.gpus, 'GPU')}; the cluster has {capacity.gpus:g}"
    places = sum(_places(node, each) for node in capacity.nodes)
    if least > places:
        what = f"{each.cpus:g} CPUs" + (f" and {each.gpus:g} GPUs" if each.gpus else "")
        return f"needs {least} trainers of {what}; the cluster's nodes have room for {places}"
    return ""


def _places(node: NodeSize, each: Resources) -> int:
    """How many trainers the empty node holds."""
    by_cpu = math.floor(node.cpus / each.cpus + 1e-9)
    return min(by_cpu, math.floor(node.gpus / each.gpus + 1e-9)) if each.gpus else by_cpu


def _short(spec: JobSpec, capacity: Capacity) -> str:
    """What is not free now, or nothing."""
    least, each = spec.min_trainers, spec.resources
    if least * each.cpus > capacity.free_cpus:
        return f"{_needs(least, each.cpus, 'CPU')}; {capacity.free_cpus:g} of {capacity.cpus:g} CPUs are free"
    if least * each.gpus > capacity.free_gpus:
        return f"{_needs(least, each.gpus, 'GPU')}; {capacity.free_gpus:g} of {capacity.gpus:g} GPUs are free"
    return ""


def _fits(candidate: Candidate, capacity: Capacity) -> str:
    each = candidate.spec.resources
    text = f"{capacity.free_cpus:g} of {capacity.cpus:g} CPUs are free"
    return text + (f", {capacity.free_gpus:g} of {capacity.gpus:g} GPUs" if each.gpus else "")


def _needs(trainers: int, each: float, what: str) -> str:
    def plural(n: float) -> str:
        return what if n == 1 else what + "s"

    total = trainers * each
    noun = "trainer" if trainers == 1 else "trainers"
    return f"needs {trainers} {noun} x {each:g} {plural(each)} = {total:g} {plural(total)}"
