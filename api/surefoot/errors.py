"""The one exception tree of Surefoot. All are picklable, since actors raise them across processes.

SurefootError
├── UserError (also a ValueError)      what the person at the keyboard can mend
│   ├── SpecError                      a job spec that cannot be run
│   ├── PackageError                   a code package that cannot be accepted
│   ├── EntrypointError                "module:function" that cannot be imported
│   ├── DataError                      data of a job that cannot be had, or is no longer what it was
│   ├── OptionError (also a TypeError) an option that there is not, that is missing, or of a type that is not taken
│   ├── ContractError                  training code that breaks a rule of the contract
│   └── MissingExtraError (also an ImportError) a part of Surefoot that is not installed here
├── NodeError                          what is wrong on one node alone, and is tried on another
├── DriftError                         trainers hold different state
├── CheckpointError                    a checkpoint that could not be read or written: the storage is away, full, or forbids it
│   ├── DamagedError                   a file of it is missing or corrupt
│   │   └── MissingError               it is not there
│   ├── RefusedError (also a UserError) it is of another model, seed, batch size or number of sub-tasks than the job
│   └── UnfitError                     it was made on machines that compute other bits
├── ServiceError                       the control plane answered with a problem
│   ├── NotFoundError · ConflictError · UnauthorizedError
│   └── ServiceUnavailableError        the control plane could not be reached
└── JobFailedError                     a job that ended other than by success
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "ConflictError",
    "ContractError",
    "DamagedError",
    "DataError",
    "DriftError",
    "EntrypointError",
    "JobFailedError",
    "MissingExtraError",
    "NodeError",
    "NotFoundError",
    "OptionError",
    "PackageError",
    "RefusedError",
    "ServiceError",
    "ServiceUnavailableError",
    "SpecError",
    "SurefootError",
    "UnauthorizedError",
    "UnfitError",
    "UserError",
]


class SurefootError(Exception):
    """Any error that Surefoot raises on purpose. The message says what happened, why, and what to do."""


class UserError(SurefootError, ValueError):
    """A mistake in what a person gave; nothing was changed by it."""


class SpecError(UserError):
    """A job spec that cannot be run."""


class OptionError(UserError, TypeError):
    """An argument that a function does not take, that is missing, or of a type that cannot be taken; the message says what can."""


class PackageError(UserError):
    """A code package that cannot be accepted."""


class EntrypointError(UserError):
    """An entrypoint that names nothing callable."""


class DataError(UserError):
    """Data of a job that is not there, may not be read, or is no longer what the job trains on; the message names it, and the file."""


class ContractError(UserError):
    """Training code that breaks a rule of the contract; the message names the line and the mend."""


class MissingExtraError(UserError, ImportError):
    """A part of Surefoot that is not installed in this environment."""


class NodeError(SurefootError):
    """This node cannot do what is asked of it: its disk is full, or it cannot reach the storage. Another one may."""


class DriftError(SurefootError):
    """Trainers that should hold the same state hold different bytes; names the tensor."""


class CheckpointError(SurefootError):
    """A checkpoint could not be read or written; the message names the file and the cause. Trying again may help."""


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing or corrupt; trying again does not help, an older checkpoint may be whole."""


class MissingError(DamagedError):
    """A file of a checkpoint is not there: not any more, or not for who looked."""


class RefusedError(CheckpointError, UserError):
    """A checkpoint that is not of this job: both values, and the mend."""


class UnfitError(CheckpointError):
    """A checkpoint that was made on machines with another fingerprint: what comes after it would have other bits."""


class ServiceError(SurefootError):
    """The control plane answered with a problem (RFC 9457)."""

    def __init__(
        self, title: str, *, status: int = 500, detail: str = "", problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.title, self.status, self.detail, self.problem = title, status, detail, problem or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_service_error, (type(self), self.title, self.status, self.detail, self.problem)


def _rebuild_service_error(
    kind: type[ServiceError], title: str, status: int, detail: str, problem: dict[str, Any]
) -> ServiceError:
    return kind(title, status=status, detail=detail, problem=problem)


class NotFoundError(ServiceError):
    """No such job, package or attempt."""


class ConflictError(ServiceError):
    """The job's state does not allow it."""


class UnauthorizedError(ServiceError):
    """The token is missing or wrong."""


class ServiceUnavailableError(ServiceError):
    """The control plane could not be reached."""


class JobFailedError(SurefootError):
    """A job ended as failed or cancelled; carries its last state, the reason, and the traceback of its code, where that is what failed."""

    def __init__(self, job_id: str, state: str, reason: str, traceback: str | None = None) -> None:
        super().__init__(f"job {job_id} {state}: {reason}" + (f"\n\n{traceback}" if traceback else ""))
        self.job_id, self.state, self.reason, self.traceback = job_id, state, reason, traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return JobFailedError, (self.job_id, self.state, self.reason, self.traceback)
