"""Errors as people and programs read them: application/problem+json (RFC 9457), for every way a request can fail.

A problem is never longer than a page, whatever was sent: texts are cut, and of many errors the first are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from surefoot.views import InvalidField, Problem
from surefoot_service.errors import (
    ClaimCodeError,
    ConflictError,
    DomainError,
    InvalidError,
    NotFoundError,
    OverError,
    StorageError,
    TokenError,
    UnreadableSecretError,
)
from surefoot_service.store.database import StoreAwayError
from surefoot_service.waiting import BusyError, HungError

__all__ = [
    "MAX_ERRORS",
    "MAX_PROBLEM_BYTES",
    "PROBLEM_TYPE",
    "ProblemError",
    "documented",
    "install",
    "invalid",
    "problem_of",
    "problem_response",
]

PROBLEM_TYPE = "application/problem+json"

# the longest body of a problem
MAX_PROBLEM_BYTES = 16 * 1024
# of many errors the first so many are told
MAX_ERRORS = 20
_MAX_DETAIL_CHARS = 2000
_MAX_MESSAGE_CHARS = 300
_MAX_FIELD_CHARS = 120
# so many of the errors are in the detail as well, for people
_IN_DETAIL = 5

# when to ask again while the database is away, or the service has all hands full
_RETRY_AFTER_S = 2

# how each kind of refusal is answered
_STATUS: Mapping[type[DomainError], int] = {
    TokenError: 401,
    ClaimCodeError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    UnreadableSecretError: 409,
    OverError: 410,
    InvalidError: 422,
    StorageError: 502,
}

log = structlog.get_logger()


class ProblemError(HTTPException):
    """A request that is refused for what it is, as HTTP: its headers, its length, how slowly it comes.

    It is an HTTPException, since FastAPI lets only that through from the reading of a body.
    """

    def __init__(
        self, status: int, detail: str, *, errors: Sequence[InvalidField] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = errors


def invalid(field: str, message: str) -> ProblemError:
    """What InvalidError is, for the reading of a body."""
    return ProblemError(422, message, errors=[InvalidField(field=field, message=message)])


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    body = problem.model_dump_json().encode()
    while len(body) > MAX_PROBLEM_BYTES:
        # Cut texts can still be long in bytes: a character takes up to six.
        detail = problem.detail[: len(problem.detail) // 2]
        problem = problem.model_copy(update={"detail": detail, "errors": problem.errors[: len(problem.errors) // 2]})
        body = problem.model_dump_json().encode()
    return Response(body, problem.status, dict(headers or {}), media_type=PROBLEM_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems, beside those that every route can."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 400, 413, 422, 500, 503})
    }


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(DomainError)
    async def _refused(_request: Request, error: DomainError) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, TokenError) else None
        return problem_response(problem_of(error), headers)

    @app.exception_handler(ProblemError)
    async def _told(_request: Request, error: ProblemError) -> Response:
        return problem_response(_problem(error.status_code, error.detail, error.errors), error.headers)

    @app.exception_handler(StoreAwayError)
    async def _away(request: Request, error: StoreAwayError) -> Response:
        log.warning("store_away", method=request.method, path=request.url.path, error=str(error))
        problem = _problem(503, f"{error}; the same request later may be done")
        return problem_response(problem, {"Retry-After": str(_RETRY_AFTER_S)})

    @app.exception_handler(BusyError)
    @app.exception_handler(HungError)
    async def _busy(_request: Request, error: BusyError | HungError) -> Response:
        problem = Problem(title=HTTPStatus(503).phrase, status=503, detail=str(error))
        return problem_response(problem, {"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(app, request.scope["path"])))
        detail = "" if error.detail == phrase else str(error.detail)
        return problem_response(_problem(error.status_code, detail), headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> Response:
        errors = [_field(e) for e in islice(error.errors(), MAX_ERRORS)]
        detail = "; ".join(f"{e.field}: {e.message}" for e in errors[:_IN_DETAIL])
        return problem_response(_problem(422, detail, errors))

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, _error: ClientDisconnect) -> Response:
        # Nobody is left to read it: an upload that was broken off is no error of the service.
        return problem_response(_problem(400, "the request was broken off"))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        # The boundary of the service: what went wrong is for the log, not for whoever asked.
        log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
        return problem_response(_problem(500, "the service made a mistake; its log says which"))


def problem_of(error: DomainError) -> Problem:
    """How a refusal is answered."""
    field = [InvalidField(field=error.field, message=str(error))] if isinstance(error, InvalidError) else []
    return _problem(_STATUS[type(error)], str(error), field)


def _problem(status: int, detail: str, errors: Iterable[InvalidField] = ()) -> Problem:
    short = tuple(
        InvalidField(field=_cut(e.field, _MAX_FIELD_CHARS), message=_cut(e.message, _MAX_MESSAGE_CHARS))
        for e in islice(errors, MAX_ERRORS)
    )
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=_cut(detail, _MAX_DETAIL_CHARS), errors=short)


def _cut(text: str, most: int) -> str:
    """The text, short, and such that JSON can carry it: what was sent may hold halves of surrogate pairs."""
    short = text if len(text) <= most else f"{text[: most - 3]}..."
    return short.encode("utf-8", "replace").decode()


def _field(error: Mapping[str, Any]) -> InvalidField:
    message = str(error["msg"]).removeprefix("Value error, ")
    return InvalidField(field=".".join(_cut(str(part), _MAX_FIELD_CHARS) for part in error["loc"]), message=message)


def _methods(app: FastAPI, path: str) -> set[str]:
    """What can be done at a path, over all of its routes."""
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if (pattern := getattr(route, "path_regex", None)) is not None and pattern.match(path):
            found |= route.methods or set()
    return found
