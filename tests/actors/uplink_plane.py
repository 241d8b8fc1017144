"""A control plane for uplinks: it keeps what is posted, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import httpx

from surefoot.events import (
    Circumstances,
    Command,
    CommandKind,
    Event,
    LedgerRow,
    Result,
    SentBatch,
    UplinkAck,
)
from surefoot.system import SystemSample
from surefoot_actors.uplink.http import HttpUplink

LIVENESS_S = 60.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(step: int) -> LedgerRow:
    result = Result(step=step, first_sample=step * 8, num_samples=8, digest=f"{step:032x}", values={"loss": 0.5})
    return LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=1, seconds=0.1))


class ControlPlane:
    """Stores what is posted, once each, unless told to fail. `answers` are used up first, one a post."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ledger: dict[int, LedgerRow] = {}
        self.commands: list[Command] = []
        self.commanded = asyncio.Event()
        self.answers: list[int | str] = []
        self.sizes: list[int] = []
        self.samples: list[SystemSample] = []
        self.asked_after: list[int] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if request.url.path == "/v1/attempts/a-1/uplink":
            return self._uplink(SentBatch.model_validate_json(request.content))
        assert request.url.path == "/v1/attempts/a-1/commands"
        return await self._commands(int(request.url.params["after"]))

    def _uplink(self, batch: SentBatch) -> httpx.Response:
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "lost before":
            raise httpx.ConnectError("refused")
        if isinstance(answer, int) and answer != 200:
            return httpx.Response(answer, text="a problem", headers={"Content-Type": "application/problem+json"})
        if answer == "a stranger's 413":
            return httpx.Response(413, text="<html>too large")
        if answer == "a stranger's":
            return httpx.Response(404, text="<html>no such backend")
        self.sizes.append(len(batch.rows))
        self.samples += batch.system
        known = {(event.source, event.n) for event in self.events}
        self.events += [event for event in batch.events if (event.source, event.n) not in known]
        self.ledger.update((r.result.step, r) for r in batch.rows)
        if answer == "lost after":
            raise httpx.ReadTimeout("no answer")
        if answer == "nonsense":
            return httpx.Response(200, text="<html>")
        return httpx.Response(200, text=UplinkAck(rows_below=self.below).model_dump_json())

    @property
    def below(self) -> int:
        below = 0
        while below in self.ledger:
            below += 1
        return below

    async def _commands(self, after: int) -> httpx.Response:
        self.asked_after.append(after)
        while not (new := [c for c in self.commands if c.n > after]):
            self.commanded.clear()
            await self.commanded.wait()
        return httpx.Response(200, text=json.dumps({"commands": [c.model_dump() for c in new]}))

    def command(self, n: int) -> None:
        self.commands.append(Command(n=n, kind=CommandKind.RESIZE, trainers=n))
        self.commanded.set()


def uplink_to(plane: Any, source: str = "a-1/supervisor-1", **more: Any) -> HttpUplink:
    """Return an uplink whose requests `plane` answers, for an attempt a-1."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(plane))
    return HttpUplink("http://plane/", "a-1", "secret", source, client=client, **more)
