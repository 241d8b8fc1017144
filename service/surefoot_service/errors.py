"""What the service refuses, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException

from surefoot.views import InvalidField

__all__ = ["ProblemError", "conflict", "not_found", "unprocessable"]


class ProblemError(HTTPException):
    """A request that cannot be done; becomes the answer.

    It is an HTTPException, since FastAPI lets only that through from the reading of a body.
    """

    def __init__(
        self, status: int, detail: str, *, errors: Sequence[InvalidField] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = errors


def not_found(what: str, name: str) -> ProblemError:
    return ProblemError(404, f"there is no {what} {name!r}")


def conflict(detail: str) -> ProblemError:
    return ProblemError(409, detail)


def unprocessable(field: str, message: str) -> ProblemError:
    return ProblemError(422, message, errors=[InvalidField(field=field, message=message)])
