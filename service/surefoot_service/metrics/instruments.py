"""What this process has seen, counted since it started: requests, passes of the reconciler, and what attempts have told.

A counter that begins again at 0 after a restart is what Prometheus expects. What is stored is not counted here but read when it is
asked for (`surefoot_service.store.gauges`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram

from surefoot.told import (
    AnyTold,
    CheckpointFailedTold,
    CheckpointTold,
    RecoveredTold,
    TrainerLostTold,
)
from surefoot.words import EventKind

__all__ = ["Instruments", "JobCounts", "PassClock"]

# jobs that are counted for at a time: the ones that told something last
_JOBS = 1000
_KINDS = frozenset(str(kind) for kind in EventKind)
_HTTP_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RECOVERY_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CHECKPOINT_S = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


@dataclass(slots=True, kw_only=True)
class JobCounts:
    """What one job has told since this process started."""

    recoveries: int = 0
    recovery_s: float = 0.0
    sub_tasks_again: int = 0
    trainers_lost: int = 0
    checkpoint_failures: int = 0


@dataclass(slots=True, kw_only=True)
class PassClock:
    """When the reconciler looks at the store and the cluster: so that one that is stuck, or late, is seen."""

    running: bool = False
    # of the pass that is under way; None: it waits
    began: float | None = None
    # when it is to look again; None: once it is woken
    due: float | None = None

    @contextmanager
    def started(self) -> Iterator[None]:
        """There is a loop inside the block."""
        self.running = True
        try:
            yield
        finally:
            self.running, self.due = False, None

    def lag_s(self, now: float) -> float:
        """How long the present pass has taken, or by how much the next one is late."""
        if self.began is not None:
            return now - self.began
        return max(0.0, now - self.due) if self.due is not None else 0.0


@dataclass(slots=True, kw_only=True)
class Instruments:
    """Everything that is counted, in a registry of the service's own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    clock: PassClock = field(default_factory=PassClock)
    jobs: OrderedDict[str, JobCounts] = field(default_factory=OrderedDict)
    requests: Histogram = field(init=False)
    passes: Histogram = field(init=False)
    attempts_started: Counter = field(init=False)
    attempts_condemned: Counter = field(init=False)
    events: Counter = field(init=False)
    rows: Counter = field(init=False)
    recoveries: Histogram = field(init=False)
    trainers_lost: Counter = field(init=False)
    sub_tasks_again: Counter = field(init=False)
    checkpoints: Histogram = field(init=False)
    checkpoint_bytes: Counter = field(init=False)
    checkpoint_failures: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.requests = self._histogram(
            "http_request_seconds",
            "Seconds until a request was answered; of a stream or a long poll, until its answer began.",
            _HTTP_S,
            ("method", "route", "status"),
        )
        self.passes = self._histogram("reconciler_pass_seconds", "Seconds that a pass of the reconciler took.", _HTTP_S)
        self.recoveries = self._histogram(
            "recovery_seconds", "Seconds from the loss of a trainer to the next committed step.", _RECOVERY_S
        )
        self.checkpoints = self._histogram(
            "checkpoint_seconds", "Seconds from a checkpoint's snapshot until it was durable.", _CHECKPOINT_S
        )
        self.attempts_started = self._counter("attempts_started", "Attempts that were given to the cluster.")
        self.attempts_condemned = self._counter("attempts_condemned", "Attempts that were given up.")
        self.events = self._counter("events", "Events that were stored, by kind.", ("kind",))
        self.rows = self._counter("ledger_rows", "Ledger rows that attempts sent, those sent again included.")
        self.trainers_lost = self._counter("trainers_lost", "Trainers that were lost.")
        self.sub_tasks_again = self._counter("sub_tasks_again", "Sub-tasks that were computed again after losses.")
        self.checkpoint_bytes = self._counter("checkpoint_bytes", "Bytes of the checkpoints that became durable.")
        self.checkpoint_failures = self._counter(
            "checkpoint_failures", "Checkpoints that could not be written: storage is full, or away."
        )

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"surefoot_{name}", what, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"surefoot_{name}", what, labels, registry=self.registry)

    def took_in(self, job: str, events: Iterable[AnyTold], num_rows: int) -> None:
        """Count what an attempt of the job has told, once it is stored."""
        self.rows.inc(num_rows)
        for event in events:
            kind = str(event.kind)
            self.events.labels(kind if kind in _KINDS else "other").inc()
            self._count(self._of(job), event)

    def _of(self, job: str) -> JobCounts:
        counts = self.jobs.setdefault(job, JobCounts())
        self.jobs.move_to_end(job)
        if len(self.jobs) > _JOBS:
            self.jobs.popitem(last=False)
        return counts

    def _count(self, counts: JobCounts, event: AnyTold) -> None:
        match event:
            case RecoveredTold(data=data):
                counts.recoveries += 1
                counts.recovery_s += data.seconds or 0.0
                counts.sub_tasks_again += data.sub_tasks_again or 0
                self.recoveries.observe(data.seconds or 0.0)
                self.sub_tasks_again.inc(data.sub_tasks_again or 0)
            case TrainerLostTold():
                counts.trainers_lost += 1
                self.trainers_lost.inc()
            case CheckpointTold(data=data):
                self.checkpoints.observe(data.seconds or 0.0)
                self.checkpoint_bytes.inc(data.bytes or 0)
            case CheckpointFailedTold():
                counts.checkpoint_failures += 1
                self.checkpoint_failures.inc()

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Time a pass of the reconciler, inside the block."""
        self.clock.began, self.clock.due = time.monotonic(), None
        try:
            with self.passes.time():
                yield
        finally:
            self.clock.began = None

    def rests(self, pause_s: float | None) -> float | None:
        """Note in how many seconds the reconciler looks again, and return it; None: when it is woken."""
        self.clock.due = None if pause_s is None else time.monotonic() + pause_s
        return pause_s
