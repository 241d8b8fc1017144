"""Exports the spans of jobs, once each has come to its first step. The store remembers which are still to be exported.

So they survive a restart and a collector that is away, and nothing else ever waits for them. Spans that are made again, after a crash
in between or by another replica, have the same ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from surefoot_service.parts import Service
from surefoot_service.store import traces
from surefoot_service.store.database import StoreAwayError
from surefoot_service.tracing.exporter import SpanExporter
from surefoot_service.waiting import BusyError, HungError, Kind, Patience

__all__ = ["Tracer", "tracing"]

log = structlog.get_logger()

# how often it is looked which jobs have come to their first step
LOOK_S = 2.0
# how long it rests where the collector does not take them: twice as long each time, up to the longest
_LONGEST_S = 300.0
# jobs of one look
_MOST = 100
# for one job's spans; the exporter has its own timeout, of 10 s unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise
_PATIENCE = Patience(within_s=120.0)


@asynccontextmanager
async def tracing(service: Service) -> AsyncIterator[None]:
    """Export spans inside the block, if they are to be exported."""
    if service.exporter is None:
        yield
        return
    task = asyncio.create_task(Tracer(service, service.exporter).run(), name="traces")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Tracer:
    """One service's loop."""

    def __init__(self, service: Service, exporter: SpanExporter) -> None:
        self._service, self._exporter = service, exporter
        # the number of the job that was looked at last: one that is not taken is passed over until all others have had their turn
        self._after = 0
        self._rest_s = LOOK_S

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            try:
                taken = await self.once()
            except StoreAwayError as error:
                log.warning("store_away", error=str(error))
                taken = False
            except Exception:
                # The boundary of the loop: traces are never a reason to stop anything.
                log.exception("tracing_failed")
                taken = False
            self._rest_s = LOOK_S if taken else min(2 * self._rest_s, _LONGEST_S)
            await asyncio.sleep(self._rest_s)

    async def once(self) -> bool:
        """Export what is due; False where something was not taken."""
        found = await self._service.database.read(traces.due, self._after, _MOST)
        for one in found:
            self._after = one.number
            if not await self._export(one.job):
                return False
        if len(found) < _MOST:
            self._after = 0
        return True

    async def _export(self, job: str) -> bool:
        service, why = self._service, "the collector does not take them"
        spans = await service.database.read(traces.spans, job, service.now())
        try:
            taken = await service.waiting.run_with(_PATIENCE, Kind.TRACES, self._exporter.export, spans)
        except (BusyError, HungError) as error:
            taken, why = False, str(error)
        except Exception as error:  # noqa: BLE001  whatever the library raises: these spans are tried again
            taken, why = False, f"{type(error).__name__}: {error}"
        if not taken:
            log.warning("traces_not_exported", job=job, error=why, again_in_s=min(2 * self._rest_s, _LONGEST_S))
            return False
        await service.database.write(traces.exported, job)
        return True
