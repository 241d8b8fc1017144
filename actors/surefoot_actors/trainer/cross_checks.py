"""One trainer's part in cross-checks: what it computes besides its own sub-tasks, and the bits that it shows. Under the commit lock."""

from __future__ import annotations

from collections.abc import Sequence

from surefoot_actors.engine.exchange.contribution import NO_DIGEST, Shown
from surefoot_actors.protocol.cross_checks import CrossCheck, cross_checks, is_due
from surefoot_actors.protocol.member.machine import MemberState
from surefoot_actors.protocol.messages import Generation
from surefoot_actors.protocol.spans import owned

__all__ = ["CrossChecks"]


class CrossChecks:
    """A member is checked in the first training round of a generation in which it owns a sub-task, if no round has checked it before.

    In some steps all are.
    """

    def __init__(self, num_sub_tasks: int) -> None:
        self._num_sub_tasks = num_sub_tasks
        self._generation: Generation | None = None
        self._rank = 0
        # of this generation, by rank: no round has checked them yet
        self._unchecked: frozenset[int] = frozenset()
        # whether the open round can check anybody; whether it checks everybody; the digests of what was computed here of it, by sub-task
        self._open, self._due = False, False
        self._digests: dict[int, bytes] = {}
        #: whether this trainer is checked
        self.checked = False

    def enter(self, generation: Generation, rank: int) -> None:
        """Become a member of a generation."""
        self._generation, self._rank = generation, rank
        self._unchecked = frozenset(k for k, m in enumerate(generation.members) if not m.checked)
        self.checked = self.checked or rank not in self._unchecked

    def open_round(self, step: int, num_steps: int | None, *, checks: bool) -> None:
        """Begin a round of a step; `num_steps`: of the run, as far as that is known; `checks`: the round is one of training."""
        self._open, self._due = checks, is_due(step, num_steps)
        self._digests.clear()

    def of_round(self, round_number: int) -> tuple[CrossCheck, ...]:
        """Return this round's."""
        generation = self._generation
        if not self._open or generation is None or round_number < generation.start:
            return ()
        subjects = range(len(generation.members)) if self._due else self._unchecked
        return cross_checks(generation, round_number, self._num_sub_tasks, subjects) if subjects else ()

    def due(self, state: MemberState) -> int | None:
        """Return the sub-task of another member that is still to be computed here."""
        for check in self.of_round(state.round):
            if check.witness == self._rank and check.sub_task not in self._digests:
                return check.sub_task
        return None

    def compares(self, state: MemberState, sub_task: int) -> bool:
        """Whether the bits of an own sub-task may be asked for.

        Those of one that is not checked yet may be in the next generation, should this one be short: then its lowest may be another.
        """
        if self._open and not self.checked:
            return True
        return any(c.subject == self._rank and c.sub_task == sub_task for c in self.of_round(state.round))

    def show(self, sub_task: int, digest: bytes) -> None:
        """Keep what came out of a sub-task of the open round."""
        self._digests[sub_task] = digest

    def shown(self, round_number: int) -> tuple[Sequence[CrossCheck], Shown]:
        """Return this round's cross-checks, and what this rank shows in them, as a subject and as a witness."""
        checks = self.of_round(round_number)
        own = next((c.sub_task for c in checks if c.subject == self._rank), -1)
        other = next((c.sub_task for c in checks if c.witness == self._rank), -1)
        return checks, Shown(self._digests.get(own, NO_DIGEST), self._digests.get(other, NO_DIGEST))

    def committed(self, round_number: int) -> None:
        """A round is committed: who owned a sub-task of it is checked, if it checks anybody."""
        generation = self._generation
        if not self._open or generation is None or round_number < generation.start:
            return
        self._unchecked = frozenset(
            k for k in self._unchecked if not owned(generation, k, round_number, self._num_sub_tasks)
        )
        self.checked = self.checked or self._rank not in self._unchecked
