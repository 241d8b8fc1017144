"""Words of a closed list that a newer version may have added to: known ones are the enum's, any other is kept as it is."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from surefoot._compat import StrEnum

__all__ = ["EventKind", "FaultKind", "UnknownWord"]

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
    """What happens to a job, in the words of the design. Data by kind: `surefoot.payloads`."""

    STATE = "state"  # the job's state changed: {"state", "reason"}
    INSTALLING = (
        "installing"  # {"trainer", "requirements"}: pip requirements of the code, where this trainer is to start
    )
    TRAINER_STARTED = "trainer_started"  # {"trainer"}
    TRAINER_READY = "trainer_ready"  # {"trainer", "pid", "node"}
    TRAINER_LOST = "trainer_lost"  # {"trainer", "reason"}; with "traceback" where its code raised
    TRAINER_REFUSED = "trainer_refused"  # {"trainer", "reason"}: another fingerprint
    TRAINER_LEFT = "trainer_left"  # {"trainer", "step", "reason"}: planned
    GENERATION = "generation"  # {"generation", "trainers", "step", "reason", "joined", "lost", "left", "num_steps"}
    LENGTH = "length"  # {"num_steps"}: it is known now how many steps the run has
    # {"generation", "step", "seconds", "sub_tasks_again"}. seconds: since the lost trainer was last known to run
    RECOVERED = "recovered"
    # {"step", "url", "bytes", "seconds", "stall_s", "reason"}: durable from now on. seconds: from the snapshot to the manifest;
    # stall_s: the longest that a trainer's training thread was held for it
    CHECKPOINT = "checkpoint"
    CHECKPOINT_FAILED = "checkpoint_failed"  # {"step", "reason"}: could not be written; training goes on
    CHECKPOINT_SKIPPED = "checkpoint_skipped"  # {"url", "reason"}: torn or corrupt, so an older one is taken
    # {"step", "url", "trainer"}: training goes on from a checkpoint. With "first_step" where another job made it: this job's ledger
    # begins there
    RESTORED = "restored"
    FAULT = "fault"  # {"kind", "trainer", "node"}: injected by `surefoot chaos`; told before it is done
    # {"message"}; of a job that makes no progress also "seconds" and "trainers", a list of {"trainer", "step", "sub_task", "line",
    # "waits_for"}
    WARNING = "warning"
    FAILED = "failed"  # {"reason", "traceback", "trainer"}
    FINISHED = "finished"  # {"steps", "digest"}: digest of the final tracked state


class FaultKind(StrEnum):
    """What `surefoot chaos` does to a job, for real."""

    TRAINER = "trainer"  # SIGKILL a trainer's process
    FREEZE = "freeze"  # SIGSTOP a trainer's process
    SUPERVISOR = "supervisor"  # SIGKILL the supervisor's process
    NODE = "node"  # SIGKILL the raylet of a trainer's node (not the head's)
