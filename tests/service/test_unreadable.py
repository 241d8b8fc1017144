"""No stored byte stops the service: a row that cannot be read is shown as such, and harms no other, nor the loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from surefoot.spec import JobSpec, JobState
from surefoot.stored_spec import read_spec
from surefoot.views import EventPage, JobList, JobView, LedgerPage
from surefoot_service.parts import Service
from surefoot_service.rest import stream
from surefoot_service.store import jobs, overview
from surefoot_service.wakeups import RECONCILER

from .fake_ray import FakeRay
from .helpers import Attempt, make_event, make_row, start_attempt, until
from .test_reconciler import launched, running, state

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=64)


async def spoil(service: Service, sql: str, **values: Any) -> None:
    """Change what is stored behind everybody's back."""
    await service.database.write(lambda session: session.execute(text(sql), values) and None)


async def spoil_job(service: Service, job: str, column: str, value: Any) -> None:
    await spoil(service, f"UPDATE jobs SET {column} = :value WHERE id = :job", value=value, job=job)


def spec_with(**changes: Any) -> str:
    return json.dumps(json.loads(SPEC.model_dump_json()) | changes)


JOBS = {
    "a spec that is no JSON": ("spec", "{"),
    "a spec of another kind": ("spec", "[1]"),
    "a spec nested too deep": ("spec", "[" * 100_000),
    "a long restore": ("spec", spec_with(restore="x" * 5000)),
    "no batch size": ("spec", spec_with(batch_size=None)),
    "numbers that do not agree": ("spec", spec_with(trainers=9, max_trainers=3)),
    "a field of a newer version": ("spec", spec_with(shards=4)),
    "one inside": ("spec", spec_with(resources={"cpus": 1, "disks": 2})),
    "bytes that are no text": ("spec", b"\xff\xfe"),
    "a state of a newer version": ("state", "archiving"),
    "a number that is text": ("steps_done", "many"),
    "a time that is none": ("created_at", "yesterday"),
    "a start that is none": ("started_at", "2026-99-99"),
    "a reason of bytes": ("reason", b"\xff"),
}


@pytest.mark.parametrize(("column", "value"), JOBS.values(), ids=JOBS.keys())
@pytest.mark.parametrize("on_cluster", [False, True], ids=["queued", "running"])
async def test_a_job_that_cannot_be_read_harms_no_other(
    column: str,
    value: Any,
    on_cluster: bool,
    service: Service,
    fake: FakeRay,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    spec: dict[str, Any],
) -> None:
    bad = (await client.post("/v1/jobs", json=spec)).json()["id"]
    if on_cluster:
        attempt = await start_attempt(service, anonymous, bad)
        await attempt.claim()
        await spoil(service, "UPDATE attempts SET session = 'session_1', submitted_at = created_at")
        await attempt.uplink(events=[state(1, "running")])
    await spoil_job(service, bad, column, value)
    good = (await client.post("/v1/jobs", json=spec)).json()["id"]
    listed = JobList.model_validate_json((await client.get("/v1/jobs")).content)
    assert {view.id for view in listed.jobs} == {good, bad}
    seen = await client.get(f"/v1/jobs/{bad}")
    assert seen.status_code == 200
    JobView.model_validate_json(seen.content)
    for part in ("events", "ledger", "checkpoints"):
        assert (await client.get(f"/v1/jobs/{bad}/{part}")).status_code == 200
    async with running(service, fake):
        # the other one starts, the loop passes
        await launched(fake, anonymous, good)
        service.wakeups.wake(RECONCILER)
        assert (await client.post(f"/v1/jobs/{bad}/cancel")).status_code == 200
        if on_cluster and column != "state":
            await attempt.uplink(events=[state(2, "cancelled")])
        ended = await until(service, bad, lambda v: v.ended)
        assert ended.state is JobState.CANCELLED


async def test_what_cannot_be_read_is_told(service: Service, client: httpx.AsyncClient, job: str) -> None:
    await spoil_job(service, job, "spec", spec_with(restore="x" * 5000, name="kept"))
    seen = JobView.model_validate_json((await client.get(f"/v1/jobs/{job}")).content)
    assert (seen.spec.name, seen.spec.restore) == ("kept", None)
    assert "restore" in seen.unreadable
    await spoil_job(service, job, "state", "archiving")
    seen = JobView.model_validate_json((await client.get(f"/v1/jobs/{job}")).content)
    assert (str(seen.state), seen.ended) == ("archiving", False)
    assert "knows no state 'archiving'" in seen.unreadable


async def test_a_secret_that_was_taken_once_is_masked_and_not_taken_again(
    client: httpx.AsyncClient, service: Service, job: str
) -> None:
    secret, data = "hunter2hunter2", {"x": "s3://bucket/x"}
    url = f"git+https://{secret}@github.com/a/b"
    await spoil_job(service, job, "spec", spec_with(pip=[f"b @ {url}"], data=data, name="kept"))
    for path in (f"/v1/jobs/{job}", "/v1/jobs"):
        answer = await client.get(path)
        assert secret not in answer.text
        assert "b @ git+https://***:***@github.com/a/b" in answer.text
    seen = JobView.model_validate_json((await client.get(f"/v1/jobs/{job}")).content)
    assert (seen.spec.name, seen.spec.pip) == ("kept", ("b @ git+https://***:***@github.com/a/b",))
    assert seen.spec.data["x"].url == "s3://bucket/x"
    again = await client.post("/v1/jobs", json={"from": job, "changes": {"name": "again"}})
    assert again.status_code == 409
    assert "submit its code again, with another URL: pip: leave the password out of the URL" in again.json()["detail"]


async def test_a_queued_job_that_cannot_be_read_whole_waits_with_the_reason(
    service: Service, fake: FakeRay, client: httpx.AsyncClient, job: str
) -> None:
    await spoil_job(service, job, "spec", spec_with(shards=4))
    async with running(service, fake):
        waiting = await until(service, job, lambda v: "shards" in v.reason)
        assert waiting.state is JobState.QUEUED
        assert "cancel it" in waiting.reason
        assert (await client.post(f"/v1/jobs/{job}/cancel")).json()["state"] == "cancelled"
    assert fake.submissions == {}


# ---- events, rows, commands, attempts

NULLS = make_row(0).model_dump_json().replace('"seconds":0.5', '"seconds":null').replace('"at":0.0', '"at":null')
HISTORY = {
    "data that is no JSON": "UPDATE events SET data = '{'",
    "data that is no object": "UPDATE events SET data = '[1]'",
    "no number": """UPDATE events SET data = '{"seconds": NaN, "more": [Infinity, 1e999]}'""",
    "300 deep": "UPDATE events SET data = '{\"a\":' || '" + "[" * 300 + "]" * 300 + "' || '}'",
    "100,000 deep": "UPDATE events SET data = '" + "[" * 100_000 + "'",
    "half a surrogate pair": """UPDATE events SET data = '{"a": "\\ud800"}'""",
    "a kind of a newer version": "UPDATE events SET kind = 'of_a_newer_version'",
    "a state of a newer version": """UPDATE events SET data = '{"state": "archiving"}' WHERE kind = 'state'""",
    "a number beyond": "UPDATE events SET n = n + 9007199254740992",
    "a time in no calendar": "UPDATE events SET at = 'never'",
    "year 1": "UPDATE events SET at = '0001-01-01 00:00:00.000000'",
    "year 9999": "UPDATE events SET at = '9999-12-31 23:59:59.999999'",
    "a checkpoint with strange numbers": """UPDATE events SET kind = 'checkpoint', data = '{"url": 5, "bytes": 1e400, "seconds": """
    + "9" * 400
    + """, "step": true}'""",
    "rows that are no JSON": "UPDATE ledger SET row = '{'",
    "rows of bytes": "UPDATE ledger SET row = x'ff'",
    "rows of another version": """UPDATE ledger SET row = '{"result": {"of_a_newer": 1}}'""",
    "seconds that were no number": f"UPDATE ledger SET row = '{NULLS}'",
    "a command of a newer version": "INSERT INTO commands (job, n, kind, at) SELECT id, 9, 'dance', created_at FROM jobs",
    "a fault of a newer version": "INSERT INTO commands (job, n, kind, fault, at) SELECT id, 9, 'fault', 'flood', created_at FROM jobs",
    "a verdict of a newer version": "UPDATE attempts SET verdict = 'archived', fenced_at = created_at",
    "an attempt without times": "UPDATE attempts SET created_at = 'x', claimed_at = 'x', spoke_at = 'x', submitted_at = 'x'",
}  # fmt: skip


@pytest.mark.parametrize("sql", HISTORY.values(), ids=HISTORY.keys())
async def test_history_that_cannot_be_read_is_read_as_far_as_it_is(
    sql: str, service: Service, fake: FakeRay, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    checkpoint = make_event(2, kind="checkpoint", url="/c/1", step=1)  # type: ignore[arg-type]
    await attempt.uplink(events=[state(1, "running"), checkpoint], rows=[make_row(0), make_row(1)])
    await spoil(service, "UPDATE attempts SET session = 'session_1', submitted_at = created_at")
    await service.database.write(lambda s: s.connection().exec_driver_sql(sql) and None)
    job = attempt.job
    EventPage.model_validate_json((await client.get(f"/v1/jobs/{job}/events")).content)
    LedgerPage.model_validate_json((await client.get(f"/v1/jobs/{job}/ledger")).content)
    assert (await client.get(f"/v1/jobs/{job}/checkpoints")).status_code == 200
    assert (await attempt.commands()).status_code in (200, 410)
    messages = [m async for m in first_messages(service, job)]
    assert messages[-1].startswith(b"event: job")
    assert (await attempt.uplink(rows=[make_row(2)])).status_code in (200, 410)
    async with running(service, fake):
        assert (await client.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        await attempt.uplink(events=[state(3, "cancelled")])
        for name in list(fake.submissions):
            fake.end(name, "SUCCEEDED")
        service.wakeups.wake(RECONCILER)
        if "verdict" not in sql:
            assert (await until(service, job, lambda v: v.ended)).state is JobState.CANCELLED
        assert (await service.database.read(overview.look, service.now())) is not None


async def first_messages(service: Service, job: str) -> AsyncIterator[bytes]:
    async for message in stream.follow(service, job, stream.Cursor()):
        yield message
        if message.startswith(b"event: job"):
            return


async def test_a_row_that_cannot_be_read_says_so_and_is_replaced_when_it_is_told_again(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(rows=[make_row(0), make_row(1)])
    await spoil(service, "UPDATE ledger SET row = '{' WHERE step = 1")
    page = LedgerPage.model_validate_json((await client.get(f"/v1/jobs/{attempt.job}/ledger")).content)
    assert [(r.result.step, bool(r.unreadable)) for r in page.rows] == [(0, False), (1, True)]
    await attempt.uplink(rows=[make_row(1)])
    page = LedgerPage.model_validate_json((await client.get(f"/v1/jobs/{attempt.job}/ledger")).content)
    assert page.rows == (make_row(0), make_row(1))
    assert (await service.database.read(jobs.see, attempt.job)).state is JobState.STARTING


# ---- any spec at all

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*JobSpec.model_fields, "of_a_newer_version"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, ANY, max_size=4))
def test_any_spec_is_read_and_shown(changes: dict[str, Any]) -> None:
    stored = spec_with(**changes)
    read = read_spec(stored)
    shown = JobView.model_validate(
        {
            "id": "j",
            "spec": json.loads(read.spec.model_dump_json()),
            "state": "queued",
            "created_at": 0,
            "wanted_trainers": 1,
        }
    )
    again = read_spec(shown.spec.model_dump_json())
    assert again.spec == read.spec
    if not read.unreadable:
        assert JobSpec.model_validate_json(read.spec.model_dump_json()) == read.spec
