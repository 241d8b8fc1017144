"""A user's token and the service's key are changed by removing their files and starting again; what runs goes on."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from surefoot_service.parts import Service
from surefoot_service.rest.app import create_app
from surefoot_service.settings import Settings

from .helpers import TRAIN, ZIP, Attempt, make_row, make_zip, start_attempt


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """The service on its data folder, and a client without a token."""
    app = create_app(settings)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://surefoot")
    async with app.router.lifespan_context(app), client:
        yield app.state.service, client


def token(settings: Settings) -> dict[str, str]:
    return {"Authorization": f"Bearer {(settings.data / 'token').read_text().strip()}"}


async def submit(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    answer = await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=headers | ZIP)
    spec: dict[str, Any] = {"entrypoint": "train:train", "package": answer.json()["package"], "batch_size": 8}
    return str((await client.post("/v1/jobs", json=spec, headers=headers)).json()["id"])


async def two_attempts(service: Service, client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[Attempt, Attempt]:
    """One that is claimed, and one that is being launched."""
    one, other = [await start_attempt(service, client, await submit(client, headers)) for _ in range(2)]
    assert (await one.claim()).status_code == 200
    return one, other


async def test_a_new_token_is_made_where_its_hash_was_removed(settings: Settings) -> None:
    async with started(settings) as (service, client):
        old = token(settings)
        claimed, launched = await two_attempts(service, client, old)
    (settings.data / "token.sha256").unlink()
    async with started(settings) as (service, client):
        new = token(settings)
        assert new != old
        assert [(await client.get("/v1/jobs", headers=h)).status_code for h in (old, new)] == [401, 200]
        assert len((await client.get("/v1/jobs", headers=new)).json()["jobs"]) == 2
        claimed.client = launched.client = client
        assert (await claimed.uplink(rows=[make_row(0)])).status_code == 200
        assert (await launched.claim()).status_code == 200
    for name in ("token", "token.sha256"):
        assert stat.S_IMODE((settings.data / name).stat().st_mode) == 0o600


async def test_the_token_s_own_file_may_be_moved_away(settings: Settings) -> None:
    async with started(settings) as (_, client):
        known = token(settings)
    (settings.data / "token").unlink()
    async with started(settings) as (_, client):
        assert (await client.get("/v1/jobs", headers=known)).status_code == 200
        assert not (settings.data / "token").exists()


async def test_a_new_key_ends_the_claim_codes_that_were_not_used(settings: Settings) -> None:
    async with started(settings) as (service, client):
        claimed, launched = await two_attempts(service, client, token(settings))
    (settings.data / "key").unlink()
    async with started(settings) as (service, client):
        claimed.client = launched.client = client
        assert (await launched.claim()).status_code == 403
        assert (await claimed.uplink(rows=[make_row(0)])).status_code == 200
        another = await start_attempt(service, client, await submit(client, token(settings)))
        assert (await another.claim()).status_code == 200
