"""What is so at the moment, as Prometheus is told it: plain values in, families of samples out. Pure.

A job has series of its own while it goes on, and no longer: what is kept in Prometheus is bounded by what runs, not by what ever ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from surefoot.spec import JobState
from surefoot.system import SystemPoint, SystemSample
from surefoot_service.metrics.instruments import JobCounts

__all__ = ["JobFacts", "Snapshot", "families"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A job that goes on."""

    id: str
    name: str
    state: str
    trainers: int
    wanted_trainers: int
    generation: int
    attempts: int
    steps_done: int
    batch_size: int
    # None: not known yet
    num_steps: int | None = None
    checkpoint_step: int | None = None
    # of its newest steps; None: there is none yet
    step_s: float | None = None
    # what its trainers have used, and cost where that is known
    trainer_s: float = 0.0
    cost: float | None = None
    # since this process started
    counts: JobCounts = field(default_factory=JobCounts)
    # of its trainers that live
    system: Sequence[SystemPoint] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the control plane is doing."""

    version: str
    # how many jobs there are, by state
    jobs_by_state: Mapping[str, int]
    # since when the job waits that has waited longest; 0: none waits
    queue_oldest_s: float
    jobs: Sequence[JobFacts]
    # jobs that go on, beyond those that have series of their own
    unlisted: int
    checks: Mapping[str, bool]
    # None: it was not asked yet
    ray: bool | None
    reconciler_running: bool
    reconciler_lag_s: float


def families(now: Snapshot) -> Iterator[Metric]:
    """Yield everything as Prometheus reads it."""
    yield _gauge("info", "The service's version, as a label.", {(now.version,): 1.0}, "version")
    states: dict[tuple[str, ...], float] = {(str(state),): 0.0 for state in JobState}
    states |= {(state,): float(number) for state, number in now.jobs_by_state.items()}
    yield _gauge("jobs", "Jobs by state.", states, "state")
    yield _gauge("queue_length", "Jobs that wait.", {(): states[(str(JobState.QUEUED),)]})
    yield _gauge(
        "queue_oldest_seconds", "How long the job has waited that has waited longest.", {(): now.queue_oldest_s}
    )
    checks: dict[tuple[str, ...], float] = {(name,): float(ok) for name, ok in now.checks.items()}
    yield _gauge("check_ok", "Whether the service has what it needs, by what it is (as /v1/ready).", checks, "check")
    if now.ray is not None:
        yield _gauge("ray_reachable", "Whether the Ray cluster answered when last asked.", {(): float(now.ray)})
    yield _gauge("reconciler_running", "Whether there is a loop over the cluster.", {(): float(now.reconciler_running)})
    yield _gauge("reconciler_lag_seconds", "How long the loop's pass takes, or is late.", {(): now.reconciler_lag_s})
    yield _gauge("jobs_unlisted", "Jobs that go on and have no series of their own.", {(): float(now.unlisted)})
    yield _gauge("job_info", "A job's name, as a label.", {(j.id, j.name): 1.0 for j in now.jobs}, "job", "name")
    yield _gauge(
        "job_state", "1 for the state that a job is in.", {(j.id, j.state): 1.0 for j in now.jobs}, "job", "state"
    )
    for name, what, value in _GAUGES:
        yield _gauge(f"job_{name}", what, _each(now.jobs, value), "job")
    for name, what, value in _COUNTERS:
        family = CounterMetricFamily(f"surefoot_job_{name}", what, labels=("job",))
        for labels, number in _each(now.jobs, value).items():
            family.add_metric(labels, number)
        yield family
    yield from _of_trainers(now.jobs)


def _of_trainers(jobs: Sequence[JobFacts]) -> Iterator[Metric]:
    """Each of a trainer's samples as a gauge, while the trainer lives."""
    for name, told in SystemSample.model_fields.items():
        if name not in ("trainer", "window_s"):
            samples: dict[tuple[str, ...], float] = {
                (j.id, s.trainer): float(v) for j in jobs for s in j.system if (v := getattr(s, name)) is not None
            }
            yield _gauge(f"trainer_{_in_full(name)}", told.description or "", samples, "job", "trainer")


def _in_full(name: str) -> str:
    """As Prometheus names units: "samples_per_second", "wait_seconds"."""
    return f"{name[:-2]}_second" if name.endswith("_per_s") else f"{name[:-2]}_seconds" if name.endswith("_s") else name


_Value = Callable[[JobFacts], float | None]
_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    ("trainers", "Trainers that train: members of the present generation.", lambda j: j.trainers),
    ("trainers_wanted", "Trainers that a job is to have.", lambda j: j.wanted_trainers),
    ("generation", "The number of the present generation.", lambda j: j.generation),
    ("attempts", "Attempts that there were.", lambda j: j.attempts),
    ("steps_planned", "Steps of the whole run, where that is known.", lambda j: j.num_steps),
    ("checkpoint_step", "The step that the newest checkpoint goes on with.", lambda j: j.checkpoint_step),
    ("step_seconds", "Seconds a step, of the newest ones.", lambda j: j.step_s),
    ("samples_per_second", "Samples a second, by the newest steps.", lambda j: j.batch_size / j.step_s if j.step_s else None),
)  # fmt: skip
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("steps", "Steps that are done.", lambda j: j.steps_done),
    ("samples", "Samples that were trained on.", lambda j: j.steps_done * j.batch_size),
    ("trainer_seconds", "Seconds of its trainers, added up.", lambda j: j.trainer_s),
    ("cost", "What its trainers have cost, where their prices are set.", lambda j: j.cost),
    ("recoveries", "Losses that the job went on after.", lambda j: j.counts.recoveries),
    ("recovery_seconds", "Seconds from losses to the next committed steps.", lambda j: j.counts.recovery_s),
    ("sub_tasks_again", "Sub-tasks that were computed again after losses.", lambda j: j.counts.sub_tasks_again),
    ("trainers_lost", "Trainers that were lost.", lambda j: j.counts.trainers_lost),
    ("checkpoint_failures", "Checkpoints that could not be written.", lambda j: j.counts.checkpoint_failures),
)


def _each(jobs: Sequence[JobFacts], value: _Value) -> dict[tuple[str, ...], float]:
    return {(job.id,): float(number) for job in jobs if (number := value(job)) is not None}


def _gauge(name: str, what: str, samples: Mapping[tuple[str, ...], float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"surefoot_{name}", what, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family
