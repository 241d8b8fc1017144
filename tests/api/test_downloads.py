"""A file that is downloaded has the bytes that were listed, and no more: it is there whole, or not at all, with a word that says why."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from surefoot import AsyncClient, Client, _transport
from surefoot.errors import ServiceError, ServiceUnavailableError
from surefoot.spec import JobState

from .conftest import FakeService, make_view

JOB = "abc2345678"


@dataclass
class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body of these pieces; without end, or broken off, behind them."""

    pieces: tuple[bytes, ...]
    endless: bool = False
    error: Exception | None = None
    given: int = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        while self.endless:
            self.given += 1
            assert self.given < 100, "it reads on and on"
            yield b"x" * 1024
        if self.error is not None:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


WHOLE = b"12345"
# of a file that is listed with five bytes: what its answer is, and what is said of it; nothing: it is there
ANSWERS: dict[str, tuple[dict[str, str], Any, str]] = {
    "as it was listed": ({"content-length": "5"}, lambda: Body((WHOLE,)), ""),
    "in pieces": ({"content-length": "5"}, lambda: Body((b"12", b"", b"345")), ""),
    "in chunks, as a proxy may have it": ({"transfer-encoding": "chunked"}, lambda: Body((WHOLE,)), ""),
    "without end": ({"transfer-encoding": "chunked"}, lambda: Body((WHOLE,), endless=True), "longer than the 5 bytes"),
    "longer than it says": ({"content-length": "5"}, lambda: Body((WHOLE, b"6")), "longer than the 5 bytes"),
    "said to be longer": ({"content-length": "6"}, lambda: Body((WHOLE,)), "has 6 bytes, and was listed with 5"),
    "said to be shorter": ({"content-length": "4"}, lambda: Body((WHOLE,)), "has 4 bytes, and was listed with 5"),
    "shorter": ({"transfer-encoding": "chunked"}, lambda: Body((b"12",)), "ends after 2 of 5 bytes"),
    "empty": ({"transfer-encoding": "chunked"}, lambda: Body(()), "ends after 0 of 5 bytes"),
    "of no length": ({"content-length": "-5"}, lambda: Body((WHOLE,)), "does not say how long it is"),
    "of an odd length": ({"content-length": "9" * 5000}, lambda: Body((WHOLE,)), "does not say how long it is"),
    "packed": ({"content-length": "5", "content-encoding": "br"}, lambda: Body((WHOLE,)), "packed on the way"),
    "broken off": ({"content-length": "5"}, lambda: Body((b"12",), error=httpx.ReadError("reset")), "broke off"),
    "cut": (
        {"content-length": "5"},
        lambda: Body((b"12",), error=httpx.RemoteProtocolError("peer closed connection")),
        "broke off",
    ),
    "stuck": ({"content-length": "5"}, lambda: Body((b"12",), error=httpx.ReadTimeout("")), "broke off"),
}
FILES = {
    "files": [{"path": "a", "bytes": 5, "modified": "2026-01-01T00:00:00Z"}],
    "version": "1",
    "more": False,
}


def transport(headers: dict[str, str], body: Body) -> httpx.MockTransport:
    fake = FakeService()
    fake.add(make_view(JOB, JobState.SUCCEEDED, model="/m"))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(("/model", "/content")):
            return httpx.Response(200, headers=headers, stream=body)
        return httpx.Response(200, json=FILES) if request.url.path.endswith("/files") else fake.answer(request)

    return httpx.MockTransport(answer)


async def fetched(way: str, to: Path, headers: dict[str, str], body: Body) -> None:
    if way == "asyncio":
        async with AsyncClient("http://surefoot", transport=transport(headers, body)) as client:
            await (await client.job(JOB)).download_files(to)
        return
    with Client("http://surefoot", transport=transport(headers, body)) as client:
        client.job(JOB).download_files(to)


def _content(file: Path) -> bytes:
    return file.read_bytes()


@pytest.mark.parametrize("way", ["plain", "asyncio"])
@pytest.mark.parametrize("how", ANSWERS)
async def test_a_file_has_the_bytes_that_were_listed(how: str, way: str, tmp_path: Path) -> None:
    headers, body, said = ANSWERS[how]
    if not said:
        await fetched(way, tmp_path, headers, body())
        assert (os.listdir(tmp_path), _content(tmp_path / "a")) == (["a"], WHOLE)
        return
    with pytest.raises(ServiceError, match=said) as raised:
        await fetched(way, tmp_path, headers, body())
    assert "no control plane answers" not in str(raised.value)
    assert os.listdir(tmp_path) == [], "nothing half is left"


@pytest.mark.parametrize("way", ["plain", "asyncio"])
@pytest.mark.parametrize("how", ["without end", "longer than it says", "broken off", "packed"])
async def test_a_model_has_the_bytes_that_its_answer_says(how: str, way: str, tmp_path: Path) -> None:
    headers, body, said = ANSWERS[how]
    if "content-length" not in headers:
        said = "does not say how long it is"  # and no list does
    if way == "plain":
        job = Client("http://surefoot", transport=transport(headers, body())).job(JOB)
        with pytest.raises(ServiceError, match=said):
            job.download_model(tmp_path / "m")
    else:
        waited = await AsyncClient("http://surefoot", transport=transport(headers, body())).job(JOB)
        with pytest.raises(ServiceError, match=said):
            await waited.download_model(tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [httpx.ReadError("reset"), httpx.RemoteProtocolError("closed"), httpx.ReadTimeout("")]
)
def test_any_answer_that_breaks_off_is_told_as_that(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Body((b"{",), error=error))

    client = Client("http://surefoot", transport=httpx.MockTransport(answer))
    with pytest.raises(ServiceUnavailableError, match=r"the connection to http://surefoot broke off: .*try again"):
        client.health()
