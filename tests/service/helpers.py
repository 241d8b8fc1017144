"""What the tests of the control plane share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from surefoot.events import Circumstances, Event, EventKind, LedgerRow, Result, SentBatch
from surefoot.system import SystemSample
from surefoot.views import JobView
from surefoot_service.parts import Service
from surefoot_service.store import attempts, jobs
from surefoot_service.wakeups import news_of

TRAIN = "def train(run):\n    pass\n"
JSON = {"content-type": "application/json"}
ZIP = {"content-type": "application/zip"}
AT = datetime(2026, 1, 1, tzinfo=UTC)
# generous: what takes longer is broken, not slow
LIMIT_S = 90.0


def make_zip(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_row(step: int, digest: str = "0" * 32, many: Mapping[str, float] | None = None, **values: float) -> LedgerRow:
    """`many`: values by names that are none of Python's, or as many as one likes."""
    return LedgerRow(
        result=Result(
            step=step, first_sample=step * 8, num_samples=8, digest=digest, values={**(many or {}), **values}
        ),
        circumstances=Circumstances(generation=1, trainers=1, seconds=0.5),
    )


def make_event(n: int, kind: EventKind, source: str = "supervisor-1", **data: Any) -> Event:
    return Event(source=source, n=n, at=AT, kind=kind, data=data)


def batch(*, events: Sequence[Event] = (), rows: Sequence[LedgerRow] = (), system: Sequence[SystemSample] = ()) -> str:
    return SentBatch(events=tuple(events), rows=tuple(rows), system=tuple(system)).model_dump_json()


class Attempt:
    """An attempt as its launcher and supervisor see it."""

    def __init__(self, client: httpx.AsyncClient, job: str, name: str, code: str) -> None:
        self.client, self.job, self.name, self.code, self.token = client, job, name, code, ""

    async def claim(self) -> httpx.Response:
        answer = await self.client.post(f"/v1/attempts/{self.name}/claim", json={"code": self.code})
        if answer.is_success:
            self.token = answer.json()["token"]
        return answer

    async def uplink(self, **what: Any) -> httpx.Response:
        return await self.client.post(
            f"/v1/attempts/{self.name}/uplink", content=batch(**what), headers=self.headers | JSON
        )

    async def commands(self, after: int = 0, wait_s: float = 0) -> httpx.Response:
        params = {"after": after, "wait_s": wait_s}
        url = f"/v1/attempts/{self.name}/commands"
        return await self.client.get(url, params=params, headers=self.headers, timeout=LIMIT_S)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


async def start_attempt(service: Service, client: httpx.AsyncClient, job: str) -> Attempt:
    """Start a queued job, as the reconciler would."""
    made = await service.database.write(
        attempts.make, job, keys=service.keys, session_name="s", reason="", now=service.now()
    )
    assert made is not None
    return Attempt(client, job, made.id, service.keys.claim_code(made.id))


async def until(service: Service, job: str, true: Callable[[JobView], bool]) -> JobView:
    """Wait for the job to become so, woken by its news."""
    with service.wakeups.listen(news_of(job)) as wakeup:
        while True:
            view = await service.database.read(jobs.see, job)
            if true(view):
                return view
            assert await wakeup.wait(LIMIT_S), f"no news of {view}"
