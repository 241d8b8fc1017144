"""Which batch this trainer will want next: guesses that data workers load ahead by. A wrong guess costs time, never a bit."""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

__all__ = ["BatchKey", "PrefetchPlan"]


class BatchKey(NamedTuple):
    """Names a batch of one dataset."""

    step: int
    phase: int
    sub_task: int
    # number within the sub-task: an evaluation's has several
    turn: int


class PrefetchPlan:
    """Expects of the next step what the last one wanted; before there is a last one, the sub-tasks that follow the present one."""

    def __init__(self, num_sub_tasks: int, *, every_step: bool) -> None:
        self._num_sub_tasks = num_sub_tasks
        # an evaluation's next step is not known
        self._every_step = every_step
        self._last: list[tuple[int, int]] = []
        self._present: list[tuple[int, int]] = []
        self._at: BatchKey | None = None

    def observe(self, key: BatchKey) -> None:
        """Learn what was wanted."""
        if self._at is not None and key.step != self._at.step:
            self._last, self._present = self._present, []
        place = (key.phase, key.sub_task)
        if place not in self._present:
            self._present.append(place)
        self._at = key

    def next(self, known: Container[BatchKey], turns: dict[int, int], limit: int = 256) -> BatchKey | None:
        """Return the next key worth loading that is not known; None when there is none among the next `limit`.

        `turns`: batches a sub-task, by sub-task; 1 where absent.
        """
        for key in islice(self._upcoming(turns), limit):
            if key not in known:
                return key
        return None

    def _upcoming(self, turns: dict[int, int]) -> Iterator[BatchKey]:
        at = self._at
        if at is None:
            return
        for turn in range(at.turn + 1, turns.get(at.sub_task, 1)):
            yield at._replace(turn=turn)
        for phase, sub_task in self._rest_of_step(at):
            for turn in range(turns.get(sub_task, 1)):
                yield BatchKey(at.step, phase, sub_task, turn)
        step = at.step
        while self._every_step:
            step += 1
            for phase, sub_task in self._last or self._present:
                yield BatchKey(step, phase, sub_task, 0)

    def _rest_of_step(self, at: BatchKey) -> list[tuple[int, int]]:
        place = (at.phase, at.sub_task)
        if place in self._last:
            rest = self._last[self._last.index(place) + 1 :]
            return rest if self._every_step else [p for p in rest if p[0] == at.phase]
        if self._last and len(self._present) > 1:
            return []  # one more than expected: a lost trainer's
        span = sum(1 for phase, _ in self._last if phase == at.phase) or self._num_sub_tasks
        stop = min(at.sub_task + span, self._num_sub_tasks)
        return [(at.phase, sub_task) for sub_task in range(at.sub_task + 1, stop)]
