"""What the data planes of generations ask of a trainer, and tell it: each on its own thread, perhaps for a generation that is over."""

from __future__ import annotations

import torch

from surefoot_actors.engine.exchange.contribution import MergeResult
from surefoot_actors.engine.types import Layout, Merged, Position, StateImage
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.protocol.member import machine
from surefoot_actors.trainer.checkpoints.schedule import CheckpointSchedule
from surefoot_actors.trainer.data_plane import JoinerHandover
from surefoot_actors.trainer.member import Member
from surefoot_actors.trainer.raised import lose_if_device, named, raised

__all__ = ["GenerationSide"]


class GenerationSide:
    """Implements `data_plane.Host`. What a dead generation does is ignored, under the commit lock (R1)."""

    def __init__(self, member: Member, schedule: CheckpointSchedule) -> None:
        self._member, self._schedule = member, schedule

    def capture(self) -> tuple[StateImage, JoinerHandover, Merged | None]:
        """Return what a joiner needs. The training thread is parked meanwhile."""
        member = self._member
        if member.device.type == "cuda":
            torch.cuda.synchronize(member.device)  # the training thread may have computed on a stream of its own
        with member.owner_lock:
            retained = member.retained
            handover = JoinerHandover(
                step=member.position.step,
                agreed=dict(member.agreed),
                retained=retained is not None,
                rows=b"\n".join(member.mailbox.kept().lines()),
                last=member.last,
            )
            return member.owner.capture(), handover, retained

    def restore(self, generation: int, image: StateImage, handover: JoinerHandover) -> None:
        """Overwrite this joiner's tracked state. It is still waiting to be admitted."""
        member = self._member
        with member.owner_lock:
            if not member.counts(generation):
                return
            self._schedule.overwritten()
            member.owner.restore(image)
            if not member.counts(generation):
                return
            member.agreed = dict(handover.agreed)
            member.mailbox.adopt(handover.rows.splitlines())
            member.last = handover.last
            assert member.state.generation is not None
            member.position = Position(member.state.generation.start, handover.step, 0)

    def retained_vector(self) -> Merged:
        """Return the merged vector of the round before."""
        retained = self._member.retained
        assert retained is not None
        return retained

    def vector_came(self, generation: int, merged: Merged) -> None:
        """Commit a round by the vector that this member missed."""
        with self._member.commit_lock:
            if self._member.counts(generation):
                self._keep(merged, merged.layout)
                self._member.feed(machine.VectorCame(generation))

    def state_came(self, generation: int, retained: Merged | None) -> None:
        """Become a member in full."""
        with self._member.commit_lock:
            if self._member.counts(generation):
                self._member.retained = retained
                self._member.feed(machine.StateCame(generation, retained is not None))

    def state_served(self, generation: int) -> None:
        """Go on: the joiners have the state."""
        with self._member.commit_lock:
            self._member.feed(machine.StateServed(generation))

    def exchanged(self, generation: int, pool: BufferPool) -> None:
        """Drop the retained vector: every member has committed its round (R6)."""
        member = self._member
        with member.commit_lock:
            if member.counts(generation):
                retained, member.retained = member.retained, None
                member.feed(machine.Exchanged(generation))
                if retained is not None:
                    pool.give(retained)

    def gathered(self, generation: int, result: MergeResult) -> None:
        """Commit a round."""
        with self._member.commit_lock:
            if self._member.counts(generation):
                self._keep(result.merged, result.layout)
                self._schedule.gathered(result.signals)
                self._member.feed(machine.Gathered(generation, result.signals.end_generation))

    def _keep(self, merged: Merged, layout: Layout) -> None:
        member = self._member
        member.merged = member.retained = merged
        member.agreed[member.position.phase] = layout

    def group_broke(self, generation: int, reason: str) -> None:
        """Tell the supervisor, unless the generation is over anyway."""
        with self._member.commit_lock:
            self._member.feed(machine.OwnGroupFailed(generation, reason))

    def plane_failed(self, generation: int, error: Exception) -> None:
        """Fail the job: the merge found that the code breaks the contract, or Surefoot has a fault of its own."""
        lose_if_device(error)
        with self._member.commit_lock:
            if self._member.counts(generation):
                self._member.mailbox.tell(raised(named(error, self._member), self._member))
