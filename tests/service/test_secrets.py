"""Secrets: set, listed, rotated, removed; stored encrypted; handed to the attempts of jobs that name them, and to nobody else."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from surefoot.errors import UserError
from surefoot_service.encryption import KeyRing, open_key_ring
from surefoot_service.errors import UnreadableSecretError
from surefoot_service.parts import Service
from surefoot_service.settings import Settings

from .helpers import Attempt, start_attempt

VALUE = "secret123-of-the-user"
OTHER = "another-secret-456"


async def put(client: httpx.AsyncClient, name: str = "WANDB_API_KEY", value: str = VALUE) -> httpx.Response:
    return await client.put(f"/v1/secrets/{name}", json={"value": value})


def stored(settings: Settings) -> bytes:
    """All that the service keeps, the database's log included."""
    return b"".join(path.read_bytes() for path in settings.data.rglob("*") if path.is_file())


async def audited(client: httpx.AsyncClient, name: str = "WANDB_API_KEY") -> list[tuple[str, str]]:
    entries = (await client.get("/v1/audit", params={"subject": name})).json()["entries"]
    return [(e["action"], e["by"]) for e in entries]


async def test_a_secret_from_its_setting_to_its_removal(client: httpx.AsyncClient, settings: Settings) -> None:
    assert (await put(client)).status_code == 201
    assert (await put(client)).status_code == 200
    refused = await put(client, value=OTHER)
    assert (refused.status_code, "rotate" in refused.json()["detail"]) == (409, True)
    rotated = await client.post("/v1/secrets/WANDB_API_KEY/rotate", json={"value": OTHER})
    again = await client.post("/v1/secrets/WANDB_API_KEY/rotate", json={"value": OTHER})
    assert (rotated.json()["version"], again.json()) == (2, rotated.json())
    (listed,) = (await client.get("/v1/secrets")).json()["secrets"]
    assert (listed["name"], listed["owner"], listed["version"]) == ("WANDB_API_KEY", "the user", 2)
    assert (await client.delete("/v1/secrets/WANDB_API_KEY")).status_code == 204
    assert (await client.delete("/v1/secrets/WANDB_API_KEY")).status_code == 204
    assert (await client.get("/v1/secrets")).json() == {"secrets": []}
    assert (await client.delete("/v1/secrets/NEVER")).status_code == 404
    assert (await client.post("/v1/secrets/NEVER/rotate", json={"value": OTHER})).status_code == 404
    actions = [action for action, _ in await audited(client)]
    assert actions == ["secret_set", "secret_rotated", "secret_removed"]
    kept = stored(settings)
    assert VALUE.encode() not in kept
    assert OTHER.encode() not in kept


@pytest.mark.parametrize("value", ["", "qzkw", "x" * 16_385, "with\0zero", "é" * 9000])
async def test_a_value_that_is_refused_is_not_told(client: httpx.AsyncClient, value: str) -> None:
    answer = await put(client, value=value)
    assert answer.status_code == 422
    assert not value or value not in answer.text


@pytest.mark.parametrize("body", [{"value": [VALUE]}, {"value": VALUE, "more": 1}, [VALUE], {"value": {"x": VALUE}}])
async def test_nor_is_one_in_a_body_of_another_shape(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.put("/v1/secrets/X", json=body)
    assert (answer.status_code, VALUE in answer.text) == (422, False)


@pytest.mark.parametrize("name", ["A-B", "1A", "A" * 65, "A%00B", "rotate-key"])
async def test_a_name_is_one_of_a_variable(client: httpx.AsyncClient, name: str) -> None:
    assert (await put(client, name)).status_code == 422


async def test_a_job_that_names_a_missing_secret_is_refused(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    refused = await client.post("/v1/jobs", json=spec | {"secrets": {"KEY": "WANDB_API_KEY"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "body.secrets"
    assert "surefoot secret set WANDB_API_KEY" in refused.json()["detail"]


@pytest.mark.parametrize("variable", ["PYTHONHASHSEED", "SUREFOOT_X", "OMP_NUM_THREADS", "a b", "FREE"])
async def test_variables_that_a_secret_cannot_be(
    client: httpx.AsyncClient, spec: dict[str, Any], variable: str
) -> None:
    await put(client)
    body = spec | {"secrets": {variable: "WANDB_API_KEY"}, "env": {"FREE": "x"}}
    assert (await client.post("/v1/jobs", json=body)).status_code == 422


@pytest.fixture
async def naming(client: httpx.AsyncClient, spec: dict[str, Any]) -> dict[str, Any]:
    """A spec that names a secret."""
    await put(client)
    return spec | {"secrets": {"KEY": "WANDB_API_KEY"}}


async def claimed(service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, spec: Any) -> Attempt:
    job = (await client.post("/v1/jobs", json=spec)).json()["id"]
    attempt = await start_attempt(service, anonymous, job)
    answer = await attempt.claim()
    assert VALUE not in answer.text
    return attempt


async def hand(attempt: Attempt) -> httpx.Response:
    return await attempt.client.post(f"/v1/attempts/{attempt.name}/secrets", headers=attempt.headers)


async def test_an_attempt_is_handed_what_its_job_names(
    service: Service,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    naming: dict[str, Any],
    settings: Settings,
) -> None:
    attempt = await claimed(service, client, anonymous, naming)
    assert (await hand(attempt)).json() == {"values": {"KEY": VALUE}}
    await client.post("/v1/secrets/WANDB_API_KEY/rotate", json={"value": OTHER})
    assert [(await hand(attempt)).json()["values"]["KEY"] for _ in range(2)] == [OTHER, OTHER]
    handed = [by for action, by in await audited(client) if action == "secret_handed"]
    assert handed == [attempt.name] * 2, "each value once"
    for path in ("", f"/{attempt.job}", f"/{attempt.job}/events"):
        shown = (await client.get(f"/v1/jobs{path}")).text
        assert VALUE not in shown
        assert OTHER not in shown
    assert VALUE.encode() not in stored(settings)


async def test_nobody_else_is(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, naming: dict[str, Any], attempt: Attempt
) -> None:
    mine = await claimed(service, client, anonymous, naming)
    assert (await hand(attempt)).json() == {"values": {}}, "its job names none"
    path = f"/v1/attempts/{mine.name}/secrets"
    assert (await anonymous.post(path, headers=attempt.headers)).status_code == 401
    assert (await client.post(path)).status_code == 401
    await client.post(f"/v1/jobs/{mine.job}/cancel")
    await service.database.write(_end, mine, now=service.now())
    assert (await hand(mine)).status_code == 410


def _end(session: Any, attempt: Attempt, now: Any) -> None:
    from surefoot_service.store.attempts import fence

    fence(session, attempt.name, now)


async def test_a_secret_in_use_stays(client: httpx.AsyncClient, naming: dict[str, Any]) -> None:
    job = (await client.post("/v1/jobs", json=naming)).json()["id"]
    refused = await client.delete("/v1/secrets/WANDB_API_KEY")
    assert (refused.status_code, job in refused.json()["detail"]) == (409, True)
    await client.post(f"/v1/jobs/{job}/cancel")
    assert (await client.delete("/v1/secrets/WANDB_API_KEY")).status_code == 204


# ---- the keys


async def test_the_key_is_rotated_and_everything_encrypted_anew(
    service: Service,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    naming: dict[str, Any],
    settings: Settings,
) -> None:
    attempt = await claimed(service, client, anonymous, naming)
    file = settings.data / "secrets.key"
    before = file.read_text()
    told, _ = await asyncio.gather(client.post("/v1/secrets/keys/new"), put(client, "MORE", OTHER))
    assert told.json()["made"] is True
    assert before.strip() not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await hand(attempt)).json() == {"values": {"KEY": VALUE}}
    assert (await client.post("/v1/secrets/MORE/rotate", json={"value": OTHER})).json()["version"] == 1


async def test_another_key_does_not_open_what_was_stored(
    service: Service, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, naming: dict[str, Any]
) -> None:
    attempt = await claimed(service, client, anonymous, naming)
    service.key_ring._take([Fernet.generate_key().decode()])
    refused = await hand(attempt)
    assert (refused.status_code, "cannot be decrypted" in refused.json()["detail"]) == (409, True)
    assert (await client.post("/v1/secrets/keys/new")).status_code == 409
    await client.post("/v1/secrets/WANDB_API_KEY/rotate", json={"value": OTHER})
    assert (await hand(attempt)).json() == {"values": {"KEY": OTHER}}


def test_a_value_is_bound_to_its_name() -> None:
    ring = KeyRing([Fernet.generate_key().decode()])
    sealed = ring.encrypt("A", VALUE)
    assert ring.decrypt("A", sealed) == VALUE
    with pytest.raises(UnreadableSecretError):
        ring.decrypt("B", sealed)


def test_keys_come_from_a_setting_or_a_mounted_file(tmp_path: Path) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = KeyRing([old]).encrypt("A", VALUE)
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "mounted").write_text(f"{new}\n{old}\n")
    for settings in (
        Settings(data=data, secrets_key=f"{new},{old}"),
        Settings(data=data, secrets_key_file=tmp_path / "mounted"),
    ):
        ring = open_key_ring(settings)
        assert ring.decrypt("A", sealed) == VALUE
        assert not ring.begin_rotation()
        ring.end_rotation()
        assert KeyRing([new]).decrypt("A", ring.encrypt("A", VALUE)) == VALUE
        assert old not in repr(settings)
    assert not (data / "secrets.key").exists()
    for settings in (Settings(data=data, secrets_key="x"), Settings(data=data, secrets_key_file=tmp_path / "none")):
        with pytest.raises(UserError):
            open_key_ring(settings)
