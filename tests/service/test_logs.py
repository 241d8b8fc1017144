"""Printed lines are stored once each, in order, in files; and found again."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.logs import LOGS_TYPE, FrameHead, LogPage
from surefoot.spec import JobState
from surefoot_service.logs import keeper as keeping
from surefoot_service.logs.chunks import Wanted
from surefoot_service.logs.told import read_body
from surefoot_service.parts import Service, utc_now
from surefoot_service.rest.app import create_app, open_service
from surefoot_service.settings import Settings
from surefoot_service.store import logs as index
from surefoot_service.store.jobs import change_state, lock
from surefoot_service.store.logs import Printer
from surefoot_service.store.tables import AttemptRow, JobRow

from .helpers import LIMIT_S, Attempt

SOURCE = "t0-00000000"


def frame(first: int, texts: Sequence[str], *, source: str = SOURCE, stream: str = "stdout", t: int = 1_000) -> bytes:
    """A frame with a run a line, each a second after the one before."""
    runs = [{"t": t + 1000 * (first + i), "s": first + i, "f": stream, "x": f"{x}\n"} for i, x in enumerate(texts)]
    content = zlib.compress("\n".join(map(json.dumps, runs)).encode())
    head = FrameHead(source=source, first=first, count=len(texts), bytes=len(content))
    return head.model_dump_json().encode() + b"\n" + content


def ended(first: int, source: str = SOURCE) -> bytes:
    return frame(first, ["the process has ended"], source=source, stream="surefoot")


async def tell(attempt: Attempt, body: bytes) -> httpx.Response:
    headers = attempt.headers | {"content-type": LOGS_TYPE}
    return await attempt.client.post(f"/v1/attempts/{attempt.name}/logs", content=body, headers=headers)


async def read(client: httpx.AsyncClient, job: str, **params: Any) -> LogPage:
    answer = await client.get(f"/v1/jobs/{job}/logs", params=params, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return LogPage.model_validate_json(answer.content)


def texts(page: LogPage) -> list[str]:
    return [line.text for line in page.lines]


async def test_lines_are_read_as_they_were_told(client: httpx.AsyncClient, attempt: Attempt) -> None:
    body = frame(1, ["a", "b"]) + frame(1, ["x"], source="supervisor-11111111", stream="stderr")
    assert (await tell(attempt, body)).json() == {"stored": 3}
    page = await read(client, attempt.job)
    assert [(x.number, x.trainer, x.step, x.stream, x.text) for x in page.lines] == [
        (0, "t0", 1, "stdout", "a"),
        (1, "supervisor", 1, "stderr", "x"),
        (2, "t0", 2, "stdout", "b"),
    ]
    assert {line.attempt for line in page.lines} == {1}
    assert (page.next, page.more, page.done, page.first) == (3, False, False, 0)


async def test_what_is_looked_for_is_found(client: httpx.AsyncClient, attempt: Attempt) -> None:
    for n in range(1, 40, 4):
        await tell(attempt, frame(n, [f"loss {i}" for i in range(n, n + 4)]))
        await tell(attempt, frame(n, [f"other {i}" for i in range(n, n + 4)], source="t1-22222222"))
    job = attempt.job
    assert texts(await read(client, job, trainer="t0")) == [f"loss {n}" for n in range(1, 41)]
    assert texts(await read(client, job, tail=3, trainer="t1")) == ["other 38", "other 39", "other 40"]
    assert texts(await read(client, job, contains="loss 1")) == ["loss 1", *(f"loss {n}" for n in range(10, 20))]
    since = (await read(client, job)).lines[-1].at.isoformat()
    assert texts(await read(client, job, since=since)) == ["loss 40", "other 40"]
    # page by page
    found, start = [], 0
    while (page := await read(client, job, trainer="t0", start=start, limit=7)).more or page.lines:
        found += texts(page)
        start = page.next
    assert found == [f"loss {n}" for n in range(1, 41)]


async def test_a_page_of_long_lines_ends_early_and_the_next_goes_on(
    client: httpx.AsyncClient, attempt: Attempt
) -> None:
    for n in range(1, 2001, 200):
        assert (await tell(attempt, frame(n, [f"{i} ".ljust(8000, "x") for i in range(n, n + 200)]))).is_success
    found: list[str] = []
    pages, start, more = 0, 0, True
    while more:
        page = await read(client, attempt.job, start=start, limit=10_000)
        assert sum(map(len, texts(page))) < 8 * 1024 * 1024
        found += texts(page)
        pages, start, more = pages + 1, page.next, page.more
    assert [text.split()[0] for text in found] == [str(n) for n in range(1, 2001)]
    assert pages > 2
    tail = texts(await read(client, attempt.job, tail=10_000))
    assert 500 < len(tail) < 1100
    assert tail == found[-len(tail) :]


class CrashError(Exception):
    """The service ends here."""


def test_lost_doubled_late_and_crashed_batches_leave_each_line_once(tmp_path: Path) -> None:
    """A collector sends its frames again until they are acknowledged; the service may end at any of its lines."""
    with asyncio.Runner() as runner:
        service = runner.run(_open(tmp_path))
        jobs = count()

        @settings(max_examples=25, deadline=None)
        @given(st.data())
        def story(data: st.DataObject) -> None:
            runner.run(_story(service, f"j{next(jobs)}", data))

        try:
            story()
        finally:
            service.database.close()


async def _open(folder: Path) -> Service:
    return open_service(Settings(data=folder))


async def _story(service: Service, job: str, data: st.DataObject) -> None:
    await service.database.write(_make_job, job)
    counts = {SOURCE: 0, "t1-00000000": 0}
    sent: list[bytes] = []

    async def take(body: bytes) -> None:
        await service.logs.take(Printer(job=job, attempt=f"{job}-1"), body)

    for _ in range(data.draw(st.integers(1, 6))):
        source, new = data.draw(st.sampled_from(sorted(counts))), data.draw(st.integers(1, 4))
        lines = [f"{source} {counts[source] + i}" for i in range(new)]
        sent.append(frame(counts[source] + 1, lines, source=source))
        counts[source] += new
        crash = data.draw(st.sampled_from([None, "before the file", "before the index", "before the answer"]))
        with pytest.MonkeyPatch.context() as patch:
            if crash in ("before the file", "before the index"):
                if crash == "before the file":
                    patch.setattr(service.logs._files, "write", _crash)
                else:
                    patch.setattr(index, "add", _crash)
                with pytest.raises(CrashError):
                    await take(sent[-1])
            else:
                await take(sent[-1])
        # what is not acknowledged comes again, alone or with all that is not; and what is late, whenever it likes
        if crash is not None:
            await take(b"".join(sent[-data.draw(st.integers(1, len(sent))) :]))
        for late in data.draw(st.lists(st.sampled_from(sent), max_size=1)):
            await take(late)
    page = await service.logs.page(job, Wanted(), 0, 1000, service.now())
    for source, number in counts.items():
        assert [t for t in texts(page) if t.startswith(source)] == [f"{source} {n}" for n in range(number)]
    assert [line.number for line in page.lines] == list(range(sum(counts.values())))


def _crash(*_: object, **__: object) -> None:
    raise CrashError


def _make_job(session: Any, job: str) -> None:
    session.add(JobRow(id=job, spec="{}", state="running", created_at=utc_now(), wanted_trainers=1))


async def test_the_oldest_go_where_there_is_more_than_is_kept(
    client: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    service.logs._max_bytes = 2_000
    for n in range(1, 61):
        await tell(attempt, frame(n, [f"line {n}"]))
    page = await read(client, attempt.job)
    assert 0 < page.first < 60
    assert texts(page) == [f"line {n}" for n in range(page.first + 1, 61)]
    rows = await service.database.read(index.chunks, attempt.job, 0, 1000)
    assert sum(row.num_bytes for row in rows) <= 2_000
    folder = Path(service.settings.log_place) / attempt.job
    await asyncio.to_thread(_wait_until, lambda: {file.name for file in folder.iterdir()} == {row.name for row in rows})


def _wait_until(true: Callable[[], bool]) -> None:
    while not true():  # what goes is removed behind; the test's own time is the bound
        time.sleep(0.01)


async def test_many_small_files_are_joined_and_read_as_before(
    client: httpx.AsyncClient, attempt: Attempt, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MANY", 20)
    monkeypatch.setattr(keeping, "_LOOK_AFTER", 1)
    for n in range(1, 101):
        await tell(attempt, frame(n, [f"line {n}"]))
    assert len(await service.database.read(index.chunks, attempt.job, 0, 1000)) < 25
    assert texts(await read(client, attempt.job)) == [f"line {n}" for n in range(1, 101)]
    assert texts(await read(client, attempt.job, tail=30)) == [f"line {n}" for n in range(71, 101)]


@pytest.mark.parametrize(
    "body",
    [
        b"no head",
        b'{"source":"t0-00000000","first":1,"count":1,"bytes":100}\nshort',
        b'{"source":"../t0","first":1,"count":1,"bytes":4}\nabcd',
        b'{"source":"t0-00000000","first":1,"count":1,"bytes":4}\nabcd',
        frame(1, ["a"]).replace(b'"count":1', b'"count":2'),
        frame(1, ["a"])[:-3],
    ],
)
async def test_what_does_not_add_up_is_refused_whole(client: httpx.AsyncClient, attempt: Attempt, body: bytes) -> None:
    assert (await tell(attempt, frame(1, ["good"], source="t2-33333333") + body)).status_code == 422
    assert texts(await read(client, attempt.job)) == []


def test_a_bomb_is_not_unpacked() -> None:
    content = zlib.compress(b"\0" * (200 * 1024 * 1024))
    head = FrameHead(source=SOURCE, first=1, count=1, bytes=len(content)).model_dump_json().encode()
    with pytest.raises(Exception, match="its lines have more than"):
        read_body(head + b"\n" + content)


async def test_only_the_attempt_tells_and_only_the_user_reads(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    url = f"/v1/attempts/{attempt.name}/logs"
    assert (await anonymous.post(url, content=b"x", headers={"content-type": LOGS_TYPE})).status_code == 401
    assert (await client.post(url, content=b"x", headers={"content-type": LOGS_TYPE})).status_code == 401
    assert (await anonymous.get(f"/v1/jobs/{attempt.job}/logs")).status_code == 401
    assert (await anonymous.get(f"/v1/jobs/{attempt.job}/logs/stream")).status_code == 401
    assert (await client.get("/v1/jobs/none/logs")).status_code == 404
    assert (await attempt.client.post(url, content=b"x", headers=attempt.headers)).status_code == 415
    assert (
        await client.get(f"/v1/jobs/{attempt.job}/logs", params={"since": "2026-01-01T00:00:00"})
    ).status_code == 422


async def _end(client: httpx.AsyncClient, job: str, service: Service) -> None:
    def end(session: Any) -> None:
        change_state(session, lock(session, job), JobState.FAILED, reason="why", now=service.now())

    await service.database.write(end)


async def test_following_ends_when_the_job_and_all_who_printed_have(
    client: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    await tell(attempt, frame(1, ["a"]))
    waiting = asyncio.create_task(read(client, attempt.job, start=1, wait_s=30))
    await asyncio.sleep(0)
    await tell(attempt, frame(2, ["b"]))
    assert texts(await waiting) == ["b"]
    await _end(client, attempt.job, service)
    # of an attempt that is over the last words still count: they say why
    assert not (await read(client, attempt.job, start=2)).done
    assert (await tell(attempt, frame(3, ["the last word"]) + ended(4))).json() == {"stored": 2}
    page = await read(client, attempt.job, start=2, wait_s=30)
    assert (texts(page), page.done) == (["the last word", "the process has ended"], True)
    answer = await client.get(f"/v1/jobs/{attempt.job}/logs/stream", headers={"last-event-id": "1"})
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data:")]
    assert [t for d in data for t in texts(LogPage.model_validate_json(d))][:2] == ["b", "the last word"]
    assert "id: 4" in answer.text


async def test_nobody_waits_for_the_end_of_who_was_lost_without_a_word(
    client: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    await tell(attempt, frame(1, ["a"]))
    await _end(client, attempt.job, service)
    later = service.now() + timedelta(seconds=60)
    assert (await service.logs.page(attempt.job, Wanted(), 0, 10, later)).done


async def test_a_deleted_job_leaves_no_line(client: httpx.AsyncClient, attempt: Attempt, service: Service) -> None:
    await tell(attempt, frame(1, ["a"]))
    await _end(client, attempt.job, service)
    assert (await client.delete(f"/v1/jobs/{attempt.job}")).status_code == 204
    assert not (Path(service.settings.log_place) / attempt.job).exists()
    assert (await tell(attempt, frame(2, ["b"]))).status_code in (401, 410)


async def test_lines_outlive_the_service(settings: Settings, client: httpx.AsyncClient, attempt: Attempt) -> None:
    await tell(attempt, frame(1, ["a", "b"]))
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        again: Service = app.state.service
        page = await again.logs.page(attempt.job, Wanted(), 0, 10, again.now())
        assert texts(page) == ["a", "b"]
        assert await again.logs.take(Printer(job=attempt.job, attempt=attempt.name), frame(1, ["a", "b", "c"])) == 1


async def test_what_a_fenced_attempt_printed_is_kept_although_the_service_is_new(
    client: httpx.AsyncClient, attempt: Attempt, service: Service
) -> None:
    """A new one, or another replica, has heard nothing of its token before."""
    await service.database.write(lambda session: _fence(session, attempt.name, service.now()))
    service.tokens.hashes.clear()
    assert (await tell(attempt, frame(1, ["why it was given up"]))).json() == {"stored": 1}
    service.tokens.hashes.clear()
    assert (await attempt.uplink()).status_code == 410


def _fence(session: Any, attempt: str, now: Any) -> None:
    session.get(AttemptRow, attempt).fenced_at = now


async def test_who_reads_while_files_are_joined_misses_and_doubles_nothing(
    client: httpx.AsyncClient, attempt: Attempt, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the index and the reading of any of the files, all of them are joined and removed."""
    monkeypatch.setattr(keeping, "_MANY", 10)
    monkeypatch.setattr(keeping, "_LOOK_AFTER", 1_000_000)
    lines = [f"line {n}" for n in range(1, 11)]
    search = service.logs._search
    for nth in (0, 4, 9):
        for how in ({"start": 0}, {"tail": 10}):
            source = f"t{nth}{how.get('tail', 0)}-00000000"
            for n, text in enumerate(lines, 1):
                await tell(attempt, frame(n, [text], source=source))
            loop, calls = asyncio.get_running_loop(), count()

            def joins_first(*args: Any, loop: Any = loop, calls: Any = calls, nth: int = nth) -> Any:
                if next(calls) == nth:
                    assert asyncio.run_coroutine_threadsafe(service.logs.tidy(attempt.job), loop).result()
                    names = {row.name for row in asyncio.run_coroutine_threadsafe(
                        service.database.read(index.chunks, attempt.job, 0, 100), loop).result()}  # fmt: skip
                    folder = Path(service.settings.log_place) / attempt.job
                    _wait_until(lambda: {file.name for file in folder.iterdir()} == names)
                return search(*args)

            monkeypatch.setattr(service.logs, "_search", joins_first)
            page = await read(client, attempt.job, trainer=source.partition("-")[0], **how)
            monkeypatch.setattr(service.logs, "_search", search)
            assert texts(page) == lines, (nth, how)
            await client.get("/v1/health")


async def test_files_that_cannot_be_joined_do_not_keep_later_ones_from_it(
    client: httpx.AsyncClient, attempt: Attempt, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MANY", 4)
    monkeypatch.setattr(keeping, "_LOOK_AFTER", 1)
    monkeypatch.setattr(keeping, "_SMALL_BYTES", 2_000)
    numbers = iter(range(1, 1000))
    for _ in range(6):  # small and large by turns: no two small ones are neighbours
        await tell(attempt, frame(next(numbers), ["small"]))
        await tell(attempt, frame(next(numbers), [secrets.token_hex(4_000)]))
    for _ in range(40):
        await tell(attempt, frame(next(numbers), ["small"]))
    assert len(await service.database.read(index.chunks, attempt.job, 0, 1000)) < 20


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "gone", "no JSON", "no rows"])
async def test_a_damaged_file_hides_no_line_of_others(
    client: httpx.AsyncClient, attempt: Attempt, service: Service, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A disk that was full, or lost power. What is joined behind it could not be read either, so it is not joined."""
    monkeypatch.setattr(keeping, "_MANY", 8)
    for n in range(1, 13):
        await tell(attempt, frame(n, [f"line {n} {secrets.token_hex(50)}"]))
    rows = await service.database.read(index.chunks, attempt.job, 0, 1000)
    file = service.logs._files._folder / attempt.job / rows[4].name  # type: ignore[operator]
    match damage:
        case "gone":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-20])
        case _:
            made = {"empty": b"", "other bytes": b"?" * 50}
            made |= {"no JSON": zstandard.compress(b"{\n"), "no rows": zstandard.compress(b"[]\n")}
            file.write_bytes(made[damage])
    whole = [f"line {n}" for n in range(1, 13) if n != 5]

    async def check() -> None:
        assert [" ".join(text.split()[:2]) for text in texts(await read(client, attempt.job))] == whole
        assert [" ".join(text.split()[:2]) for text in texts(await read(client, attempt.job, tail=100))] == whole
        assert len(texts(await read(client, attempt.job, contains="line 1 "))) == 1

    await check()
    assert await service.logs.tidy(attempt.job)
    assert len(await service.database.read(index.chunks, attempt.job, 0, 1000)) == 6
    await check()


async def test_of_lines_that_come_while_their_job_is_deleted_no_file_stays(
    client: httpx.AsyncClient, attempt: Attempt, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _end(client, attempt.job, service)
    write, loop = service.logs._files.write, asyncio.get_running_loop()
    folder = Path(service.settings.log_place) / attempt.job

    def deleted_first(job: str, content: bytes) -> str:
        deletion = asyncio.run_coroutine_threadsafe(client.delete(f"/v1/jobs/{job}"), loop)
        assert deletion.result().status_code == 204
        return write(job, content)

    monkeypatch.setattr(service.logs._files, "write", deleted_first)
    assert (await tell(attempt, frame(1, ["a"]))).status_code == 404
    await asyncio.to_thread(_wait_until, lambda: not list(folder.iterdir()))
