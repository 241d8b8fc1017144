"""What is raised in a trainer, as the supervisor is told of it: whose fault it is, and where."""

from __future__ import annotations

import os
import traceback

import torch

from surefoot.errors import ContractError, DriftError, EntrypointError, NodeError
from surefoot_actors.disclosed import masking
from surefoot_actors.engine.data.pool import DataWorkersLostError
from surefoot_actors.engine.exchange.header import ExchangeError
from surefoot_actors.process_log import say
from surefoot_actors.protocol.messages import Raised
from surefoot_actors.story import BrokenMachineError
from surefoot_actors.trainer.member import Member
from surefoot_actors.user_code import tracebacks
from surefoot_actors.user_code.advice import with_advice
from surefoot_actors.user_code.lines import raised_by_surefoot, raised_line

__all__ = ["lose_if_device", "named", "raised"]


def lose_if_device(error: BaseException) -> None:
    """A device that fails, or data workers that cannot be had, are this trainer's loss, not the user's mistake: end."""
    cause = error.__cause__ if isinstance(error, BrokenMachineError) else error
    if isinstance(cause, torch.AcceleratorError | DataWorkersLostError):
        say("".join(traceback.format_exception(error)))
        os._exit(1)


def named(error: Exception, member: Member) -> Exception:
    """Name the inner loop that the others are not in; tell a drift by the name that users know."""
    if isinstance(error, DriftError):
        where = f"the inner loop is at {member.line}"
        return DriftError(f"{error}; {where}").with_traceback(error.__traceback__)
    if not isinstance(error, ExchangeError):
        return error
    where = f"here it is the inner loop at {member.line}, in step {member.position.step}"
    return ContractError(f"{error}; {where}").with_traceback(error.__traceback__)


def raised(error: BaseException, member: Member) -> Raised:
    """Return what to tell the supervisor."""
    return Raised(
        trainer=member.trainer,
        kind=type(error).__name__,
        message=masking().text(with_advice(error, member.spec.left_out)),
        traceback=masking().text(tracebacks.told(error)),
        round=member.state.round,
        sub_task=member.computing,
        line=raised_line(error),
        alone=isinstance(error, EntrypointError),
        elsewhere=isinstance(error, NodeError),
        fatal=isinstance(error, ContractError | DriftError),
        story=_story(error, member),
    )


def _story(error: BaseException, member: Member) -> tuple[str, ...]:
    """Return what happened before an assertion of Surefoot's own failed; nothing of what the user's code raised."""
    if isinstance(error, BrokenMachineError):
        return error.story
    if isinstance(error, AssertionError) and raised_by_surefoot(error):
        return member.story.tell(f"trainer {member.trainer}", error)
    return ()
