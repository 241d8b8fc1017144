"""A trainer's part in checkpoints: when it saves which share, and where a restored state goes. Under the trainer's commit lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from surefoot.events import LedgerRow
from surefoot_actors.checkpoint.capture import Facts, Place
from surefoot_actors.checkpoint.manifest import Point
from surefoot_actors.checkpoint.read import Checkpoint, read_checkpoint
from surefoot_actors.checkpoint.store import is_at
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.engine.exchange.signals import Signals
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.types import Position
from surefoot_actors.output.sync import Pending
from surefoot_actors.protocol.member.machine import At, MemberState
from surefoot_actors.protocol.messages import Restore, Save, Saved, Snapshot
from surefoot_actors.trainer.checkpoints.restorer import Restorer
from surefoot_actors.trainer.checkpoints.saver import Parked, Saver
from surefoot_actors.trainer.mailbox import Mailbox

__all__ = ["CheckpointSchedule", "Host"]


class Host(Protocol):
    """The trainer, as its checkpoints see it."""

    @property
    def place(self) -> tuple[MemberState, Position]: ...
    @property
    def owner(self) -> StateOwner: ...
    @property
    def num_steps(self) -> int | None: ...

    #: the ledger's last row
    last: Point | None

    def adopt(self, checkpoint: Checkpoint) -> bool: ...


class CheckpointSchedule:
    """`obey`, `gathered` and `end_step` are called with the commit lock held; `snapshot` on the training thread, without it."""

    def __init__(
        self,
        setup: TrainerSetup,
        device: torch.device,
        mailbox: Mailbox,
        fingerprint: Callable[[], tuple[tuple[str, str], ...]],
        host: Host,
    ) -> None:
        self._spec, self._policy, self._mailbox, self._host = setup.spec, setup.spec.checkpoint, mailbox, host
        self._saver = Saver(setup.checkpoints, setup.trainer, device, mailbox.tell) if setup.checkpoints else None
        identity = setup.spec.identity()
        self._fingerprint = fingerprint
        self._restorer = Restorer(
            setup.trainer,
            lambda url: read_checkpoint(url, identity, fingerprint(), own=is_at(url, setup.checkpoints)),
            host.adopt,
            mailbox.tell,
        )
        # has the files kept that go with a parked state of this step
        self.keep_files: Callable[[int], object] = lambda step: None
        # asked by the supervisor to have all members save; a step was due while one was being written; all members have gathered either
        self._asked, self._owed, self._due = False, False, False
        # all members have gathered that somebody still writes
        self._busy = False

    def obey(self, message: Restore | Snapshot | Save) -> None:
        """Do what the supervisor asks, in the background. Never blocks."""
        match message:
            case Restore(url=url):
                self._restorer.ask(url)
            case Snapshot():
                self._asked = self._saver is not None
            case Save(share=share, of=of):
                self._save(share, of)

    def overwritten(self) -> None:
        """The tracked state is being overwritten by a peer's."""
        self._restorer.forget()

    def stop(self) -> None:
        """This trainer is to end."""
        self._restorer.stop()

    @property
    def wanted(self) -> bool:
        """Whether this trainer would have all members save at the step's end; after the last, the parked state is in place of one owed."""
        _, position = self._host.place
        return self._asked or (self._owed and not self.busy and position.step + 1 != self._host.num_steps)

    @property
    def busy(self) -> bool:
        """Whether this trainer still writes a snapshot."""
        return self._saver is not None and self._saver.busy

    def gathered(self, signals: Signals) -> None:
        """Take note of a round's commit: where any was asked to save, every member that gathers it saves at this step's end.

        Where one still writes an earlier snapshot nobody does, since a checkpoint needs all shares: the supervisor asks again if what
        is being written is not what it wants, and in place of a step that was due another is saved as soon as all can. Members become
        busy at a step's end alone, so no round of a step takes back what another has said.
        """
        self._busy = signals.still_saving
        if signals.save:
            self._asked, self._due = False, self._due or not signals.still_saving

    def end_step(self, row: LedgerRow) -> Place | None:
        """Take note of a step's end; return the share to be saved now, if any."""
        result = row.result
        self._host.last = Point(step=result.step, digest=result.digest, values=result.values)
        by_step = self._due_by_step(result.step + 1)
        due, self._due = self._due or by_step, False
        if due and (self._busy or self.busy):  # its own, should it have missed the round's end
            due, self._owed = False, self._owed or (by_step and self._saver is not None)
            if self._saver is not None:
                self._saver.tell_if_slow()
        state, position = self._host.place
        # whoever missed the round's end by a change of generation has no share of a snapshot that the others may have taken
        if self._saver is None or state.generation is None or not state.live:
            return None
        place = Place(
            generation=state.number,
            round=position.round,
            step=position.step,
            share=state.rank,
            of=len(state.generation.members),
        )
        if not due:
            self._saver.prepare(self._host.owner.survey, place.share, place.of)
            return None
        self._owed = False
        return place

    def _due_by_step(self, step: int) -> bool:
        """Whether one is due before this step; after the last, the parked state is saved instead, if that is wanted."""
        every = self._policy.every_steps
        return every is not None and step % every == 0 and step != self._host.num_steps

    def snapshot(self, place: Place, files: Pending | None = None) -> None:
        """Copy the share, and have it written; `files` go with it."""
        assert self._saver is not None
        self._saver.snapshot(self._host.owner.survey, place, self._facts(), files)

    def _save(self, share: int, of: int) -> None:
        """Save the parked state; where nothing is parked any more, say so."""
        state, position = self._host.place
        place = Place(generation=state.number, round=state.round, step=position.step, share=share, of=of)
        if self._saver is None or state.generation is None:
            self._mailbox.tell(_not_saved(state.trainer, place))
            return
        at = state.at

        def still() -> bool:
            now, _ = self._host.place
            return at in (At.BOUNDARY, At.END) and now.at is at and now.round == place.round and not now.stopped

        ended = at is At.END and share == 0
        self._saver.save(
            Parked(
                place=place,
                survey=self._host.owner.survey,
                facts=self._facts(),
                modules=self._host.owner.models() if ended else {},
                still=still,
                keep_files=lambda: self.keep_files(place.step),
            )
        )

    def _facts(self) -> Facts:
        return Facts(
            fingerprint=self._fingerprint(),
            num_steps=self._host.num_steps,
            last=self._host.last,
            rows=self._mailbox.kept(),
        )


def _not_saved(trainer: str, place: Place) -> Saved:
    """Whoever asks for a share waits for an answer."""
    return Saved(
        trainer=trainer,
        generation=place.generation,
        round=place.round,
        step=place.step,
        share=place.share,
        of=place.of,
        error="it has no place for checkpoints, or no state of the run",
        parked=True,
    )
