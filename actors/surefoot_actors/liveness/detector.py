"""The judgement of trainers' beats: pure, it knows no clock but the `now` it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from surefoot_actors.protocol.death_cause import DeathCause

__all__ = [
    "SILENT_AFTER_S",
    "STALL_AFTER_S",
    "STOPPED_AFTER_S",
    "TICK_S",
    "Change",
    "Condition",
    "FailureDetector",
    "Heartbeat",
    "TrainerHealth",
]

# A state "stopped" seen over so long is no passing one.
STOPPED_AFTER_S = 0.2
SILENT_AFTER_S = 1.0
TICK_S = 0.05
# How long one that an earlier supervisor has started may take to be heard by this one.
FIRST_BEAT_S = 5.0
# When nobody at all was heard for so long it is we who were cut off.
BLIND_AFTER_S = 0.5
# Between two looks of ours so long apart we ourselves were not running: the rest is not the trainers' silence.
STALL_AFTER_S = 0.2
# What a watchdog says of its trainer's end, where it knows.
_CAUSES = {
    "oom": (DeathCause.OUT_OF_MEMORY, "out of memory: the kernel's OOM killer struck where it ran"),
    "node": (DeathCause.NODE, "its node died: the raylet is gone"),
}


class Condition(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    SILENT = "silent"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a watchdog tells of its trainer."""

    # of /proc/PID/stat: R S D T t Z ...
    state: str
    cpu_ms: int
    # the sub-task last started, -1: none
    round: int = -1
    sub_task: int = -1

    @property
    def where(self) -> str:
        return f", in sub-task {self.sub_task} of round {self.round}" if self.sub_task >= 0 else ""

    @property
    def detail(self) -> str:
        return f"process state {self.state}, {self.cpu_ms / 1000:.1f} s of CPU{self.where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerHealth:
    """All that is known of one trainer's process."""

    beat: Heartbeat
    # clock of the last beat
    heard: float
    # clock of the first of the unbroken row of "stopped" beats that `beat` ends; None where it is another
    stopped_since: float | None = None
    gone: bool = False
    # of its end, a key of _CAUSES, or a signal and a line ("SIGBUS@train.py:12"); anything else: not known
    cause: str = ""

    def condition(self, now: float) -> Condition:
        if self.gone:
            return Condition.GONE
        if now - self.heard > SILENT_AFTER_S:
            return Condition.SILENT
        if self.stopped_since is not None and self.heard - self.stopped_since >= STOPPED_AFTER_S:
            return Condition.STOPPED
        return Condition.RUNNING

    def unhealthy_s(self, now: float) -> float:
        """For how long it has not been seen running."""
        return max(0.0, now - (self.heard if self.stopped_since is None else self.stopped_since))

    def after(self, beat: Heartbeat, now: float) -> TrainerHealth:
        stopped = beat.state in "Tt"
        since = (now if self.stopped_since is None else self.stopped_since) if stopped else None
        return replace(self, beat=beat, heard=now, stopped_since=since)

    def shifted(self, by: float) -> TrainerHealth:
        since = None if self.stopped_since is None else self.stopped_since + by
        return replace(self, heard=self.heard + by, stopped_since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    trainer: str
    condition: Condition
    detail: str


class FailureDetector:
    """Judges observations; knows no clock but the `now` it is given, which never goes back.

    Silence is judged by comparison: of several trainers one is silent while another is heard. That nobody is heard says more of us,
    and to suspect all would cost all but the first that is heard again.

    Every observation is also a look of our own: where two are further apart than our ticks explain, we stalled, and
    what the trainers did meanwhile is not known; so that time counts neither as silence nor as stopped.
    """

    def __init__(self) -> None:
        self.health: dict[str, TrainerHealth] = {}
        self._told: dict[str, Condition] = {}
        self._looked: float | None = None
        # clock of the newest beat of anybody
        self._newest: float | None = None

    def expect(self, trainer: str, now: float) -> None:
        """A trainer's silence counts FIRST_BEAT_S from now, though it has never been heard."""
        self._look(now)
        heard = now + FIRST_BEAT_S - SILENT_AFTER_S
        self.health.setdefault(trainer, TrainerHealth(beat=Heartbeat(state="?", cpu_ms=0), heard=heard))
        self._told.setdefault(trainer, Condition.RUNNING)

    def beat(self, trainer: str, beat: Heartbeat, now: float) -> list[Change]:
        """Take a beat. A trainer that is gone stays gone."""
        self._look(now)
        self._hear(now)
        known = self.health.get(trainer)
        self.health[trainer] = (known or TrainerHealth(beat=beat, heard=now)).after(beat, now)
        return self._changes(now)

    def gone(self, trainer: str, now: float, round_: int = -1, sub_task: int = -1, cause: str = "") -> list[Change]:
        """Take that the process is dead, for certain, and what it was computing."""
        self._look(now)
        known = self.health.get(trainer) or TrainerHealth(beat=Heartbeat(state="X", cpu_ms=0), heard=now)
        if not known.gone:
            last = replace(known.beat, state="X", round=round_, sub_task=sub_task)
            self.health[trainer] = replace(known, beat=last, heard=now, gone=True, cause=cause)
        return self._changes(now)

    def tick(self, now: float) -> list[Change]:
        """Look at the clock; to be called every TICK_S."""
        self._look(now)
        return self._changes(now)

    def _look(self, now: float) -> None:
        missed = 0.0 if self._looked is None else now - self._looked - TICK_S
        self._looked = now
        if missed > STALL_AFTER_S - TICK_S:
            self.health = {trainer: health.shifted(missed) for trainer, health in self.health.items()}
            self._newest = None if self._newest is None else self._newest + missed

    def _hear(self, now: float) -> None:
        """Somebody is heard. If nobody was for a while, that was not the trainers' silence: they are given time anew.

        Each such while counts STALL_AFTER_S all the same: where beats are ever slow to come, one that is silent is found out later.
        """
        blind = 0.0 if self._newest is None else now - self._newest
        self._newest = now
        if blind > BLIND_AFTER_S and self._several:
            self.health = {trainer: health.shifted(blind - STALL_AFTER_S) for trainer, health in self.health.items()}

    @property
    def _several(self) -> bool:
        """Whether there are several to compare: not counting those that have been silent for long, and may never say that they are gone."""
        heard = (
            t for t, health in self.health.items() if not health.gone and self._told.get(t) is not Condition.SILENT
        )
        return len(tuple(heard)) > 1

    def _changes(self, now: float) -> list[Change]:
        # among several one is silent only while others are heard: when all are, they are no worse than we
        heard_until = now if self._newest is None or not self._several else min(now, self._newest)
        changes = []
        for trainer, health in self.health.items():
            condition = health.condition(heard_until)
            if self._told.get(trainer) is not condition:
                self._told[trainer] = condition
                changes.append(Change(trainer=trainer, condition=condition, detail=detail(health, condition, now)))
        return changes


def cause_of_death(health: TrainerHealth) -> DeathCause:
    """Return of what it died, as far as its watchdog knows."""
    return _CAUSES.get(health.cause, (DeathCause.PROCESS, ""))[0]


def killed_by(health: TrainerHealth) -> str:
    """Return "killed by SIGBUS, at train.py:12" if its watchdog saw such a signal; empty: it did not."""
    name, _, line = health.cause.partition("@")
    at = f", at {line}" if line else ""
    return f"killed by {name}{at}" if name.startswith("SIG") else ""


def detail(health: TrainerHealth, condition: Condition, now: float) -> str:
    if condition is Condition.GONE:
        _, said = _CAUSES.get(health.cause, (DeathCause.PROCESS, killed_by(health) or "its process died"))
        return said + health.beat.where
    heard = f"last heard {now - health.heard:.1f} s ago; " if condition is Condition.SILENT else ""
    return heard + health.beat.detail
