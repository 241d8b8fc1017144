"""Jobs by REST: submitted, listed, resized, cancelled."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from surefoot.spec import JobSpec
from surefoot_service.parts import Service
from surefoot_service.store.tables import JobRow

from .helpers import JSON, Attempt, start_attempt


async def test_a_submitted_job_is_queued_and_seen(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    made = await client.post("/v1/jobs", json=spec)
    assert made.status_code == 201, made.text
    job = made.json()
    assert job["state"] == "queued"
    assert job["wanted_trainers"] == 2
    assert (await client.get(f"/v1/jobs/{job['id']}")).json() == job
    assert (await client.get("/v1/jobs")).json() == {"jobs": [job]}
    events = (await client.get(f"/v1/jobs/{job['id']}/events")).json()["events"]
    assert [e["data"]["state"] for e in events] == ["queued"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown function": ({"entrypoint": "train:fit"}, "there are train"),
    "unknown module": ({"entrypoint": "model:train"}, "not in the package"),
    "no entrypoint": ({"entrypoint": "train"}, "module:function"),
    "unknown package": ({"package": "0" * 64}, "upload it first"),
    "no hash": ({"package": "../../etc/passwd"}, "body.package"),
    "min above max": ({"min_trainers": 4, "max_trainers": 2}, "above max_trainers"),
    "no sub-tasks": ({"sub_tasks": 0}, "body.sub_tasks"),
    "more trainers than sub-tasks": ({"max_trainers": 9}, "above sub_tasks"),
    "batch no multiple": ({"batch_size": 63}, "not a multiple"),
    "trainers outside": ({"trainers": 4, "max_trainers": 3}, "not between"),
    "unknown field": ({"learning_rate": 1}, "body.learning_rate"),
    "no number": ({"config": {"x": math.nan}}, "body.config"),
    "a lone surrogate": ({"config": {"x": "\ud800"}}, "body.config"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_spec_names_the_field_and_leaves_nothing(
    case: str, client: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    change, message = BAD[case]
    answer = await client.post("/v1/jobs", content=json.dumps(spec | change), headers=JSON)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["errors"]
    assert message in answer.text
    assert (await client.get("/v1/jobs")).json() == {"jobs": []}


async def test_an_entrypoint_from_a_requirement(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    answer = await client.post("/v1/jobs", json=spec | {"entrypoint": "theirs:train", "pip": ["theirs"]})
    assert answer.status_code == 201


async def test_the_same_key_gives_the_same_job(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "monday"}
    first = await client.post("/v1/jobs", json=spec, headers=key)
    again = await client.post("/v1/jobs", json=spec, headers=key)
    other = await client.post("/v1/jobs", json=spec | {"seed": 1}, headers=key)
    assert [first.status_code, again.status_code, other.status_code] == [201, 200, 409]
    assert first.json() == again.json()
    assert first.json()["id"] in other.json()["detail"]


async def test_listing_by_pages_and_state(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    made = [(await client.post("/v1/jobs", json=spec)).json()["id"] for _ in range(5)]
    newest = made[::-1]

    async def ids(**query: Any) -> list[str]:
        return [j["id"] for j in (await client.get("/v1/jobs", params=query)).json()["jobs"]]

    assert await ids(limit=2) == newest[:2]
    assert await ids(limit=2, before=newest[1]) == newest[2:4]
    await client.post(f"/v1/jobs/{made[2]}/cancel")
    assert await ids(state="cancelled") == [made[2]]
    assert (await client.get("/v1/jobs", params={"before": "nothere"})).status_code == 404


async def test_listing_by_the_beginning_of_ids(
    client: httpx.AsyncClient, service: Service, spec: dict[str, Any]
) -> None:
    def add(session: Session) -> None:
        stored = JobSpec.model_validate(spec).model_dump_json()
        for name in ("ab2", "ab", "abz", "ab-c", "ac", "a"):
            row = JobRow(id=name, spec=stored, state="queued", created_at=service.now(), wanted_trainers=1)
            session.add(row)
            session.flush()

    await service.database.write(add)

    async def ids(**query: Any) -> list[str]:
        return [j["id"] for j in (await client.get("/v1/jobs", params=query)).json()["jobs"]]

    assert await ids(beginning="ab") == ["ab-c", "abz", "ab", "ab2"]
    assert await ids(beginning="ab", limit=2) == ["ab-c", "abz"]
    assert await ids(beginning="ab", before="abz") == ["ab", "ab2"]
    assert await ids(beginning="ad") == []
    assert (await client.get("/v1/jobs", params={"beginning": "a%"})).status_code == 422


async def test_resize_within_the_bounds(client: httpx.AsyncClient, attempt: Attempt) -> None:
    url = f"/v1/jobs/{attempt.job}/resize"
    assert (await client.post(url, json={"trainers": 4})).json()["wanted_trainers"] == 4
    assert (await client.post(url, json={"trainers": 4})).status_code == 200
    outside = await client.post(url, json={"trainers": 9})
    assert outside.status_code == 422
    assert outside.json()["errors"] == [
        {"field": "body.trainers", "message": "9 is not between min_trainers 1 and max_trainers 8"}
    ]
    assert (await attempt.commands()).json() == {"commands": [{"n": 1, "kind": "resize", "trainers": 4, "fault": None}]}


async def test_a_cancelled_job_cannot_be_resized(client: httpx.AsyncClient, job: str) -> None:
    await client.post(f"/v1/jobs/{job}/cancel")
    assert (await client.post(f"/v1/jobs/{job}/resize", json={"trainers": 1})).status_code == 409


async def test_a_queued_job_is_cancelled_at_once(client: httpx.AsyncClient, job: str) -> None:
    first = (await client.post(f"/v1/jobs/{job}/cancel")).json()
    assert first["state"] == "cancelled"
    assert first["ended_at"] is not None
    assert (await client.post(f"/v1/jobs/{job}/cancel")).json() == first


async def test_a_cancel_is_a_command_told_once(client: httpx.AsyncClient, attempt: Attempt) -> None:
    for _ in range(2):
        view = (await client.post(f"/v1/jobs/{attempt.job}/cancel")).json()
        assert (view["state"], view["reason"]) == ("starting", "cancel requested")
    assert [c["kind"] for c in (await attempt.commands()).json()["commands"]] == ["cancel"]
    assert (await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 1})).status_code == 409


async def test_a_cancelled_job_cannot_be_claimed(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, service: Service, job: str
) -> None:
    made = await start_attempt(service, anonymous, job)
    await client.post(f"/v1/jobs/{job}/cancel")
    assert (await made.claim()).status_code == 410


@pytest.mark.parametrize("what", ["", "/events", "/ledger", "/stream"])
async def test_an_unknown_job(what: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/v1/jobs/nothere{what}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no job 'nothere'"


async def test_a_job_is_submitted_again_with_changes(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    first = (await client.post("/v1/jobs", json=spec | {"config": {"lr": 0.1, "width": 8}, "trainers": 2})).json()
    changes = {"config": {"lr": 0.5}, "trainers": 3, "checkpoint": {"keep": 4}}
    keyed = {"Idempotency-Key": "again"}
    answer = await client.post("/v1/jobs", json={"from": first["id"], "changes": changes}, headers=keyed)
    assert answer.status_code == 201, answer.text
    again = answer.json()
    assert again["spec"]["config"] == {"lr": 0.5, "width": 8}
    assert (again["spec"]["trainers"], again["spec"]["checkpoint"]["keep"]) == (3, 4)
    same = {"config", "trainers", "checkpoint"}
    assert {k: v for k, v in again["spec"].items() if k not in same} == {
        k: v for k, v in first["spec"].items() if k not in same
    }
    repeated = await client.post("/v1/jobs", json={"from": first["id"], "changes": changes}, headers=keyed)
    assert (repeated.status_code, repeated.json()["id"]) == (200, again["id"])
    assert (await client.post("/v1/jobs", json={"from": first["id"]})).json()["spec"] == first["spec"]
    # nor does it matter that the first is gone by the time that a lost answer is asked for again
    await client.post(f"/v1/jobs/{first['id']}/cancel")
    assert (await client.delete(f"/v1/jobs/{first['id']}")).is_success
    late = await client.post("/v1/jobs", json={"from": first["id"], "changes": changes}, headers=keyed)
    assert (late.status_code, late.json()["id"]) == (200, again["id"])
    other = {"from": first["id"], "changes": changes | {"trainers": 4}}
    assert (await client.post("/v1/jobs", json=other, headers=keyed)).status_code == 409
    assert (await client.post("/v1/jobs", json=other)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"from": "nosuchjob2"}, 404, None),
        ({"changes": {"trainers": 0}}, 422, "body.changes.trainers"),
        ({"changes": {"trainer": 2}}, 422, "body.changes.trainer"),
        ({"changes": {"config": 3}}, 422, "body.changes.config"),
        ({"changes": [1]}, 422, "body.changes"),
        ({"more": 1}, 422, "body.more"),
    ],
)
async def test_a_wrong_change_is_named(
    client: httpx.AsyncClient, job: str, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = await client.post("/v1/jobs", json={"from": job} | body)
    assert answer.status_code == status
    assert field is None or answer.json()["errors"][0]["field"] == field
