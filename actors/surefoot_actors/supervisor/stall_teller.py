"""Tells of a job that makes no progress: which trainer is where, in which step and sub-task, at which line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from surefoot.events import EventKind
from surefoot_actors.cluster.ports import TrainerGoneError, Where
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.protocol.membership.machine import MembershipState
from surefoot_actors.supervisor import stalls
from surefoot_actors.supervisor.data_news import DataNews
from surefoot_actors.supervisor.ledger_intake import LedgerIntake
from surefoot_actors.supervisor.stalls import Stalled, StallWatch
from surefoot_actors.supervisor.trainer_link import TrainerLink

__all__ = ["StallTeller"]

LOOK_EVERY_S = 1.0
# A trainer that says where it is does so at once, unless its interpreter is held by native code.
ANSWER_S = 2.0


class StallTeller:
    """Runs beside the supervisor, on its event loop; it only looks and tells."""

    def __init__(
        self,
        state: Callable[[], MembershipState],
        links: Mapping[str, TrainerLink],
        rows: LedgerIntake,
        liveness: LivenessServer,
        tell: Callable[..., None],
        news: DataNews,
    ) -> None:
        self._news = news
        self._state, self._links, self._rows, self._liveness, self._tell = state, links, rows, liveness, tell
        self._watch = StallWatch()
        # what was told to have stalled, and goes on
        self._told: set[str] = set()
        # the step that was made again when that was asked last
        self._again = -1

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            running = [t for t, link in self._links.items() if link.handle is not None]
            expected = stalls.awaited(
                self._state(),
                self._rows.newest,
                self._rows.seconds,
                running,
                copies=self._news.count,
                copying=self._news.copying,
            )
            for change in self._watch.look(time.monotonic(), expected):
                if isinstance(change, Stalled):
                    await self._tell_stall(change)
                elif change.name in self._told:
                    self._told.discard(change.name)
                    self._tell(EventKind.WARNING, message=f"{change.name} goes on, after {change.seconds:.0f} s")

    async def _tell_stall(self, stalled: Stalled) -> None:
        trainers = stalled.awaited.trainers
        places = await asyncio.gather(*(self._place(t) for t in trainers))
        if stalled.name == stalls.THE_JOB and self._makes_again([p.step for p in places if p is not None]):
            return
        self._told.add(stalled.name)
        said = [_said(t, place, self._beat(t)) for t, place in zip(trainers, places, strict=True)]
        message = f"no progress for {stalled.seconds:.0f} s: {stalled.awaited.what}" + "".join(f"; {s}" for s in said)
        found: list[dict[str, Any]] = [
            {"trainer": t, "step": p.step, "sub_task": p.sub_task, "line": p.line, "waits_for": p.waits_for}
            for t, p in zip(trainers, places, strict=True)
            if p is not None
        ]
        self._tell(EventKind.WARNING, message=message, seconds=round(stalled.seconds, 1), trainers=found)

    def _makes_again(self, steps: list[int]) -> bool:
        """Whether steps that are in the ledger are made again, since everybody that had the state was lost: it goes on, with no new row."""
        at, before, newest = max(steps, default=-1), self._again, self._rows.newest
        self._again = at
        return newest is not None and 0 <= at < newest and at != before

    async def _place(self, trainer: str) -> Where | None:
        """Where the trainer says that it is; None: it does not say."""
        link = self._links.get(trainer)
        if link is None or link.handle is None:
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                return await link.handle.where()
        except (TimeoutError, TrainerGoneError):
            return None

    def _beat(self, trainer: str) -> str:
        last = self._liveness.last(trainer)
        return "" if last is None else f" ({last.detail})"


def _said(trainer: str, place: Where | None, beat: str) -> str:
    if place is None:
        return f"{trainer} does not answer: it is in native code that holds the interpreter, or cannot be reached{beat}"
    if place.waits_for:
        return f"{trainer} waits for {place.waits_for}" + (f", at {place.line}" if place.line else "")
    where = f"in step {place.step}" if place.step >= 0 else "before its first step"
    if place.sub_task >= 0:
        where = f"in sub-task {place.sub_task} of step {place.step}"
    return f"{trainer} is {where}, at {place.line or 'a line that is not known'}{beat}"
