"""Claim, uplink and commands: single use, idempotent, fenced."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import LedgerPage
from surefoot_service.parts import Service
from surefoot_service.store import attempts, jobs

from .helpers import JSON, LIMIT_S, Attempt, make_event, make_row, start_attempt


async def view(service: Service, job: str) -> Any:
    return await service.database.read(jobs.see, job)


def state(n: int, to: str, reason: str = "") -> Any:
    return make_event(n, EventKind.STATE, state=to, reason=reason)


# ---- claim


async def test_a_claim_works_once(service: Service, anonymous: httpx.AsyncClient, job: str) -> None:
    made = await start_attempt(service, anonymous, job)
    claimed = (await made.claim()).json()
    assert claimed["spec"]["entrypoint"] == "train:train"
    assert claimed["package_uri"] == f"gcs://surefoot_{claimed['spec']['package']}.zip"
    assert claimed["token"]
    assert (await made.claim()).status_code == 409


async def test_a_wrong_code(service: Service, anonymous: httpx.AsyncClient, job: str) -> None:
    made = await start_attempt(service, anonymous, job)
    right, made.code = made.code, "x" * 64
    assert (await made.claim()).status_code == 403
    made.code = right
    assert (await made.claim()).status_code == 200


async def test_an_unknown_attempt(service: Service, anonymous: httpx.AsyncClient) -> None:
    """Whether there is such an attempt is told only to whoever has its code."""
    assert (await Attempt(anonymous, "j", "nothere-1", "x" * 64).claim()).status_code == 403
    code = service.keys.claim_code("nothere-1")
    assert (await Attempt(anonymous, "j", "nothere-1", code).claim()).status_code == 404


async def test_of_two_claims_at_once_one_wins(service: Service, anonymous: httpx.AsyncClient, job: str) -> None:
    made = await start_attempt(service, anonymous, job)
    answers = await asyncio.gather(*(made.claim() for _ in range(8)))
    assert sorted(a.status_code for a in answers) == [200] + [409] * 7


# ---- uplink


async def test_the_same_batch_again_changes_nothing(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    events = [state(1, "running"), make_event(2, EventKind.GENERATION, generation=1, trainers=2, num_steps=5)]
    rows = [make_row(0, loss=0.5), make_row(1, loss=math.nan)]
    first = await attempt.uplink(events=events, rows=rows)
    assert first.json() == {"events": {"supervisor-1": 2}, "rows_below": 2}
    before = await view(service, attempt.job)
    assert (before.state, before.trainers, before.num_steps, before.steps_done) == (JobState.RUNNING, 2, 5, 2)
    again = await attempt.uplink(events=events, rows=rows)
    assert again.json() == first.json()
    assert await view(service, attempt.job) == before
    kept = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    assert [(e["source"], e["n"]) for e in kept if e["source"] != "service"] == [
        ("supervisor-1", 1),
        ("supervisor-1", 2),
    ]
    ledger = await client.get(f"/v1/jobs/{attempt.job}/ledger")
    assert (
        LedgerPage.model_validate_json(ledger.text).model_dump_json() == LedgerPage(rows=tuple(rows)).model_dump_json()
    )
    assert '"values":{"loss":"NaN"}' in ledger.text


async def test_acknowledged_is_what_has_no_gap(attempt: Attempt) -> None:
    late = await attempt.uplink(events=[make_event(3, EventKind.WARNING)], rows=[make_row(2), make_row(4)])
    assert late.json() == {"events": {"supervisor-1": 0}, "rows_below": 0}
    rest = await attempt.uplink(
        events=[make_event(1, EventKind.WARNING), make_event(2, EventKind.WARNING)], rows=[make_row(0), make_row(1)]
    )
    assert rest.json() == {"events": {"supervisor-1": 3}, "rows_below": 3}


async def test_sources_count_for_themselves(attempt: Attempt) -> None:
    one, two = make_event(1, EventKind.WARNING, "supervisor-a"), make_event(1, EventKind.WARNING, "supervisor-b")
    told = await attempt.uplink(events=[one, two, one])
    assert told.json()["events"] == {"supervisor-a": 1, "supervisor-b": 1}


async def test_a_step_told_twice_with_another_result_is_told(client: httpx.AsyncClient, attempt: Attempt) -> None:
    await attempt.uplink(rows=[make_row(0, "a" * 32)])
    await attempt.uplink(rows=[make_row(0, "b" * 32)])
    rows = (await client.get(f"/v1/jobs/{attempt.job}/ledger")).json()["rows"]
    assert [r["result"]["digest"] for r in rows] == ["a" * 32]
    events = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    assert [e["data"]["message"] for e in events if e["kind"] == "warning"] == [
        f"step 0 was told twice with different results: {'a' * 32}, then {'b' * 32}"
    ]


async def test_a_whole_run(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running"), make_event(2, EventKind.GENERATION, generation=1, trainers=2)])
    await attempt.uplink(
        events=[make_event(3, EventKind.TRAINER_LOST, trainer="t1"), state(4, "recovering", "t1 lost")]
    )
    recovering = await view(service, attempt.job)
    assert (recovering.state, recovering.reason) == (JobState.RECOVERING, "t1 lost")
    # by name, as the supervisor tells them, or by number
    one = make_event(5, EventKind.GENERATION, generation=2, trainers=["t0"])
    await attempt.uplink(events=[one, state(6, "running")])
    assert (await view(service, attempt.job)).trainers == 1
    await attempt.uplink(events=[make_event(7, EventKind.FINISHED, steps=3, digest="d" * 32), state(8, "succeeded")])
    ended = await view(service, attempt.job)
    assert (ended.state, ended.digest, ended.trainers) == (JobState.SUCCEEDED, "d" * 32, 0)
    assert ended.ended_at is not None


async def test_failed_user_code(service: Service, attempt: Attempt) -> None:
    failed = make_event(2, EventKind.FAILED, reason="ValueError: no", traceback="Traceback ...", trainer="t0")
    await attempt.uplink(events=[state(1, "running"), failed, state(3, "failed", "ValueError: no")])
    ended = await view(service, attempt.job)
    assert (ended.state, ended.reason, ended.traceback) == (JobState.FAILED, "ValueError: no", "Traceback ...")


async def test_after_the_end_rows_and_events_are_kept_but_the_state_stays(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    await attempt.uplink(events=[state(1, "running"), state(2, "succeeded")])
    answer = await attempt.uplink(
        events=[state(3, "running"), make_event(4, EventKind.FINISHED, digest="e" * 32)], rows=[make_row(0)]
    )
    assert answer.json() == {"events": {"supervisor-1": 4}, "rows_below": 1}
    ended = await view(service, attempt.job)
    assert (ended.state, ended.digest, ended.steps_done) == (JobState.SUCCEEDED, "e" * 32, 1)


@pytest.mark.parametrize(
    "event",
    [
        make_event(1, EventKind.STATE),
        make_event(1, EventKind.STATE, state="dancing"),
        make_event(1, EventKind.STATE, state="queued"),
        make_event(1, EventKind.STATE, state=None),
        make_event(1, EventKind.GENERATION, generation="x", trainers=10**30, num_steps=-1),
        make_event(1, EventKind.FINISHED),
    ],
    ids=lambda e: f"{e.kind}-{e.data}",
)
async def test_an_event_that_makes_no_sense_is_refused(event: Any, service: Service, attempt: Attempt) -> None:
    before = await view(service, attempt.job)
    assert (await attempt.uplink(events=[event])).status_code == 422
    assert await view(service, attempt.job) == before


async def test_text_that_no_database_takes_is_made_writable(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    failed: dict[str, Any] = {"source": "supervisor-s", "n": 1, "at": "2026-01-01T00:00:00Z", "kind": "failed"}
    failed["data"] = {"reason": "x", "traceback": "a\ud800b\0c"}
    url = f"/v1/attempts/{attempt.name}/uplink"
    answer = await attempt.client.post(url, content=json.dumps({"events": [failed]}), headers=attempt.headers | JSON)
    assert answer.status_code == 200, answer.text
    assert (await view(service, attempt.job)).traceback == "a?bc"
    assert (await client.get(f"/v1/jobs/{attempt.job}/events")).status_code == 200


async def test_success_before_running_was_told(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "succeeded")])
    assert (await view(service, attempt.job)).state is JobState.SUCCEEDED


async def test_an_older_generation_is_ignored(service: Service, attempt: Attempt) -> None:
    newer, older = (make_event(n, EventKind.GENERATION, generation=3 - n, trainers=n) for n in (1, 2))
    await attempt.uplink(events=[newer, older])
    told = await view(service, attempt.job)
    assert (told.generation, told.trainers) == (2, 1)


# ---- fencing


async def test_a_stale_attempt_is_fenced(service: Service, attempt: Attempt) -> None:
    await service.database.write(attempts.fence, attempt.name, service.now())
    assert (await attempt.uplink(rows=[make_row(0)])).status_code == 410
    assert (await attempt.commands()).status_code == 410
    assert (await view(service, attempt.job)).steps_done == 0


async def test_another_token_is_refused(client: httpx.AsyncClient, attempt: Attempt) -> None:
    for token in ("", "x", str(client.headers["Authorization"]).removeprefix("Bearer ")):
        attempt.token = token
        assert (await attempt.uplink(rows=[make_row(0)])).status_code == 401
        assert (await attempt.commands()).status_code == 401


async def test_fencing_ends_a_waiting_poll(service: Service, attempt: Attempt) -> None:
    poll = asyncio.create_task(attempt.commands(wait_s=60))
    await listening(service, f"commands:{attempt.job}")
    await service.database.write(attempts.fence, attempt.name, service.now())
    service.wakeups.wake(f"commands:{attempt.job}")
    assert (await asyncio.wait_for(poll, LIMIT_S)).status_code == 410


# ---- commands


async def listening(service: Service, topic: str) -> None:
    """Return once somebody waits for the topic."""
    async with asyncio.timeout(LIMIT_S):
        while topic not in service.wakeups.topics:  # noqa: ASYNC110 - the poll is a task of this very loop
            await asyncio.sleep(0)


async def test_a_waiting_poll_wakes_at_once(client: httpx.AsyncClient, service: Service, attempt: Attempt) -> None:
    poll = asyncio.create_task(attempt.commands(wait_s=60))
    await listening(service, f"commands:{attempt.job}")
    assert not poll.done()
    await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 3})
    answer = await asyncio.wait_for(poll, LIMIT_S)
    assert answer.json() == {"commands": [{"n": 1, "kind": "resize", "trainers": 3, "fault": None}]}


async def test_a_poll_ends_empty_at_its_bound(attempt: Attempt) -> None:
    assert (await attempt.commands(wait_s=0.05)).json() == {"commands": []}


async def test_a_poll_after_the_last_command(client: httpx.AsyncClient, attempt: Attempt) -> None:
    await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": 3})
    await client.post(f"/v1/jobs/{attempt.job}/cancel")
    assert [c["n"] for c in (await attempt.commands(after=1)).json()["commands"]] == [2]


async def test_of_several_sizes_the_last_is_wanted(client: httpx.AsyncClient, attempt: Attempt) -> None:
    """A restarted supervisor does not go through a job's whole history of sizes."""
    for trainers in (3, 1, 2):
        await client.post(f"/v1/jobs/{attempt.job}/resize", json={"trainers": trainers})
    await client.post(f"/v1/jobs/{attempt.job}/cancel")
    told = (await attempt.commands()).json()["commands"]
    assert [(c["n"], c["kind"], c["trainers"]) for c in told] == [(3, "resize", 2), (4, "cancel", None)]


async def test_a_waiting_poll_ends_with_the_service(service: Service, attempt: Attempt) -> None:
    poll = asyncio.create_task(attempt.commands(wait_s=60))
    await listening(service, f"commands:{attempt.job}")
    service.wakeups.close()
    assert (await asyncio.wait_for(poll, LIMIT_S)).json() == {"commands": []}
