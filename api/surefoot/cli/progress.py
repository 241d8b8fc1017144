"""How far a watched job is, as a value: updates go in, numbers and lines come out. Pure; `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.cells import cell_len

from surefoot._follow import Update
from surefoot.bounds import MAX_WHOLE
from surefoot.cli.folding import shortened
from surefoot.cli.format import describe, duration, number, steps
from surefoot.cli.values import GAP, loss_first, values_in
from surefoot.cli.waiting import Waiting
from surefoot.events import EventKind, LedgerRow
from surefoot.printable import printable_line
from surefoot.spec import JobState
from surefoot.views import JobView, NumberedEvent

__all__ = ["Pace", "Progress", "line", "told"]

# Steps that the speed is measured over.
_RECENT = 50
# A plain progress line comes at every twentieth of the steps, but not too often, and not too seldom.
_PARTS = 20
_LEAST_S, _MOST_S = 2.0, 30.0

_LINE = 160

# What is worth a line while watching; the rest is in `show`.
_TOLD = frozenset(EventKind) - {EventKind.TRAINER_STARTED, EventKind.TRAINER_READY, EventKind.FINISHED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the progress line needs."""

    done: int = 0
    total: int | None = None
    trainers: int = 0
    # the values to tell, by name; none: all, the loss first
    show: tuple[str, ...] = ()
    # those of them that were logged last, each with its name
    logged: tuple[tuple[str, float], ...] = ()
    # what trainers use, in a few words; empty: that is not known
    system: str = ""
    # seconds of the most recent steps, at most _RECENT
    recent_s: tuple[float, ...] = ()
    # what it waits for while it makes none; None: nobody asks
    waiting: Waiting | None = None

    def after(self, update: Update) -> Progress:
        """Take what was told into account."""
        waiting = None if self.waiting is None else self.waiting.after(update)
        return replace(self._after(update), waiting=waiting)

    def _after(self, update: Update) -> Progress:
        match update:
            case LedgerRow(result=result, circumstances=circumstances):
                return replace(
                    self,
                    done=max(self.done, result.step + 1),
                    trainers=circumstances.trainers,
                    logged=_chosen(self, result.values),
                    recent_s=(*self.recent_s, circumstances.seconds)[-_RECENT:],
                )
            case JobView():
                return replace(self, total=update.num_steps or self.total, trainers=update.trainers or self.trainers)
            case NumberedEvent():
                total = (
                    update.data.get("num_steps") if update.kind in (EventKind.GENERATION, EventKind.LENGTH) else None
                )
                return replace(self, total=total if isinstance(total, int) else self.total)

    @property
    def waits_for(self) -> str:
        """What is waited for, in words; empty while it trains."""
        return "" if self.waiting is None else printable_line(self.waiting.words)

    @property
    def steps_per_s(self) -> float | None:
        spent = sum(self.recent_s)
        return len(self.recent_s) / spent if spent > 0 else None

    @property
    def eta_s(self) -> float | None:
        speed = self.steps_per_s
        return None if speed is None or self.total is None else min(max(0, self.total - self.done), MAX_WHOLE) / speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the next plain progress line is due."""

    part: int = 0
    at: float

    def due(self, progress: Progress, now: float) -> Pace | None:
        """Return the pace after a line that is due now; None when none is."""
        part = progress.done * _PARTS // progress.total if progress.total else 0
        if progress.done and now - self.at >= (_LEAST_S if part > self.part else _MOST_S):
            return Pace(part=part, at=now)
        return None


def line(progress: Progress, width: int | None = _LINE) -> str:
    """Say where the job is, in a line of so many columns: values that do not fit are counted, then the speed is left out, and so on.

    The step and the first value are told in any case. None: everything.
    """
    step = f"step {steps(progress.done, progress.total)}"
    logged = dict(progress.logged)
    least = values_in(logged, 0)
    for rest in _rests(progress):
        told = [part for part in (step, least, *rest) if part]
        if width is None or cell_len(GAP.join(told)) <= width:
            break
    room = None if width is None else width - cell_len(GAP.join([step, *rest])) - len(GAP)
    return GAP.join(part for part in (step, values_in(logged, room), *rest) if part)


def _rests(progress: Progress) -> list[tuple[str, ...]]:
    """What is told behind the values: all of it, and ever less."""
    trainers = f"{progress.trainers} trainer{'' if progress.trainers == 1 else 's'}"
    speed = "" if progress.steps_per_s is None else f"{number(progress.steps_per_s)} steps/s"
    eta = f"ETA {duration(progress.eta_s)}" if progress.eta_s else ""
    wanted = ((trainers, speed, progress.system, eta), (trainers, speed, eta), (trainers, eta), (eta,), ())
    return [tuple(part for part in parts if part) for parts in wanted]


def told(update: Update) -> str | None:
    """Return the line that an update is worth, if any: each loss and recovery as it happens. `show` has the long reasons."""
    if isinstance(update, NumberedEvent) and update.kind in _TOLD:
        if update.data.get("state") == JobState.QUEUED and not update.data.get("reason"):
            return None  # what it waits for is told anyway
        text = describe(update).partition("\n")[0]
        return shortened(text, _LINE)
    return None


def _chosen(progress: Progress, values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """The values to tell: of this step, or as they were logged last, since not every step logs all."""
    last = dict(progress.logged) | values
    return tuple((name, last[name]) for name in progress.show or loss_first(last) if name in last)
