"""One job does not fill the disk that all of them write to: what its attempts tell is counted, and has an end."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from surefoot.events import EventKind
from surefoot_service.parts import Service
from surefoot_service.store import jobs

from .helpers import Attempt, make_event, make_row

MAX_BYTES = 20_000


async def told_bytes(service: Service, job: str) -> int:
    def read(session: Session) -> int:
        return jobs.load(session, job).told_bytes

    return await service.database.read(read)


def some(kind: str, n: int) -> dict[str, Any]:
    """A batch of about 2,000 bytes."""
    if kind == "events":
        return {"events": [make_event(n + 1, EventKind.WARNING, message="x" * 1800)]}
    return {"rows": [make_row(n, many={f"value{i}": 0.123456789 for i in range(60)})]}


@pytest.mark.parametrize("settings_more", [{"max_told_bytes": MAX_BYTES}], ids=[""])
@pytest.mark.parametrize("kind", ["events", "rows"])
@pytest.mark.parametrize("ended", [False, True])
async def test_a_job_that_tells_without_end_fails(
    service: Service, client: httpx.AsyncClient, attempt: Attempt, kind: str, ended: bool
) -> None:
    if ended:
        states = [
            make_event(n, EventKind.STATE, "supervisor-2", state=s) for n, s in ((1, "running"), (2, "cancelled"))
        ]
        await attempt.uplink(events=states)
    statuses = [(await attempt.uplink(**some(kind, n))).status_code for n in range(50)]
    taken = statuses.count(200)
    assert 5 <= taken <= 20
    assert set(statuses[taken:]) == {410}, "nothing more of it is stored"
    assert await told_bytes(service, attempt.job) <= MAX_BYTES + 2_500
    view = (await client.get(f"/v1/jobs/{attempt.job}")).json()
    assert view["state"] == ("cancelled" if ended else "failed")
    assert ended or "SUREFOOT_MAX_TOLD_BYTES" in view["reason"]


@pytest.mark.parametrize("settings_more", [{"max_told_bytes": MAX_BYTES}], ids=[""])
async def test_what_is_told_again_does_not_count_again(service: Service, attempt: Attempt) -> None:
    for _ in range(30):
        for kind in ("events", "rows"):
            assert (await attempt.uplink(**some(kind, 0))).status_code == 200
    assert 3_000 < await told_bytes(service, attempt.job) < 6_000
