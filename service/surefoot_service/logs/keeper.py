"""Printed lines, taken in and given out: files are written before the index knows them, so whatever a crash leaves is whole."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count, islice
from typing import ParamSpec, TypeVar

import structlog

from surefoot.logs import LogLine, LogPage
from surefoot_service.errors import NotFoundError, OverError
from surefoot_service.logs.chunks import Chunk, DamagedLogError, Wanted, check, lines_of, pack
from surefoot_service.logs.files import LogFolder
from surefoot_service.logs.told import Told, read_body
from surefoot_service.store import logs as index
from surefoot_service.store.database import Database, StoreAwayError
from surefoot_service.store.logs import MovedOnError, NewChunk, Printer
from surefoot_service.store.tables import LogChunkRow
from surefoot_service.waiting import Kind, Patience, Waiting

__all__ = ["MOST_LINES", "LogKeeper"]

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

# of a page
MOST_LINES = 10_000
# and no file more once it has so many characters: a line may have thousands
_MOST_TEXT = 4 * 1024 * 1024
# what one request looks through, before whoever asked is told how far that was
_LOOK_S = 5.0
# files a look into the index
_SOME = 16
# So many files of a job that are smaller than this are joined, to files with no more text than this.
_SMALL_BYTES, _MANY, _JOINED_TEXT = 64 * 1024, 128, 8 * 1024 * 1024
# how often it is looked whether there are: after so many bodies
_LOOK_AFTER = 32
_TRIES = 5
_PATIENCE = Patience(of="logs", within_s=30.0)


class LogKeeper:
    """The service's printed lines. Several services may share one database and one place."""

    def __init__(self, database: Database, files: LogFolder, waiting: Waiting, max_bytes: int) -> None:
        """`max_bytes`: of one job's files; the oldest go where there are more."""
        self._database, self._files, self._waiting, self._max_bytes = database, files, waiting, max_bytes
        # one body of a job at a time
        self._bodies = count(1)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # ---- what is told

    async def take(self, printer: Printer, body: bytes) -> int:
        """Take in what an attempt printed; return how many lines were new, all of which are on disk. Raises InvalidError."""
        told = await self._on_a_thread(read_body, body)
        lock = self._locks.setdefault(printer.job, asyncio.Lock())
        async with lock:
            for _ in range(_TRIES):
                try:
                    stored = await self._add(printer, told)
                except MovedOnError:
                    continue  # another service has taken some of it
                if not next(self._bodies) % _LOOK_AFTER:
                    await self.tidy(printer.job)
                return stored
        raise StoreAwayError(f"lines of job {printer.job} are being taken by others; the same later may be done")

    async def _add(self, printer: Printer, told: Sequence[Told]) -> int:
        names = {frame.source: f"{printer.attempt}/{frame.source}" for frame in told}
        before = await self._database.read(index.stored, printer.job, names.values())
        after, new = dict(before), list[Told]()
        for frame in told:
            name = names[frame.source]
            if (rest := frame.since(after[name])) is not None:
                new.append(rest)
                after[name] = rest.end
        if not new:
            return 0
        chunk = await self._on_a_thread(pack, printer.number, new)
        name = await self._on_a_thread(self._files.write, printer.job, chunk.content)
        over = [names[frame.source] for frame in new if frame.is_last]
        try:
            gone = await self._database.write(
                index.add,
                printer.job,
                _indexed(name, chunk),
                before=before,
                after=after,
                over=over,
                max_bytes=self._max_bytes,
            )
        except (MovedOnError, NotFoundError, OverError):
            self._forget(printer.job, [name])
            raise
        self._forget(printer.job, gone)
        return chunk.lines

    async def tidy(self, job: str) -> bool:
        """Join small files where there are many; return whether there were."""
        small = await self._database.read(index.small_chunks, job, _SMALL_BYTES, _JOINED_TEXT // 2, _MANY)
        if len(small) < _MANY:
            return False
        contents = {row.first: await self._on_a_thread(self._read_whole, job, row) for row in _neighbours(small)}
        run = _neighbours([row for row in small if contents.get(row.first)])
        if len(run) < 2:
            return False
        name = await self._on_a_thread(self._files.write, job, b"".join(contents[row.first] for row in run))
        joined = NewChunk(
            name=name,
            lines=sum(row.lines for row in run),
            num_bytes=sum(row.num_bytes for row in run),
            text_bytes=sum(row.text_bytes for row in run),
            at=max(row.at for row in run),
        )
        done = await self._database.write(index.replace, job, [row.first for row in run], joined)
        self._forget(job, [row.name for row in run] if done else [name])
        return done

    async def remove(self, job: str) -> None:
        """Remove all files of a job."""
        await self._on_a_thread(self._files.remove_all, job)

    def _forget(self, job: str, names: list[str]) -> None:
        """Remove files that no index knows; nobody waits for that."""
        if names:
            self._waiting.leave(Kind.LOGS, "logs", lambda: self._files.remove(job, names))

    # ---- what is asked

    async def page(self, job: str, wanted: Wanted, start: int, limit: int, now: datetime) -> LogPage:
        """Return up to `limit` lines that are looked for, from number `start` on. Raises NotFoundError."""
        kept = await self._database.read(index.kept, job, now)
        found: list[LogLine] = []
        at, look = max(start, kept.first), _Look(limit)
        while at < kept.end and not look.is_over(found):
            rows = await self._database.read(index.chunks, job, at, _SOME)
            if not rows:
                break
            for row in rows:
                try:
                    found += await self._lines(job, row, wanted, at, limit - len(found))
                except FileNotFoundError:
                    if not await self._is_missing(job, row):
                        break  # it was joined with others, or has just gone with the oldest: the index says what there is
                at = row.first + row.lines if len(found) < limit else found[-1].number + 1
                if look.is_over(found):
                    break
        more = at < kept.end
        return LogPage(
            lines=tuple(found), next=max(at, start), more=more, first=kept.first, done=kept.done and not more
        )

    async def tail(self, job: str, wanted: Wanted, limit: int, now: datetime) -> LogPage:
        """Return the last lines that are looked for, up to `limit`, as far as one look goes. Raises NotFoundError."""
        kept = await self._database.read(index.kept, job, now)
        found: list[LogLine] = []
        at, stop, look = kept.end, kept.end, _Look(limit)
        while at > kept.first and not look.is_over(found):
            rows = await self._database.read(index.last_chunks, job, at, _SOME)
            if not rows:
                break
            for row in rows:
                try:
                    found = (await self._lines(job, row, wanted, -1, limit) + found)[-limit:]
                except FileNotFoundError:
                    if not await self._is_missing(job, row):
                        found, at = [], kept.end  # from the end again: what it was joined with may have been read
                        break
                at, stop = row.first, max(stop, row.first + row.lines)
                if look.is_over(found):
                    break
        return LogPage(lines=tuple(found), next=stop, more=False, first=kept.first, done=kept.done)

    async def _lines(self, job: str, row: LogChunkRow, wanted: Wanted, start: int, most: int) -> list[LogLine]:
        """Return the first `most` lines of a file from number `start` on; the last ones where `start` is -1. Raises FileNotFoundError."""
        if wanted.since is not None and row.at < wanted.since:
            return []
        return await self._on_a_thread(self._search, job, row, wanted, start, most)

    def _search(self, job: str, row: LogChunkRow, wanted: Wanted, start: int, most: int) -> list[LogLine]:
        found: deque[LogLine] = deque(maxlen=most if start < 0 else None)
        try:
            lines = lines_of(self._files.read(job, row.name), row.first, wanted, max(0, start))
            found.extend(lines if start < 0 else islice(lines, most))
        except DamagedLogError as error:
            log.warning("log_file_damaged", job=job, name=row.name, error=str(error))
        return list(found)

    def _read_whole(self, job: str, row: LogChunkRow) -> bytes:
        """Return what is in a file; nothing where it is gone or damaged: what is joined behind such a one could not be read either."""
        try:
            check(content := self._files.read(job, row.name), row.lines)
            return content
        except (FileNotFoundError, DamagedLogError) as error:
            log.warning("log_file_not_joined", job=job, name=row.name, error=str(error))
            return b""

    async def _is_missing(self, job: str, row: LogChunkRow) -> bool:
        """Whether the index still has a file that is not there."""
        rows = await self._database.read(index.chunks, job, row.first, 1)
        missing = bool(rows) and rows[0].name == row.name
        if missing:
            log.warning("log_file_gone", job=job, name=row.name)
        return missing

    async def _on_a_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._waiting.run_with(_PATIENCE, Kind.LOGS, function, *args, **kwargs)


class _Look:
    """How far one request looks."""

    def __init__(self, lines: int) -> None:
        self._lines, self._end = lines, time.monotonic() + _LOOK_S

    def is_over(self, found: Sequence[LogLine]) -> bool:
        enough = len(found) >= self._lines or sum(len(line.text) for line in found) >= _MOST_TEXT
        return enough or time.monotonic() > self._end


def _indexed(name: str, chunk: Chunk) -> NewChunk:
    return NewChunk(
        name=name, lines=chunk.lines, num_bytes=len(chunk.content), text_bytes=chunk.text_bytes, at=chunk.at
    )


def _neighbours(small: Sequence[LogChunkRow]) -> list[LogChunkRow]:
    """Return the most files that follow each other without a gap, and make no more text together than a file may have."""
    return max(_runs(small), key=len)


def _runs(small: Sequence[LogChunkRow]) -> Iterator[list[LogChunkRow]]:
    run: list[LogChunkRow] = []
    for row in small:
        follows = bool(run) and run[-1].first + run[-1].lines == row.first
        if not follows or sum(r.text_bytes for r in run) + row.text_bytes > _JOINED_TEXT:
            if run:
                yield run
            run = []
        run.append(row)
    yield run
