"""What each token may do: every operation of the document, with every token that is not its own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.test_network import Service as Listener

from surefoot.events import EventKind
from surefoot_service.cluster.jobs_api import open_ray_jobs
from surefoot_service.parts import Service

from .helpers import JSON, Attempt, batch, make_event, start_attempt

OPEN = {"/v1/health", "/v1/ready"}


def operations(app: FastAPI) -> list[tuple[str, str, frozenset[str]]]:
    """Method, path, and the names of the tokens that open it."""
    found = []
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            schemes = frozenset(name for way in operation.get("security", []) for name in way)
            found.append((method.upper(), path, schemes))
    return found


async def status(client: httpx.AsyncClient, method: str, path: str, token: str | None, **names: str) -> int:
    url = path.format(**{"job": "nosuchjob2", "sha256": "0" * 64, "name": "NONE", **names})
    headers = JSON | ({"Authorization": f"Bearer {token}"} if token else {})
    content = batch() if path.endswith("/uplink") else None
    return (await client.request(method, url, headers=headers, content=content)).status_code


METRICS_TOKEN = "m" * 40
# by what an operation says of itself, which tokens open it
OPENED_BY = {
    frozenset({"user"}): {"user"},
    frozenset({"attempt"}): {"attempt"},
    frozenset({"metrics"}): {"metrics", "user"},
}


@pytest.mark.parametrize("settings_more", [{"metrics_token": METRICS_TOKEN}], indirect=True)
async def test_every_operation_takes_its_own_token_alone(
    app: FastAPI, anonymous: httpx.AsyncClient, client: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    user = client.headers["Authorization"].removeprefix("Bearer ")
    names = {"attempt": attempt.name, "job": attempt.job}
    seen: set[str] = set()
    for method, path, schemes in operations(app):
        if path in OPEN or path.endswith("/claim"):
            continue  # who claims has a code
        assert schemes in OPENED_BY, (path, "every other operation needs a token")
        seen |= schemes
        tokens = {"user": user, "attempt": attempt.token, "metrics": METRICS_TOKEN}
        others = [None, "x", *(tokens[name] for name in tokens.keys() - OPENED_BY[schemes])]
        told = [await status(anonymous, method, path, token, **names) for token in others]
        assert told == [401] * len(others), (method, path)
    assert seen == {"user", "attempt", "metrics"}


async def test_an_attempts_token_is_of_no_use_for_another_attempt(
    app: FastAPI, anonymous: httpx.AsyncClient, client: httpx.AsyncClient, service: Service, attempt: Attempt,
    spec: dict[str, Any],
) -> None:  # fmt: skip
    other_job = (await client.post("/v1/jobs", json=spec)).json()["id"]
    other = await start_attempt(service, anonymous, other_job)
    assert (await other.claim()).status_code == 200
    for method, path, schemes in operations(app):
        if schemes == {"attempt"}:
            assert await status(anonymous, method, path, attempt.token, attempt=other.name) == 401
    assert (await attempt.uplink(events=[make_event(1, EventKind.STATE, state="running")])).status_code == 200


async def test_a_claim_code_is_of_no_use_but_once_for_its_own_attempt(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, service: Service, attempt: Attempt, spec: dict[str, Any]
) -> None:
    other_job = (await client.post("/v1/jobs", json=spec)).json()["id"]
    other = await start_attempt(service, anonymous, other_job)
    answer = await anonymous.post(f"/v1/attempts/{other.name}/claim", json={"code": attempt.code})
    assert answer.status_code == 403
    assert (await attempt.claim()).status_code == 409
    assert await status(anonymous, "GET", "/v1/jobs", attempt.code) == 401


async def test_secrets_are_stored_as_hashes(service: Service, attempt: Attempt) -> None:
    """Neither the user's token nor an attempt's, nor its claim code, is in what the service keeps but for the user's own file."""
    user = (service.settings.data / "token").read_text().strip()
    await service.database.write(lambda session: None)
    for path in service.settings.data.rglob("*"):
        if path.is_file() and path.name != "token":
            content = path.read_bytes()
            assert not [s for s in (user, attempt.token, attempt.code) if s.encode() in content], path


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_no_proxy_hears_of_rays_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard is a neighbour, on whichever machine it is."""
    proxy, ray = Listener(), Listener()
    monkeypatch.setenv(name, proxy.url)
    for other in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    try:
        async with open_ray_jobs(ray.url, "rays-token") as calls:
            await calls.stop("x")
        async with open_ray_jobs("http://ray-head.invalid:8265", "rays-token") as calls:
            with pytest.raises(Exception, match="does not answer"):
                await calls.stop("x")
        assert any("rays-token" in seen for seen in ray.seen)
        assert proxy.seen == []
    finally:
        proxy.close()
        ray.close()
