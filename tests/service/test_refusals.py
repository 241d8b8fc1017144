"""How each refusal of the domain is answered: the store knows no HTTP, and the answers are what they are."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from surefoot_service import errors
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
from surefoot_service.rest import problems

WRONG = "ten is not between 1 and 8"
ANSWERS: list[tuple[DomainError, int, str, list[dict[str, str]]]] = [
    (TokenError("this is not the attempt's token"), 401, "this is not the attempt's token", []),
    (ClaimCodeError(), 403, "this is not the attempt's claim code", []),
    (NotFoundError("job", "nemo"), 404, "there is no job 'nemo'", []),
    (ConflictError("job a is paused"), 409, "job a is paused", []),
    (OverError("attempt a-1 is over"), 410, "attempt a-1 is over", []),
    (UnreadableSecretError("KEY"), 409, str(UnreadableSecretError("KEY")), []),
    (InvalidError("body.trainers", WRONG), 422, WRONG, [{"field": "body.trainers", "message": WRONG}]),
    (StorageError("the storage of s3://b does not answer"), 502, "the storage of s3://b does not answer", []),
]


def test_every_refusal_has_its_answer() -> None:
    kinds = {thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, DomainError)}
    assert {type(error) for error, *_ in ANSWERS} == kinds - {DomainError}
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)


@pytest.mark.parametrize(("error", "status", "detail", "fields"), ANSWERS, ids=lambda value: type(value).__name__)
async def test_a_refusal_is_answered(
    error: DomainError, status: int, detail: str, fields: list[dict[str, Any]]
) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/refused")
    async def refuse() -> None:
        raise error

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/refused")
    assert answer.status_code == status
    assert answer.headers["content-type"] == problems.PROBLEM_TYPE
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    told = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": fields,
    }
    assert answer.content == json.dumps(told, separators=(",", ":")).encode()
