"""Every error is application/problem+json, and says nothing that it should not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from surefoot.views import Problem
from surefoot_service.rest.app import create_app, serving
from surefoot_service.settings import Settings


def problem(answer: httpx.Response, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(answer.text)
    assert found.status == status
    return found


async def test_an_unknown_route(client: httpx.AsyncClient) -> None:
    problem(await client.get("/v1/nothing"), 404)


async def test_a_wrong_method(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/jobs")
    problem(answer, 405)
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


async def test_what_is_invalid_is_named(client: httpx.AsyncClient) -> None:
    found = problem(await client.get("/v1/jobs", params={"limit": 0, "state": "dancing"}), 422)
    assert {e.field for e in found.errors} == {"query.limit", "query.state"}


async def test_a_body_that_is_no_json(client: httpx.AsyncClient) -> None:
    problem(await client.post("/v1/jobs", content="{", headers={"content-type": "application/json"}), 422)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_above_the_limit(streamed: bool, client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    content: Any = pieces() if streamed else b" " * 200_000
    found = problem(await client.post("/v1/jobs", content=content, headers={"content-type": "application/json"}), 413)
    assert "100000 bytes" in found.detail


@pytest.mark.parametrize("token", [None, "Bearer x", "Bearer ", "Basic eDp5", "Bearer é"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/packages"),
        ("GET", "/v1/jobs/x/stream"),
        ("POST", "/v1/jobs/x/cancel"),
    ],
)
async def test_without_the_token(token: str | None, method: str, path: str, anonymous: httpx.AsyncClient) -> None:
    headers = [] if token is None else [(b"Authorization", token.encode())]
    answer = await anonymous.request(method, path, headers=headers)
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_mistake_of_ours_says_nothing_of_itself(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    app = create_app(settings)  # not the one that all tests have: it gets a route more

    @app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("the password is 1234")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with serving(app, settings), httpx.AsyncClient(transport=transport, base_url="http://surefoot") as client:
        found = problem(await client.get("/v1/broken"), 500)
    assert "1234" not in found.detail


async def test_health_needs_no_token(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/v1/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["ray"] is None
