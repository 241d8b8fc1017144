"""What trainers use of their machines and how their time is spent: as an attempt tells it, and as `GET /v1/jobs/{id}/system` answers it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from surefoot.moments import Moment

__all__ = ["MAX_SAMPLES", "SystemMetrics", "SystemPoint", "SystemSample"]

# samples of one batch
MAX_SAMPLES = 500

_Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False, strict=True)]


class SystemSample(BaseModel):
    """What one trainer used over some seconds. What could not be measured there is null: without a GPU there is nothing of one."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    trainer: Annotated[str, Field(min_length=1, max_length=60)]
    """The trainer's name, unique within the attempt."""
    window_s: _Amount | None = None
    """The seconds that were measured."""
    cpus: _Amount | None = None
    """CPUs in use on average, by its process and those that this started: 1.5 is one and a half."""
    cpus_limit: _Amount | None = None
    """CPUs that it may use: its container's bound, or the machine's."""
    memory_bytes: _Amount | None = None
    """Resident memory of its process and those that this started."""
    machine_memory_bytes: _Amount | None = None
    """Memory in use where it runs, by whatever: in its container where that has a bound, else on the machine. What the kernel can give
    back at once is not counted."""
    machine_memory_limit_bytes: _Amount | None = None
    """The bound of that: the container's, or what the machine has. At this bound the kernel kills."""
    received_bytes_per_s: _Amount | None = None
    """Bytes a second that came over its container's or machine's networks, the loopback's not counted."""
    sent_bytes_per_s: _Amount | None = None
    """Bytes a second that went."""
    gpu_percent: _Amount | None = None
    """How much of the time its GPU was busy, as NVML has it."""
    gpu_memory_bytes: _Amount | None = None
    """Memory in use on its GPU, by whatever."""
    gpu_memory_limit_bytes: _Amount | None = None
    """The memory that its GPU has."""
    gpu_watts: _Amount | None = None
    """The power that its GPU takes."""
    samples_per_s: _Amount | None = None
    """The samples a second that it computed itself: those of a job's trainers add up to the job's. Null where no step ended meanwhile."""
    exchange_s: _Amount | None = None
    """Seconds a step that its merges took once all trainers had come to them. Null where no step ended meanwhile."""
    wait_s: _Amount | None = None
    """Seconds a step that it waited at its merges for other trainers: the slowest one waits least. Null where no step ended meanwhile."""


class SystemPoint(SystemSample):
    """A sample, and when it was told."""

    at: Moment
    """When the control plane took it in, by its own clock."""
    live: bool = False
    """Whether that was within the last 45 seconds: its trainer lives, then, or did until just now."""


class SystemMetrics(BaseModel):
    """Samples of a job's trainers: each one's newest, or all that are kept, oldest first."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    samples: tuple[SystemPoint, ...] = ()
    """The samples. One a minute is kept, of the last two hours; of jobs with very many trainers, of less."""
