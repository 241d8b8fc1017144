"""A trainer's files: who writes them, and whom they are told to."""

from __future__ import annotations

from surefoot.names import attempt_number
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.output.store import WriterId
from surefoot_actors.output.sync import OutputSync
from surefoot_actors.protocol.messages import Warned
from surefoot_actors.trainer.member import Member

__all__ = ["output_of"]


def output_of(setup: TrainerSetup, member: Member) -> OutputSync:
    """Return what keeps this trainer's files, in the place of the job's checkpoints."""

    def me() -> WriterId:
        return WriterId(
            attempt=attempt_number(setup.attempt), generation=member.state.number, trainer=setup.trainer.lower()
        )

    return OutputSync(
        setup.checkpoints,
        me,
        most_bytes=setup.max_output_bytes,
        warn=lambda text: member.mailbox.tell(Warned(trainer=setup.trainer, message=text)),
        check=member.check_stopped,
    )
