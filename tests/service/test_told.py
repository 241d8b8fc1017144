"""What an attempt may say: refused at the door where it makes no sense, taken from older and newer versions."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.views import JobView
from surefoot_service.parts import Service
from surefoot_service.store import jobs
from surefoot_service.store.events import events_after

from .helpers import JSON, Attempt, make_event, make_row

AT = "2026-01-01T00:00:00Z"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def event(kind: str = "warning", n: Any = 1, source: Any = "supervisor-1", at: Any = AT, **data: Any) -> dict[str, Any]:
    return {"source": source, "n": n, "at": at, "kind": kind, "data": data}


async def say(attempt: Attempt, *events: Any, rows: Any = ()) -> httpx.Response:
    content = json.dumps({"events": list(events), "rows": list(rows)})
    return await attempt.client.post(
        f"/v1/attempts/{attempt.name}/uplink", content=content, headers=attempt.headers | JSON
    )


async def view(service: Service, job: str) -> JobView:
    return await service.database.read(jobs.see, job)


NONSENSE = {
    "no state": event("state"),
    "a state that is none": event("state", state="dancing"),
    "queued": event("state", state="queued"),
    "null": event("state", state=None),
    "a story of 51 lines": event("failed", story=["a"] * 51),
    "a story with a line too long": event("trainer_lost", story=["a" * 501]),
    "a story that is a text": event("failed", story="once upon a time"),
    "as the service": event("warning", source="service", n=2**53),
    "as nobody": event("warning", source=""),
    "as another attempt": event("warning", source="other-1/supervisor-1"),
    "as anything": event("warning", source="x y"),
    "n above every reader's": event("warning", n=2**53 + 1),
    "n of zero": event("warning", n=0),
    "n far ahead": event("warning", n=200_000),
    "seconds that are no number": event("recovered", seconds=math.nan),
    "endless seconds": event("checkpoint", url="/c/1", seconds=math.inf),
    "negative seconds": event("recovered", seconds=-1),
    "year 1": event(at="0001-01-01T00:00:00Z"),
    "year 9999": event(at="9999-12-31T23:59:59Z"),
    "no time zone": event(at="2026-01-01T00:00:00"),
    "220 deep": event(message="x", more=nested(220)),
    "13 deep": event("of_a_newer_version", more=nested(13)),
    "not a number, deep inside": event("of_a_newer_version", more=[{"a": math.nan}]),
    "many values": event("of_a_newer_version", more=[0] * 55_000),
    "a long text": event(message="x" * 100_001),
    "a long URL": event("restored", url="/" + "x" * 2000, first_step=0),
    "a URL with control characters": event("checkpoint", url="/c/\x1b]52;c;x\x07"),
    "no URL": event("checkpoint", step=1),
    "a step below zero": event("checkpoint", url="/c/1", step=-1),
    "a generation that is none": event("generation", generation="x", trainers=10**30, num_steps=-1),
    "no digest": event("finished"),
    "a kind that is no word": event("no such kind"),
    "data that is no object": {**event(), "data": [1]},
    "no data": {k: v for k, v in event("state").items() if k != "data"},
}


@pytest.mark.parametrize("settings_more", [{"max_body_bytes": 1_000_000}], indirect=True)
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    nonsense: dict[str, Any], client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    before = await view(service, attempt.job)
    answer = await say(attempt, event(n=1, message="well"), nonsense)
    assert answer.status_code in (400, 413, 422), answer.text
    assert len(answer.content) < 4096
    assert await view(service, attempt.job) == before
    told = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    assert [e["source"] for e in told if e["source"] != "service"] == []
    # and the good one alone is taken
    assert (await say(attempt, event(n=1, message="well"))).json()["events"] == {"supervisor-1": 1}


ROWS: dict[str, dict[str, Any]] = {
    "a digest that is none": {"result": {"digest": "x"}},
    "a step above every reader's": {"result": {"step": 2**53 + 1}},
    "no sample": {"result": {"num_samples": 0}},
    "ten thousand values and one": {"result": {"values": {str(n): 0.0 for n in range(10_001)}}},
    "seconds that are no number": {"circumstances": {"seconds": math.nan}},
    "trainers": {"circumstances": {"trainers": 10**9}},
    "a time in no calendar": {"circumstances": {"at": 1e300}},
    "unreadable": {"unreadable": "so"},
}


@pytest.mark.parametrize("settings_more", [{"max_body_bytes": 1_000_000}], indirect=True)
@pytest.mark.parametrize("wrong", ROWS.values(), ids=ROWS.keys())
async def test_a_row_that_makes_no_sense_is_refused(wrong: dict[str, Any], service: Service, attempt: Attempt) -> None:
    row = json.loads(make_row(0).model_dump_json())
    for part, changes in wrong.items():
        row[part] = row[part] | changes if isinstance(changes, dict) else changes
    assert (await say(attempt, rows=[json.loads(make_row(1).model_dump_json()), row])).status_code == 422
    assert (await view(service, attempt.job)).steps_done == 0
    good = [json.loads(make_row(n).model_dump_json()) for n in (0, 1)]
    assert (await say(attempt, rows=good)).json()["rows_below"] == 2


# ---- other versions


async def test_what_a_newer_supervisor_adds_is_no_error(
    client: httpx.AsyncClient, service: Service, attempt: Attempt
) -> None:
    row = json.loads(make_row(0).model_dump_json())
    row["result"]["of_a_newer"], row["of_a_newer"] = 1, {"a": 1}
    newer = [
        event("state", n=1, state="running", of_a_newer={"a": [1, "x"]}) | {"of_a_newer": 1},
        event("of_a_newer_version", n=2, anything=[1, {"b": None}]),
    ]
    batch = json.dumps({"events": newer, "rows": [row], "of_a_newer": True})
    url = f"/v1/attempts/{attempt.name}/uplink"
    answer = await attempt.client.post(url, content=batch, headers=attempt.headers | JSON)
    assert answer.json() == {"events": {"supervisor-1": 2}, "rows_below": 1}
    assert (await view(service, attempt.job)).state == "running"
    told = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    # kept for readers of that version
    assert told[-2]["data"] == {"state": "running", "of_a_newer": {"a": [1, "x"]}}
    assert (told[-1]["kind"], told[-1]["data"]) == ("of_a_newer_version", {"anything": [1, {"b": None}]})
    ledger = (await client.get(f"/v1/jobs/{attempt.job}/ledger")).json()["rows"]
    assert ledger == [json.loads(make_row(0).model_dump_json())]  # compared by what is known


OLDER = {
    "how many trainers there are": event("generation", generation=1, trainers=2),
    "rounds instead of steps": event("trainer_left", trainer="t1", round=3),
    "no reason": event("trainer_lost", trainer="t1"),
    "nothing": event("warning"),
    "null": event("generation", generation=1, trainers=["t0"], step=None, num_steps=None, reason=None),
}


@pytest.mark.parametrize("older", OLDER.values(), ids=OLDER.keys())
async def test_what_an_older_supervisor_says_is_taken(older: dict[str, Any], attempt: Attempt) -> None:
    assert (await say(attempt, older)).status_code == 200


# ---- who says it


async def test_a_source_belongs_to_one_attempt(service: Service, attempt: Attempt) -> None:
    mine = f"{attempt.name}/supervisor-1f0c"
    assert (await say(attempt, event(source=mine))).json()["events"] == {mine: 1}
    for other in ("other-1/supervisor-1", f"{attempt.job}-2/trainer-0", f"{attempt.name}/somebody"):
        refused = await say(attempt, event(source=other))
        assert refused.status_code == 422, other
        assert "source" in refused.text


async def test_numbers_may_run_ahead_but_not_for_ever(attempt: Attempt) -> None:
    assert (await say(attempt, event(n=100_000))).json()["events"] == {"supervisor-1": 0}
    ahead = await say(attempt, event(n=200_001))
    assert ahead.status_code == 422
    assert "more than 100000 ahead of 100000" in ahead.json()["detail"]
    assert (await say(attempt, event(n=1))).json()["events"] == {"supervisor-1": 1}


async def test_a_batch_is_of_few_sources(attempt: Attempt) -> None:
    many = [event(source=f"supervisor-{n}") for n in range(101)]
    assert (await say(attempt, *many)).status_code == 422
    assert (await say(attempt, *many[:100])).status_code == 200


async def test_trainers_that_are_told_hold_no_more_places_than_the_job_may_have(
    service: Service, attempt: Attempt
) -> None:
    await say(attempt, event("generation", generation=1, trainers=1_000_000))
    assert (await view(service, attempt.job)).trainers == 8  # sub_tasks: as many as it could ever have


async def test_every_event_of_todays_senders_is_valid(attempt: Attempt) -> None:
    """As the supervisor and the protocol make them, field by field."""
    generation = {"trainers": ["t0"], "step": 0, "reason": "", "joined": ["t0"], "lost": [], "left": []}
    told: list[tuple[EventKind, dict[str, Any]]] = [
        (EventKind.STATE, {"state": "starting", "reason": "waiting"}),
        (EventKind.INSTALLING, {"trainer": "t0", "requirements": ["einops==0.8"]}),
        (EventKind.DATA, {"trainer": "t0", "name": "train", "bytes": 9, "files": 2, "copied": False}),
        (EventKind.DATA, {"trainer": "t0", "name": "train", "copied": True, "seconds": 0.1, "digest": "3f0c" * 8}),
        (EventKind.TRAINER_STARTED, {"trainer": "t0"}),
        (EventKind.TRAINER_READY, {"trainer": "t0", "pid": 17, "node": "10.0.0.1"}),
        (EventKind.GENERATION, {"generation": 1, **generation, "sub_tasks_again": 0, "num_steps": None}),
        (EventKind.STATE, {"state": "running", "reason": ""}),
        (EventKind.LENGTH, {"num_steps": 10}),
        (EventKind.TRAINER_LOST, {"trainer": "t0", "reason": "killed", "traceback": "Traceback"}),
        (EventKind.RECOVERED, {"generation": 2, "step": 3, "seconds": 0.18, "at": 1.7e9, "sub_tasks_again": 2}),
        (EventKind.CHECKPOINT, {"step": 5, "url": "/c/5", "bytes": 9, "seconds": 0.1, "stall_s": 0.0, "reason": "x"}),
        (EventKind.CHECKPOINT_FAILED, {"step": None, "reason": "full"}),
        (EventKind.CHECKPOINT_SKIPPED, {"url": "/c/4", "reason": "torn"}),
        (EventKind.RESTORED, {"step": 5, "url": "/c/5", "trainer": "t1"}),
        (EventKind.FAULT, {"kind": "trainer", "trainer": "t1", "node": ""}),
        (EventKind.WARNING, {"message": "no progress", "seconds": 30.0, "trainers": [{"trainer": "t1", "step": 5}]}),
        (EventKind.TRAINER_REFUSED, {"trainer": "t2", "reason": "another fingerprint"}),
        (EventKind.TRAINER_LEFT, {"trainer": "t1", "step": 9, "reason": "a resize"}),
        (EventKind.FAILED, {"reason": "x", "traceback": "", "trainer": ""}),
        (EventKind.FINISHED, {"steps": 10, "digest": "d" * 32}),
    ]
    assert {kind for kind, _ in told} == set(EventKind)
    events = [make_event(n, kind).model_copy(update={"data": data}) for n, (kind, data) in enumerate(told, 1)]
    assert (await attempt.uplink(events=events)).json()["events"] == {"supervisor-1": len(told)}


@pytest.mark.parametrize("spec_more", [{"restore": "/"}])
async def test_a_restore_that_is_told_is_checked_before_it_is_stored(service: Service, attempt: Attempt) -> None:
    url = "/" + "x" * 1999
    assert (await say(attempt, event("restored", url=url, first_step=0))).status_code == 200
    seen = await view(service, attempt.job)
    assert (seen.spec.restore, seen.unreadable) == (url, "")


@pytest.mark.parametrize("kind", ["trainer_lost", "failed"])
async def test_the_longest_story_that_an_actor_tells_is_kept(attempt: Attempt, service: Service, kind: str) -> None:
    from surefoot_actors.story import NUM_KEPT, Story

    story = Story()
    for _ in range(NUM_KEPT + 1):
        story.note("e" * 1000, ["Merge"])
    told = event(kind, trainer="t0", reason="AssertionError", story=list(story.lines()))
    assert (await say(attempt, told)).status_code == 200
    found = await service.database.read(events_after, attempt.job, 0, 100)
    (kept,) = (each for each in found if each.kind == kind)
    assert kept.data["story"] == list(story.lines())
    assert len(story.lines()) == NUM_KEPT
