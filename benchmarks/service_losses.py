"""What a kill or a power cut of the control plane takes away of what it has acknowledged. A part of `benchmarks/service.py`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from load import Connection, connected
from plane import Disk, Plane, claimable, disk, make_row

from surefoot.events import Event, EventKind, UplinkBatch

__all__ = ["Writer", "measure_cuts", "measure_kills"]

# a cut falls so many seconds after a first acknowledgement
CUT_AFTER_S = (0.05, 1.0)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Writer:
    """A supervisor that tells rows and events as fast as they are acknowledged."""

    plane: Plane
    job: str
    attempt: str
    token: str = ""
    # set by each acknowledgement
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    # rows and events that were acknowledged
    rows: int = 0
    events: int = 0

    async def claim(self, connection: Connection, code: str) -> None:
        self.token = (await connection.json("POST", f"/v1/attempts/{self.attempt}/claim", {"code": code}))["token"]

    async def post(self, connection: Connection, num_rows: int) -> None:
        told = Event(
            source="supervisor-1",
            n=self.events + 1,
            at=AT,
            kind=EventKind.WARNING,
            data={"message": f"event {self.events + 1}"},
        )
        rows = tuple(make_row(step) for step in range(self.rows, self.rows + num_rows))
        body = UplinkBatch(events=(told,), rows=rows).model_dump_json().encode()
        status, answer = await connection.ask(
            "POST", f"/v1/attempts/{self.attempt}/uplink", body, Authorization=f"Bearer {self.token}"
        )
        if status != 200:
            raise RuntimeError(f"{status}: {answer[:300].decode()}")
        self.rows, self.events = max(self.rows, json.loads(answer)["rows_below"]), self.events + 1
        self.heard.set()

    async def write(self) -> None:
        """Tell until the service is gone, or what it stands on."""
        try:
            async with connected(self.plane.url, "") as connection:
                while True:
                    await self.post(connection, 50)
        except (OSError, EOFError, RuntimeError, TimeoutError):
            return

    async def lost(self, connection: Connection) -> tuple[int, int]:
        """How many acknowledged rows and events are not there."""
        have = (await connection.json("GET", f"/v1/jobs/{self.job}"))["steps_done"]
        told, after = set[int](), 0
        while page := (await connection.json("GET", f"/v1/jobs/{self.job}/events?limit=10000&after={after}"))["events"]:
            told |= {event["n"] for event in page if event["source"] == "supervisor-1"}
            after = page[-1]["seq"]
        return max(0, self.rows - have), sum(n not in told for n in range(1, self.events + 1))


@dataclass(slots=True)
class Submitter:
    """Somebody who submits jobs as fast as they are answered."""

    plane: Plane
    spec: dict[str, Any]
    jobs: list[str]

    async def write(self) -> None:
        try:
            async with connected(self.plane.url, self.plane.token) as connection:
                while True:
                    self.jobs.append((await connection.json("POST", "/v1/jobs", self.spec))["id"])
        except (OSError, EOFError, RuntimeError, TimeoutError):
            return

    async def lost(self, connection: Connection, last: int = 200) -> int:
        statuses = [(await connection.ask("GET", f"/v1/jobs/{job}"))[0] for job in self.jobs[-last:]]
        return sum(status != 200 for status in statuses)


def measure_losses(
    plane: Plane, claims: list[tuple[str, str, str]], rounds: int, end: Callable[[], None]
) -> dict[str, Any]:
    """End the service by `end` in each round, at a random moment at full write rate; count what was acknowledged and is lost."""
    luck = random.Random(8)
    lost = {"rows": 0, "events": 0, "jobs": 0}
    began_at = time.perf_counter()

    async def begin() -> tuple[list[Writer], Submitter]:
        async with connected(plane.url, plane.token) as connection:
            writers = []
            for job, attempt, code in claims:
                writers.append(Writer(plane, job, attempt))
                await writers[-1].claim(connection, code)
            spec = (await connection.json("GET", f"/v1/jobs/{claims[0][0]}"))["spec"]
        return writers, Submitter(plane, spec, [])

    async def round_(writers: list[Writer], submitter: Submitter) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(submitter.write())
            for writer in writers:
                group.create_task(writer.write())
            for writer in writers:
                writer.heard.clear()
            async with asyncio.timeout(60):
                await writers[0].heard.wait()
            await asyncio.sleep(luck.uniform(*CUT_AFTER_S))
            await asyncio.to_thread(end)
        await asyncio.to_thread(plane.start)
        async with connected(plane.url, plane.token) as connection:
            for writer in writers:
                rows, events = await writer.lost(connection)
                lost["rows"] += rows
                lost["events"] += events
            lost["jobs"] += await submitter.lost(connection)

    async def run() -> dict[str, Any]:
        writers, submitter = await begin()
        # what was told before the first round is not what is measured: the writers' tokens stand
        os.sync()
        for n in range(rounds):
            await round_(writers, submitter)
            print(f"round {n + 1}: {sum(w.rows for w in writers)} rows acknowledged, lost {lost}", flush=True)
        acknowledged = {
            "rows": sum(w.rows for w in writers),
            "events": sum(w.events for w in writers),
            "jobs": len(submitter.jobs),
        }
        return {"rounds": rounds, "acknowledged": acknowledged, "lost": lost, "seconds": time.perf_counter() - began_at}

    return asyncio.run(run())


def measure_kills(folder: Path, rounds: int) -> dict[str, Any]:
    claims = claimable(folder, 4)
    plane = Plane(folder)
    plane.start()
    try:
        return measure_losses(plane, claims, rounds, plane.kill)
    finally:
        plane.kill()


def measure_cuts(folder: Path, rounds: int) -> dict[str, Any] | str:
    with disk(folder) as made:
        if isinstance(made, str):
            return made
        return _cuts_on(made, rounds)


def _cuts_on(made: Disk, rounds: int) -> dict[str, Any]:
    plane = Plane(made.path / "data")
    claims = claimable(plane.data, 4)
    plane.start()

    def cut() -> None:
        made.cut()
        plane.kill()
        made.unmount()
        made.mount()

    try:
        return measure_losses(plane, claims, rounds, cut)
    finally:
        plane.kill()
