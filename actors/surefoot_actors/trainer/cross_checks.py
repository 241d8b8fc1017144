"""One trainer's part in cross-checks: what it computes besides its own sub-tasks, and the bits that it shows. Under the commit lock."""

from __future__ import annotations

from collections.abc import Sequence

from surefoot_actors.engine.exchange.contribution import NO_DIGEST, Shown
from surefoot_actors.protocol.cross_checks import CrossCheck, cross_checks
from surefoot_actors.protocol.member.machine import MemberState
from surefoot_actors.protocol.messages import Generation
from surefoot_actors.protocol.spans import owned

__all__ = ["CrossChecks"]


class CrossChecks:
    """A member is checked in the first training round of a generation in which it owns a sub-task, if no round has checked it before."""

    def __init__(self, num_sub_tasks: int) -> None:
        self._num_sub_tasks = num_sub_tasks
        self._generation: Generation | None = None
        self._rank = 0
        # of this generation, by rank: no round has checked them yet
        self._unchecked: frozenset[int] = frozenset()
        # whether the open round can check anybody, and the digests of what was computed here of it, by sub-task
        self._open = False
        self._digests: dict[int, bytes] = {}
        #: whether this trainer is checked
        self.checked = False

    def enter(self, generation: Generation, rank: int) -> None:
        """Become a member of a generation."""
        self._generation, self._rank = generation, rank
        self._unchecked = frozenset(k for k, m in enumerate(generation.members) if not m.checked)
        self.checked = self.checked or rank not in self._unchecked

    def open_round(self, *, checks: bool) -> None:
        """Begin a round; `checks`: it is one of training."""
        self._open = checks
        self._digests.clear()

    def of_round(self, round_number: int) -> tuple[CrossCheck, ...]:
        """Return this round's."""
        generation = self._generation
        if not self._open or generation is None or not self._unchecked or round_number < generation.start:
            return ()
        return cross_checks(generation, round_number, self._num_sub_tasks, self._unchecked)

    def due(self, state: MemberState) -> int | None:
        """Return the sub-task of another member that is still to be computed here."""
        for check in self.of_round(state.round):
            if check.witness == self._rank and check.sub_task not in self._digests:
                return check.sub_task
        return None

    @property
    def shows_own(self) -> bool:
        """Whether the bits of own sub-tasks may be asked for: in this generation, or in the next one, should this one be short."""
        return self._open and not self.checked

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
