"""What a job that failed printed last: it stands beside its traceback."""

from __future__ import annotations

from surefoot.client import Job
from surefoot.errors import ServiceError
from surefoot.events import EventKind
from surefoot.spec import JobState

__all__ = ["last_lines"]

# so many
_LINES = 20


def last_lines(job: Job) -> list[str]:
    """Return the last lines of the trainer on which a job failed, with a heading; nothing where it did not fail, or printed nothing."""
    if job.state is not JobState.FAILED:
        return []
    try:
        failed = [event for event in job.events() if event.kind is EventKind.FAILED]
        trainer = str(failed[-1].data.get("trainer") or "") if failed else ""
        lines = [line for line in job.logs(tail=_LINES, trainer=trainer or None) if line.stream != "surefoot"]
    except ServiceError:
        return []  # an older service keeps none, and how the job ended is told all the same
    if not lines:
        return []
    whose = f"{trainer} printed last" if trainer else "printed last"
    return ["", f"{whose} (all: surefoot logs {job.id}):", *(f"  {line.text}" for line in lines)]
