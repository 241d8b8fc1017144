"""What is kept, and for how long: deletion of jobs, the rules of retention, and the collection of packages that nobody refers to.

Each removal begins with a commit that says in the audit what goes and why (see `store.removal`); all that follows it is repeated
until it is done, by this service or the next one on the same data.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

from surefoot.views import AuditAction
from surefoot_service.checkpoints.removal import KeptError, is_below, remove_place
from surefoot_service.parts import Service
from surefoot_service.store import audit, jobs, packages, removal
from surefoot_service.store.database import StoreAwayError
from surefoot_service.store.removal import Leftover
from surefoot_service.waiting import BusyError, HungError, Kind, in_thread
from surefoot_service.wakeups import HOUSEKEEPING, RECONCILER, commands_of, news_of

__all__ = ["Housekeeper", "delete_job", "housekeeping"]

log = structlog.get_logger()

T = TypeVar("T")

# how often the rules of retention and the packages are looked at
SWEEP_S = 3600.0
# how often it is looked whether what is left of a deleted job is off the cluster, or whether the database is back
AGAIN_S = 5.0
# jobs that one pass deletes by the rules, before others have their turn
MOST_JOBS = 100
# transactions of a deletion that whoever asked for it waits for; the rest goes on behind
_MOST_CHUNKS = 50
# removals of checkpoints at a time: a storage that hangs keeps so many threads, and no more
_REMOVALS = 2
_TRIES = 5


async def delete_job(service: Service, job: str, *, by: str, checkpoints: bool) -> None:
    """Delete a job that has ended: nobody sees it from the first commit on. Raises as `removal.mark` does."""
    new = await service.database.write(removal.mark, job, by=by, checkpoints=checkpoints, now=service.now())
    if not new:
        return
    service.wakeups.wake(news_of(job), commands_of(job), RECONCILER)
    try:
        purged = await _purge(service, job, _MOST_CHUNKS)
        if purged and not checkpoints and not service.cluster.watched:
            await service.logs.remove(job)
            await service.database.write(removal.finish, job)
    except (StoreAwayError, BusyError, HungError, OSError) as error:
        # The job is deleted; the housekeeper removes what is left of it once the database is back.
        log.warning("removal_interrupted", job=job, error=str(error))
    service.wakeups.wake(HOUSEKEEPING)


async def _purge(service: Service, job: str, most_chunks: int) -> bool:
    """Remove a deleted job's history, so many pieces of it at most; return whether that was all."""
    for _ in range(most_chunks):
        if await service.database.write(removal.purge, job):
            return True
    return False


@asynccontextmanager
async def housekeeping(service: Service) -> AsyncIterator[None]:
    """Keep house inside the block."""
    keeper = asyncio.create_task(Housekeeper(service).run(), name="housekeeping")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


class Housekeeper:
    """One service's loop. Several on one database do each other no harm: everything may be done twice."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._slots = asyncio.Semaphore(_REMOVALS)
        # of deleted jobs whose checkpoints are being removed
        self._removing: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep house until cancelled."""
        next_sweep = 0.0
        loop = asyncio.get_running_loop()
        try:
            with self._service.wakeups.listen(HOUSEKEEPING) as wakeup:
                while not self._service.wakeups.closed:
                    sweeps = loop.time() >= next_sweep
                    again = await self.once(sweep=sweeps)
                    if sweeps:
                        next_sweep = loop.time() + SWEEP_S
                    left = next_sweep - loop.time()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, left if again is None else min(again, left))):
                            await wakeup.wait(None)
        finally:
            for task in self._removing.values():
                task.cancel()

    async def once(self, *, sweep: bool) -> float | None:
        """Do what there is to do. Return in how many seconds to look again; None: at the next sweep, or when woken."""
        try:
            if sweep:
                await self._retain()
                await self._collect_packages()
                await self._service.database.write(audit.trim, self._service.settings.keep_audit_entries)
            return await self._remove_leftovers()
        except StoreAwayError as error:
            log.warning("store_away", error=str(error))
            return AGAIN_S
        except (BusyError, HungError) as error:
            log.warning("packages_do_not_answer", error=str(error))
            return max(AGAIN_S, error.retry_after_s)
        except Exception:
            # The boundary of the loop: whatever it is, the next pass starts from the store again.
            log.exception("housekeeping_failed")
            return AGAIN_S

    # ---- deleted jobs

    async def _remove_leftovers(self) -> float | None:
        left = await self._service.database.read(removal.leftovers)
        again = AGAIN_S if left else None
        for leftover in left:
            if not await _purge(self._service, leftover.job, _MOST_CHUNKS):
                again = 0.0  # others have their turn
                continue
            if not leftover.is_off_the_cluster and self._service.cluster.watched:
                continue  # what still runs may still write
            if not await self._logs_are_gone(leftover.job):
                continue
            if leftover.checkpoints:
                self._begin_removal(leftover)
            else:
                await self._service.database.write(removal.finish, leftover.job)
        return again

    async def _logs_are_gone(self, job: str) -> bool:
        """Remove the files of what a deleted job printed. False: their storage does not answer; it is asked again."""
        try:
            await self._service.logs.remove(job)
        except (BusyError, HungError, OSError) as error:
            log.warning("logs_kept", job=job, error=repr(error))
            return False
        return True

    def _begin_removal(self, leftover: Leftover) -> None:
        if leftover.job not in self._removing:
            task = asyncio.create_task(self._remove_checkpoints(leftover), name=f"remove {leftover.job}")
            self._removing[leftover.job] = task
            task.add_done_callback(lambda _: self._removing.pop(leftover.job, None))

    async def _remove_checkpoints(self, leftover: Leftover) -> None:
        async with self._slots:
            action, detail = await self._removed(leftover)
        try:
            await self._service.database.write(
                removal.checkpoints_done, leftover.job, action, detail, now=self._service.now()
            )
            self._service.wakeups.wake(HOUSEKEEPING)
        except StoreAwayError as error:
            log.warning("store_away", error=str(error))  # done again, which changes nothing

    async def _removed(self, leftover: Leftover) -> tuple[AuditAction, str]:
        """Remove the checkpoints; return what came of it, for the audit."""
        place = ""
        try:
            default = self._service.settings.checkpoint_place
            place = leftover.place or jobs.place_of(leftover.job, leftover.spec, default)
            starts = await self._service.database.read(removal.starts, leftover.job, leftover.spec)
            retrying = AsyncRetrying(
                retry=retry_if_not_exception_type(KeptError),
                stop=stop_after_attempt(_TRIES),
                wait=wait_exponential(multiplier=0.5, max=30.0),
                reraise=True,
            )
            num_files: int = await retrying(
                in_thread,
                lambda: _remove(place, leftover.job, starts, self._service.settings.storage_protocols),
                "checkpoint-removal",
            )
            return AuditAction.CHECKPOINTS_REMOVED, f"{num_files} files below {place}"
        except KeptError as error:
            return AuditAction.CHECKPOINTS_KEPT, str(error)
        except Exception as error:  # noqa: BLE001  the boundary to whatever storage is behind fsspec, each with errors of its own
            log.warning("checkpoints_kept", job=leftover.job, place=place, error=repr(error))
            return AuditAction.CHECKPOINTS_KEPT, f"what is below {place} could not be removed: {_words(error)}"

    # ---- rules

    async def _retain(self) -> None:
        settings, now = self._service.settings, self._service.now()
        if settings.keep_ended_days is None and settings.keep_ended_jobs is None:
            return
        before = None if settings.keep_ended_days is None else now - timedelta(days=settings.keep_ended_days)
        while True:
            due = await self._service.database.read(
                removal.due, before=before, keep=settings.keep_ended_jobs, limit=MOST_JOBS
            )
            for job, rule in due:
                await self._delete_by_rule(job, rule)
            if len(due) < MOST_JOBS:
                return

    async def _delete_by_rule(self, job: str, rule: str) -> None:
        checkpoints = self._service.settings.retention_removes_checkpoints
        if checkpoints:
            others = await self._service.database.read(removal.beginners, job)
            checkpoints = not others
        await delete_job(self._service, job, by=rule, checkpoints=checkpoints)

    async def _collect_packages(self) -> None:
        service, now, on_disk = self._service, self._service.now(), self._service.waiting.run
        before = now - timedelta(hours=service.settings.unused_package_hours)
        for sha256 in await service.database.read(packages.unreferenced, before):
            if await service.database.write(packages.remove_unreferenced, sha256, before, now=now):
                await on_disk(Kind.PACKAGES, service.packages.remove, sha256, before.timestamp())
        known = await service.database.read(packages.recorded)
        stored = set(await on_disk(Kind.PACKAGES, service.packages.stored))
        for sha256 in sorted(known - stored):
            # looked at again: it may have been uploaded since
            if not await on_disk(Kind.PACKAGES, service.packages.path(sha256).exists):
                await service.database.write(packages.remove_missing, sha256, now=now)
        for sha256 in sorted(stored - known):
            if await on_disk(Kind.PACKAGES, service.packages.is_older, sha256, before.timestamp()):
                await self._remove_stray(sha256, before.timestamp())

    async def _remove_stray(self, sha256: str, before: float) -> None:
        """Remove a file that nothing is recorded of; the audit has it first."""
        detail = "a file without a record, older than any upload that goes on"
        await self._service.database.write(
            audit.note,
            AuditAction.PACKAGE_STRAY,
            sha256,
            by=packages.COLLECTION,
            detail=detail,
            now=self._service.now(),
        )
        service = self._service
        await service.waiting.run(Kind.PACKAGES, service.packages.remove, sha256, before)


def _remove(place: str, job: str, starts: list[str], protocols: Collection[str]) -> int:
    for start in starts:
        if is_below(place, start):
            raise KeptError(f"{start}, from which a job begins, is below {place}")
    return remove_place(place, job, protocols)


def _words(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
