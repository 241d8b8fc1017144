"""Errors as people and programs read them: application/problem+json (RFC 9457), for every way a request can fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from surefoot.views import InvalidField, Problem
from surefoot_service.store.database import StoreAwayError
from surefoot_service.waiting import BusyError, HungError

__all__ = [
    "PROBLEM_TYPE",
    "ProblemError",
    "conflict",
    "documented",
    "install",
    "not_found",
    "problem_response",
    "unprocessable",
]

PROBLEM_TYPE = "application/problem+json"

# when to ask again while the database is away
_RETRY_AFTER_S = 2

log = structlog.get_logger()


class ProblemError(Exception):
    """A request that cannot be done; becomes the answer."""

    def __init__(
        self, status: int, detail: str, *, errors: Sequence[InvalidField] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=tuple(errors))
        self.headers = dict(headers or {})


def not_found(what: str, name: str) -> ProblemError:
    return ProblemError(404, f"there is no {what} {name!r}")


def conflict(detail: str) -> ProblemError:
    return ProblemError(409, detail)


def unprocessable(field: str, message: str) -> ProblemError:
    return ProblemError(422, message, errors=[InvalidField(field=field, message=message)])


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problem.model_dump_json(), problem.status, dict(headers or {}), media_type=PROBLEM_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 400, 422, 500, 503})
    }


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(_request: Request, error: ProblemError) -> Response:
        return problem_response(error.problem, error.headers)

    @app.exception_handler(StoreAwayError)
    async def _away(request: Request, error: StoreAwayError) -> Response:
        log.warning("store_away", method=request.method, path=request.url.path, error=str(error))
        problem = Problem(
            title=HTTPStatus(503).phrase, status=503, detail=f"{error}; the same request later may be done"
        )
        return problem_response(problem, {"Retry-After": str(_RETRY_AFTER_S)})

    @app.exception_handler(BusyError)
    @app.exception_handler(HungError)
    async def _busy(_request: Request, error: BusyError | HungError) -> Response:
        problem = Problem(title=HTTPStatus(503).phrase, status=503, detail=str(error))
        return problem_response(problem, {"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        detail = "" if error.detail == phrase else str(error.detail)
        return problem_response(Problem(title=phrase, status=error.status_code, detail=detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> Response:
        errors = tuple(_field(e) for e in error.errors())
        detail = "; ".join(f"{e.field}: {e.message}" for e in errors[:5])
        return problem_response(Problem(title=HTTPStatus(422).phrase, status=422, detail=detail, errors=errors))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        # The boundary of the service: what went wrong is for the log, not for whoever asked.
        log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
        detail = "the service made a mistake; its log says which"
        return problem_response(Problem(title=HTTPStatus(500).phrase, status=500, detail=detail))


def _field(error: Mapping[str, Any]) -> InvalidField:
    message = str(error["msg"]).removeprefix("Value error, ")
    return InvalidField(field=".".join(str(part) for part in error["loc"]), message=message)
