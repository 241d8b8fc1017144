"""Words of a closed list that a newer version may have added to: known ones are the enum's, any other is kept as it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from surefoot._compat import StrEnum

__all__ = ["EventKind", "FaultKind", "FaultName", "UnknownWord"]

_LONGEST = 60


class UnknownWord(str):
    """A state or a kind that this version does not know."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str.__str__(self)

    @property
    def ended(self) -> bool:
        """Of a state: nothing is known of it. A job's view knows more, by `ended_at`."""
        return False

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            lambda text: cls(text[:_LONGEST]),
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                str.__str__, return_schema=core_schema.str_schema()
            ),
        )


class EventKind(StrEnum):
    """What happens to a job, in the words of the design. What each kind says is in `surefoot.payloads`."""

    STATE = "state"
    INSTALLING = "installing"
    DATA = "data"
    TRAINER_STARTED = "trainer_started"
    TRAINER_READY = "trainer_ready"
    TRAINER_LOST = "trainer_lost"
    TRAINER_REFUSED = "trainer_refused"
    TRAINER_LEFT = "trainer_left"
    GENERATION = "generation"
    LENGTH = "length"
    RECOVERED = "recovered"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_FAILED = "checkpoint_failed"
    CHECKPOINT_SKIPPED = "checkpoint_skipped"
    RESTORED = "restored"
    FAULT = "fault"
    WARNING = "warning"
    FAILED = "failed"
    FINISHED = "finished"


# the same as plain words
FaultName = Literal["trainer", "freeze", "supervisor", "node"]


class FaultKind(StrEnum):
    """What `surefoot chaos` does to a job, for real: SIGKILL or SIGSTOP (`freeze`) to a trainer's process, SIGKILL to the supervisor's
    process, or to the raylet of a trainer's node (not the head's)."""

    TRAINER = "trainer"
    FREEZE = "freeze"
    SUPERVISOR = "supervisor"
    NODE = "node"
