"""Which queued jobs start: a pure decision, each with its reason.

A job starts where its fewest trainers fit on what there is and what the autoscaler could still add: it is the trainers of started jobs,
pending on Ray, that make the autoscaler add nodes. The queue's order holds: a job that waits for room is not overtaken by a later one,
or a stream of small jobs would starve it. A job that the cluster could never hold does not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surefoot.spec import JobSpec, Resources
from surefoot_service.scheduler.capacity import Addable, Capacity, NodeSize

__all__ = ["Candidate", "Capacity", "Decision", "NodeSize", "decide"]


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
    most = capacity.most
    for candidate in queue:
        never = _never_fits(candidate.spec, capacity, most)
        if never:
            decisions.append(Decision(job=candidate.job, start=False, reason=never))
            continue
        if waiting is not None:
            decisions.append(Decision(job=candidate.job, start=False, reason=f"behind job {waiting} in the queue"))
            continue
        short = _short(candidate.spec, capacity, most)
        decisions.append(Decision(job=candidate.job, start=not short, reason=short or _fits(candidate, capacity)))
        if short:
            waiting = candidate.job
        else:
            each = candidate.spec.resources
            capacity = capacity.with_used(candidate.wanted * each.cpus, candidate.wanted * each.gpus)
            most = most.with_used(candidate.wanted * each.cpus, candidate.wanted * each.gpus)
    return decisions


def _never_fits(spec: JobSpec, capacity: Capacity, most: Capacity) -> str:
    """Why the empty cluster could not hold the job's fewest trainers, with all that could be added; or nothing."""
    least, each = spec.min_trainers, spec.resources
    for amount, what, has, could in (
        (each.cpus, "CPU", capacity.cpus, most.cpus),
        (each.gpus, "GPU", capacity.gpus, most.gpus),
    ):
        if least * amount > could:
            more = f", and {could:g} with all that the autoscaler could add" if could > has else ""
            return f"{_needs(least, amount, what)}; the cluster has {has:g}{more}"
    places = most.places(each)
    if least > places:
        more = " and those that the autoscaler could add" if capacity.addable else ""
        return f"needs {least} trainers of {_size(each)}; the cluster's nodes{more} have room for {places}"
    return ""


def _short(spec: JobSpec, capacity: Capacity, most: Capacity) -> str:
    """What is not free now, nor could be added; or nothing."""
    least, each = spec.min_trainers, spec.resources
    for amount, what, free, has, could in (
        (each.cpus, "CPU", capacity.free_cpus, capacity.cpus, most.free_cpus),
        (each.gpus, "GPU", capacity.free_gpus, capacity.gpus, most.free_gpus),
    ):
        if least * amount > could:
            return f"{_needs(least, amount, what)}; {free:g} of {has:g} {what}s are free{_no_more(capacity, each)}"
    return ""


def _fits(candidate: Candidate, capacity: Capacity) -> str:
    each, least = candidate.spec.resources, candidate.spec.min_trainers
    text = f"{capacity.free_cpus:g} of {capacity.cpus:g} CPUs are free"
    text += f", {capacity.free_gpus:g} of {capacity.gpus:g} GPUs" if each.gpus else ""
    has_room = least * each.cpus <= capacity.free_cpus and least * each.gpus <= capacity.free_gpus
    if has_room and least <= capacity.places(each):
        return text
    return f"{text}; the autoscaler could add {_names(capacity.useful(each))}"


def _no_more(capacity: Capacity, each: Resources) -> str:
    """Why the autoscaler does not help; nothing where there is none."""
    if not capacity.addable:
        return ""
    useful = capacity.useful(each)
    return f"; what the autoscaler could add is not enough: {_names(useful) if useful else 'nothing'}"


def _names(added: Sequence[Addable]) -> str:
    return " and ".join(f"{one.count} of {one.node.group}" for one in added)


def _size(each: Resources) -> str:
    return f"{each.cpus:g} CPUs" + (f" and {each.gpus:g} GPUs" if each.gpus else "")


def _needs(trainers: int, each: float, what: str) -> str:
    def plural(n: float) -> str:
        return what if n == 1 else what + "s"

    total = trainers * each
    noun = "trainer" if trainers == 1 else "trainers"
    return f"needs {trainers} {noun} x {each:g} {plural(each)} = {total:g} {plural(total)}"
