"""Calls that hang: each is left to itself, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy.orm import Session

from surefoot_service.checkpoints import models
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store import jobs
from surefoot_service.waiting import BusyError, HungError, Kind, Limits, Patience, Waiting

from .helpers import LIMIT_S, TRAIN, ZIP, Attempt, make_zip, start_attempt

# generous: places are waited for until one is free
QUEUE_S = LIMIT_S


def patience(storage: str, within_s: float) -> Patience:
    return Patience(of=storage, within_s=within_s, queue_s=QUEUE_S)


class DeadMount(MemoryFileSystem):
    """A storage that takes every question and never answers, until the test lets it go."""

    protocol = "dead"
    store: ClassVar[dict[str, Any]] = {}
    released = threading.Event()

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        self.released.wait()
        raise OSError("let go")


@pytest.fixture
def dead() -> Iterator[None]:
    fsspec.register_implementation("dead", DeadMount, clobber=True)
    DeadMount.released.clear()
    yield
    DeadMount.released.set()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", storage_protocols=("file", "dead", "memory"))


async def all_back(pool: Waiting) -> None:
    """Wait until no call hangs any more."""
    async with asyncio.timeout(LIMIT_S):
        while pool.hung(Kind.STORAGE):  # noqa: ASYNC110  nothing in the product waits for that
            await asyncio.sleep(0.001)


async def _with_model(service: Service, client: httpx.AsyncClient, spec: dict[str, Any], url: str | None) -> str:
    more = {"checkpoint": {"url": url}} if url else {}
    job = str((await client.post("/v1/jobs", json=spec | more)).json()["id"])
    place = f"{url or service.settings.checkpoint_place}/{job}"

    def tell(session: Session) -> None:
        jobs.load(session, job).model = place

    await service.database.write(tell)
    return job


async def test_a_dead_mount_disables_nothing_else(
    client: httpx.AsyncClient, service: Service, spec: dict[str, Any], dead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "STORAGE_S", 1.0)
    monkeypatch.setattr(models, "Patience", partial(Patience, queue_s=0.2))
    hanging = await _with_model(service, client, spec, "dead://mount")
    whole = await _with_model(service, client, spec, None)
    place = Path(service.settings.checkpoint_place) / whole
    place.mkdir(parents=True)
    (place / "m.safetensors").write_bytes(b"model")
    asked = [asyncio.create_task(client.get(f"/v1/jobs/{hanging}/model")) for _ in range(60)]

    async with asyncio.timeout(LIMIT_S):
        await asyncio.sleep(0)
        for _ in range(3):  # at once, while the first hang, and when they are given up
            assert (await client.post("/v1/jobs", json=spec)).status_code == 201
            content = make_zip({"train.py": TRAIN, "x": str(_)})
            assert (await client.post("/v1/packages", content=content, headers=ZIP)).status_code == 201
            assert (await client.get("/v1/jobs")).status_code == 200
            assert (await client.get(f"/v1/jobs/{whole}/model")).content == b"model"
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*asked)
        again = await client.get(f"/v1/jobs/{hanging}/model")
    counts = {status: [a.status_code for a in answers].count(status) for status in (502, 503)}
    assert counts == {502: 8, 503: 52}, "so many wait for one storage, and no more"
    refused = next(a for a in answers if a.status_code == 503)
    assert (refused.headers["content-type"], int(refused.headers["retry-after"])) == ("application/problem+json", 5)
    assert service.waiting.hung(Kind.STORAGE) == 8
    assert (again.status_code, "do not answer" in again.json()["detail"]) == (503, True)
    assert (await client.get(f"/v1/jobs/{whole}/model")).content == b"model"

    DeadMount.released.set()
    await all_back(service.waiting)
    assert (await client.get(f"/v1/jobs/{hanging}/model")).status_code == 502, "it is asked again once it answers"


async def test_a_launch_goes_on_beside_a_dead_mount(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, service: Service, spec: dict[str, Any], dead: None
) -> None:
    hanging = await _with_model(service, client, spec, "dead://mount")
    asked = [asyncio.create_task(client.get(f"/v1/jobs/{hanging}/model")) for _ in range(8)]
    await asyncio.sleep(0)
    read = await asyncio.wait_for(service.waiting.run(Kind.LAUNCHES, lambda: b"zip"), LIMIT_S)
    assert read == b"zip"
    made: Attempt = await start_attempt(service, anonymous, hanging)
    assert (await made.claim()).status_code == 200
    DeadMount.released.set()
    await asyncio.gather(*asked)


async def test_a_call_gives_what_it_gives() -> None:
    pool = Waiting()
    assert await pool.run(Kind.SOURCES, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(Kind.SOURCES, divmod, 7, 0)
    with pytest.raises(TimeoutError, match="its own"):
        await pool.run(Kind.SOURCES, _raise, TimeoutError("its own"))
    assert pool.hung(Kind.SOURCES) == 0


def _raise(error: Exception) -> None:
    raise error


async def test_places_are_given_back_whatever_happens() -> None:
    """Calls end, fail, are cancelled, hang and come back; afterwards there are as many places as before."""
    pool = Waiting(dict.fromkeys(Kind, Limits(running=3, each=2, hung=4)))
    let_go = threading.Event()
    gone = asyncio.create_task(pool.run_with(patience("a", LIMIT_S), Kind.STORAGE, let_go.wait))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    with pytest.raises(HungError):
        await pool.run_with(patience("a", 0.01), Kind.STORAGE, let_go.wait)
    assert pool.hung(Kind.STORAGE) == 2
    with pytest.raises(BusyError, match="of a do not answer: 2 calls hang"):
        await pool.run_with(patience("a", 1.0), Kind.STORAGE, int)
    assert await pool.run_with(patience("b", 1.0), Kind.STORAGE, int) == 0
    let_go.set()
    await all_back(pool)
    async with asyncio.timeout(LIMIT_S):
        for _ in range(3):
            results = await asyncio.gather(
                *(pool.run_with(patience("a", LIMIT_S), Kind.STORAGE, int) for _ in range(10))
            )
            assert results == [0] * 10
            errors = await asyncio.gather(
                *(pool.run_with(patience("c", LIMIT_S), Kind.STORAGE, int, "x") for _ in range(10)),
                return_exceptions=True,
            )
            assert {type(e) for e in errors} == {ValueError}


async def test_so_many_hang_in_all_and_no_more() -> None:
    pool = Waiting(dict.fromkeys(Kind, Limits(running=3, each=2, hung=4)))
    let_go = threading.Event()
    before = threading.active_count()
    for storage in range(20):
        with pytest.raises((HungError, BusyError)):
            await pool.run_with(patience(f"s{storage}", 0.01), Kind.STORAGE, let_go.wait)
    assert pool.hung(Kind.STORAGE) == 4
    assert threading.active_count() - before <= 4
    let_go.set()
    await all_back(pool)


@pytest.mark.process
def test_a_process_with_calls_that_hang_can_end() -> None:
    program = """
        import asyncio, threading
        from surefoot_service.waiting import HungError, Kind, Patience, Waiting

        QUEUE_S = 1

        async def main():
            pool = Waiting()
            for kind in Kind:
                try:
                    await pool.run_with(Patience(of="", within_s=0.01, queue_s=QUEUE_S), kind, threading.Event().wait)
                except HungError:
                    print(kind, "hangs")

        asyncio.run(main())
        print("ended")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "ended", "")
    assert done.stdout.count("hangs") == len(Kind)
