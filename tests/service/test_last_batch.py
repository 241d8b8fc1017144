"""A succeeded attempt's token ends with its last acknowledged batch, which may come again as its answer may have been lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_service.parts import Service
from surefoot_service.store import jobs

from .helpers import Attempt, make_event, make_row
from .test_reconciler import state

LAST: dict[str, Any] = {
    "events": [make_event(2, EventKind.FINISHED, steps=3, digest="d" * 32), state(3, "succeeded")],
    "rows": [make_row(n) for n in (1, 2)],
}


@pytest.fixture
async def succeeded(attempt: Attempt) -> Attempt:
    await attempt.uplink(events=[state(1, "running")], rows=[make_row(0)])
    assert (await attempt.uplink(**LAST)).json() == {"events": {"supervisor-1": 3}, "rows_below": 3}
    return attempt


async def test_the_last_batch_again_is_acknowledged_again(succeeded: Attempt) -> None:
    for _ in range(2):
        assert (await succeeded.uplink(**LAST)).json() == {"events": {"supervisor-1": 3}, "rows_below": 3}
    assert (await succeeded.uplink()).json() == {"events": {}, "rows_below": 3}


NEW: dict[str, dict[str, Any]] = {
    "a row": {"rows": [make_row(3)]},
    "another result": {"rows": [make_row(1, "b" * 32)]},
    "an event": {"events": [make_event(4, EventKind.WARNING, message="x")]},
    "an event of another source": {"events": [make_event(1, EventKind.WARNING, "supervisor-2", message="x")]},
    "a checkpoint": {"events": [make_event(4, EventKind.CHECKPOINT, url="/elsewhere")]},
    "the last batch and a row": LAST | {"rows": [*LAST["rows"], make_row(3)]},
}


@pytest.mark.parametrize("new", NEW.values(), ids=NEW.keys())
async def test_anything_new_is_refused(
    new: dict[str, Any], service: Service, client: httpx.AsyncClient, succeeded: Attempt
) -> None:
    before = await service.database.read(jobs.see, succeeded.job)
    events = (await client.get(f"/v1/jobs/{succeeded.job}/events")).text
    assert (await succeeded.uplink(**new)).status_code == 410
    assert await service.database.read(jobs.see, succeeded.job) == before
    assert (await client.get(f"/v1/jobs/{succeeded.job}/events")).text == events
    assert before.state is JobState.SUCCEEDED


async def test_nothing_is_asked_of_it_any_more(succeeded: Attempt) -> None:
    assert (await succeeded.commands()).status_code == 410


async def test_rows_that_are_still_to_come_are_taken(attempt: Attempt) -> None:
    """They go in batches, and the end may be told in an earlier one."""
    await attempt.uplink(events=[state(1, "running"), make_event(2, EventKind.FINISHED, steps=3, digest="d" * 32)])
    assert (await attempt.uplink(events=[state(3, "succeeded")], rows=[make_row(0)])).status_code == 200
    assert (await attempt.uplink(rows=[make_row(1), make_row(2)])).json()["rows_below"] == 3
    assert (await attempt.uplink(rows=[make_row(3)])).status_code == 410


async def test_what_is_late_by_hours_is_refused(service: Service, attempt: Attempt) -> None:
    await attempt.uplink(events=[state(1, "running"), state(2, "cancelled")])
    now = service.now()
    object.__setattr__(service, "now", lambda: now + timedelta(minutes=50))
    assert (await attempt.uplink(rows=[make_row(0)])).status_code == 200
    object.__setattr__(service, "now", lambda: now + timedelta(hours=3))
    assert (await attempt.uplink(rows=[make_row(1)])).status_code == 410
    assert (await attempt.uplink(rows=[make_row(0)])).status_code == 200
