"""What a watched job waits for while it makes no steps, in words: from the first moment on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from surefoot._follow import Update
from surefoot.events import EventKind, LedgerRow
from surefoot.spec import JobState
from surefoot.views import JobView, NumberedEvent
from surefoot.words import UnknownWord

__all__ = ["Waiting"]

# who tells what the control plane tells itself
_SERVICE = "service"
_AWAY = (JobState.QUEUED, JobState.PAUSED)
_ENDS = (EventKind.TRAINER_LOST, EventKind.TRAINER_LEFT, EventKind.TRAINER_REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How far a job is on its way to the next step.

    Its state is what a view says, which is the present one: events may be those of long ago, told again to whoever begins to watch.
    """

    state: JobState | UnknownWord
    reason: str = ""
    wanted: int = 1
    # trainers that start, and those that are ready, by name
    starting: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    # the supervisor has told something
    supervised: bool = False
    # they are a generation
    formed: bool = False
    # a step was made
    trains: bool = False

    @staticmethod
    def of(view: JobView) -> Waiting:
        """What is known of a job before anything was told of it."""
        return Waiting(state=view.state, reason=view.reason, wanted=view.wanted_trainers, trains=view.steps_done > 0)

    def after(self, update: Update) -> Waiting:
        """Take what was told into account."""
        match update:
            case LedgerRow():
                return self if self.trains else replace(self, trains=True)
            case JobView():
                return replace(self, state=update.state, reason=update.reason, wanted=update.wanted_trainers)
            case NumberedEvent():
                return self._told(update)

    def _told(self, event: NumberedEvent) -> Waiting:
        if event.kind is EventKind.STATE and str(event.data.get("state")) in _AWAY:
            return Waiting(state=self.state, reason=self.reason, wanted=self.wanted, trains=self.trains)
        told = self._learned(event)
        return replace(told, supervised=True) if event.source != _SERVICE and not told.supervised else told

    def _learned(self, event: NumberedEvent) -> Waiting:
        name = str(event.data.get("trainer"))
        match event.kind:
            case EventKind.TRAINER_STARTED:
                return replace(self, starting=self.starting | {name}, ready=self.ready - {name})
            case EventKind.TRAINER_READY:
                return replace(self, starting=self.starting - {name}, ready=self.ready | {name})
            case EventKind.GENERATION:
                return replace(self, formed=True)
            case kind if kind in _ENDS:
                return replace(self, starting=self.starting - {name}, ready=self.ready - {name})
        return self

    @property
    def words(self) -> str:
        """What is waited for; empty while it trains, and at its end."""
        match self.state:
            case JobState.QUEUED:
                return self.reason or "in the queue: the control plane looks for room on the cluster"
            case JobState.STARTING:
                return self._starting()
            case JobState.RUNNING | JobState.RECOVERING if not self.trains:
                return self._starting()
            case JobState.PAUSING:
                return "its state is saved at the next step's boundary"
            case JobState.PAUSED:
                return "paused until `surefoot resume`"
        return ""

    def _starting(self) -> str:
        if self.formed:
            return "all are ready: the first step is being computed"
        if not self.starting and not self.ready:
            if self.supervised:
                return "Ray starts a process for each trainer"
            return "Ray starts the job's supervisor, which starts its trainers"
        wanted = max(len(self.starting) + len(self.ready), self.wanted)
        return f"{len(self.ready)} of {wanted} trainers are ready: each starts Python, imports torch and your code, and runs up to its loop"
