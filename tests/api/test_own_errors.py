"""What a person names may be missing, a folder in place of a file, unreadable, no URL, or unreachable: only errors of ours come of it."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import surefoot
from surefoot import AsyncClient, Client
from surefoot.config_files import read_file
from surefoot.errors import SurefootError, UserError
from surefoot.job_file import read_job
from surefoot.ledger import read_lines
from surefoot.package import pack
from surefoot.spec import JobState

from .conftest import FakeService, make_view

JOB = "abc2345678"


def _lay(tmp: Path) -> None:
    (tmp / "file").write_text("x")
    (tmp / "folder").mkdir()
    (tmp / "binary").write_bytes(b"\xff\xfe\0")
    (tmp / "circle").symlink_to("circle")
    (tmp / "nowhere-link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp / "socket"))
    # a file that is there and cannot be read, whoever asks
    (tmp / "unreadable").symlink_to("/proc/self/mem")


# by what is wrong with it; of the temporary folder where it has one
PLACES: dict[str, Callable[[Path], str | Path]] = {
    "missing": lambda tmp: tmp / "nowhere" / "x",
    "a folder": lambda tmp: tmp / "folder",
    "a file": lambda tmp: tmp / "file",
    "below a file": lambda tmp: tmp / "file" / "x",
    "no text": lambda tmp: tmp / "binary",
    "a circle": lambda tmp: tmp / "circle",
    "below a circle": lambda tmp: tmp / "circle" / "x",
    "a link to nothing": lambda tmp: tmp / "nowhere-link" / "x",
    "unreadable": lambda tmp: tmp / "unreadable",
    "a socket": lambda tmp: tmp / "socket",
    "a long name": lambda tmp: tmp / ("x" * 300),
    "a long path": lambda tmp: tmp / ("x/" * 3000),
    "NUL": lambda tmp: "a\0b",
    "no UTF-8": lambda tmp: tmp / "\udcff" / "x",
    "half a character": lambda tmp: "\ud800/x",
    "nobody's home": lambda tmp: "~no-such-user/x",
    "no protocol": lambda tmp: "s3x://nowhere/x",
    "nobody listens": lambda tmp: "http://127.0.0.1:1/x",
    "no URL": lambda tmp: "http://[",
    "a URL with NUL": lambda tmp: "s3://a\0b",
    "a file's URL": lambda tmp: f"file://{tmp}/nowhere/x",
    "a chain": lambda tmp: f"zip://x::{tmp}/nowhere.zip",
}


@pytest.fixture
def transport(fake: FakeService) -> httpx.MockTransport:
    """A service with a job whose model and files are there to be downloaded."""
    fake.add(make_view(JOB, JobState.SUCCEEDED))
    file = {"path": "a/b", "bytes": 3, "modified": "2026-01-01T00:00:00Z"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(("/model", "/content")):
            return httpx.Response(200, content=b"abc", headers={"content-length": "3"})
        if request.url.path.endswith("/files"):
            return httpx.Response(200, json={"files": [file], "version": "1", "more": False})
        return fake.answer(request)

    return httpx.MockTransport(answer)


class Asked:
    """What is done with a place, by a public function each."""

    def __init__(self, transport: httpx.MockTransport, code: Path, tmp: Path) -> None:
        self._transport, self._code, self._tmp = transport, code, tmp

    def submitted_folder(self, place: str | Path) -> None:
        self._client().submit("train:train", folder=place, batch_size=64)

    def submitted_from_a_program(self, place: str | Path) -> None:
        self._client().submit(f"{place}:train", folder=self._code, batch_size=64)

    def submitted_function_in_a_folder(self, place: str | Path) -> None:
        self._client().submit(self.submitted_folder, folder=place, batch_size=64)

    def submitted_data(self, place: str | Path) -> None:
        self._client().submit("train:train", folder=self._code, batch_size=64, data={"x": str(place)})

    def submitted_restore(self, place: str | Path) -> None:
        self._client().submit("train:train", folder=self._code, batch_size=64, restore=str(place))

    def submitted_with_what_cannot_be_read(self, place: str | Path) -> None:
        folder = self._tmp / "linked"
        folder.mkdir()
        (folder / "train.py").write_text("def train(run):\n    pass\n")
        try:
            (folder / "more").symlink_to(place)
        except (OSError, ValueError):
            return  # no link leads there
        self._client().submit("train:train", folder=folder, batch_size=64)

    def downloaded_model(self, place: str | Path) -> None:
        self._client().job(JOB).download_model(place)

    def downloaded_files(self, place: str | Path) -> None:
        self._client().job(JOB).download_files(place)

    def downloaded_path(self, place: str | Path) -> None:
        self._client().job(JOB).download_files(self._tmp / "out", path=str(place))

    def with_asyncio(self, place: str | Path) -> None:
        async def ask(what: Callable[[AsyncClient], Any]) -> None:
            async with AsyncClient("http://surefoot", transport=self._transport) as client:
                await what(client)

        async def model(client: AsyncClient) -> None:
            await (await client.job(JOB)).download_model(place)

        async def files(client: AsyncClient) -> None:
            await (await client.job(JOB)).download_files(place)

        first: list[BaseException] = []
        for what in (model, files, lambda client: client.submit("train:train", folder=place, batch_size=64)):
            try:
                asyncio.run(ask(what))
            except SurefootError as error:
                first.append(error)
        if first:
            raise first[0]

    def url(self, place: str | Path) -> None:
        with Client(str(place)) as client:
            client.health()

    def job(self, place: str | Path) -> None:
        self._client().job(str(place))

    def config_file(self, place: str | Path) -> None:
        read_file(Path(place), "--config")

    def job_file(self, place: str | Path) -> None:
        read_job(Path(place))

    def ledger(self, place: str | Path) -> None:
        list(read_lines(Path(place)))

    def package(self, place: str | Path) -> None:
        pack(place)

    def curves(self, place: str | Path) -> None:
        from surefoot.trackers.about import about
        from surefoot.trackers.tensorboard import TensorBoard

        TensorBoard(place, about(make_view(JOB))).close()

    def _client(self) -> Client:
        return Client("http://surefoot", transport=self._transport)


ASKED = [name for name in vars(Asked) if not name.startswith("_")]


def test_a_download_takes_no_sockets_place(
    transport: httpx.MockTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _lay(tmp_path)
    with pytest.raises(UserError, match="a device, a pipe or a socket"):
        Client("http://surefoot", transport=transport).job(JOB).download_model(tmp_path / "socket")
    assert (tmp_path / "socket").is_socket()
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("asked", ASKED)
def test_only_our_own_errors_come_of_places(
    asked: str, transport: httpx.MockTransport, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked == "curves":
        pytest.importorskip("tensorboardX")
    outcomes = {}
    for n, (wrong, place) in enumerate(PLACES.items()):
        (tmp := tmp_path / str(n)).mkdir()
        monkeypatch.chdir(tmp)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp))
        _lay(tmp)
        outcomes[wrong] = _outcome(lambda: getattr(Asked(transport, code, tmp), asked)(place(tmp)))  # noqa: B023
    _check(outcomes)
    assert asked == "submitted_with_what_cannot_be_read" or len([o for o in outcomes.values() if o]) > 3


def _outcome(what: Callable[[], object]) -> Exception | None:
    try:
        what()
    except Exception as error:  # noqa: BLE001  which ones come is what is asked here
        return error
    return None


def _check(outcomes: Mapping[str, Exception | None]) -> None:
    others = {wrong: repr(o) for wrong, o in outcomes.items() if o is not None and not isinstance(o, SurefootError)}
    assert others == {}
    assert any(outcomes.values()), "these places are wrong, and nobody said so"
    assert [wrong for wrong, error in outcomes.items() if error is not None and not str(error).strip()] == []


# ---- what runs here


@pytest.mark.parametrize("option", ["checkpoint", "restore", "output_dir", "data"])
def test_only_our_own_errors_come_of_a_local_run(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("surefoot_actors")

    def train(run: surefoot.Run) -> None:
        model = torch.nn.Linear(1, 1)
        run.track(model=model)
        (run.output_dir / "x").write_text("y")
        for step in run.steps(1):
            for (x,) in step.batches(torch.utils.data.TensorDataset(torch.ones(2, 1))):
                model(x).sum().backward()

    outcomes = {}
    for n, (wrong, place) in enumerate(PLACES.items()):
        (tmp := tmp_path / str(n)).mkdir()
        monkeypatch.chdir(tmp)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp))
        _lay(tmp)
        given: Any = {option: {"x": str(place(tmp))} if option == "data" else str(place(tmp))}
        outcomes[wrong] = _outcome(lambda: surefoot.run_local(train, batch_size=2, sub_tasks=2, **given))  # noqa: B023
    _check(outcomes)


def test_a_local_run_that_asks_for_no_folder_needs_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("surefoot_actors")

    def train(run: surefoot.Run) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        for step in run.steps(1):
            for _ in step.batches(torch.utils.data.TensorDataset(torch.ones(2, 1))):
                pass

    found = surefoot.run_local(train, batch_size=2, sub_tasks=2, output_dir=tmp_path / ("x" * 300))
    assert found.output_dir is None


@pytest.mark.parametrize("wrong", ["missing", "a file", "a circle", "a long name", "NUL", "half a character", "nobody's home"])  # fmt: skip
def test_check_refuses_what_is_no_folder(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = pytest.importorskip("surefoot_actors.check").check
    monkeypatch.chdir(tmp_path)
    _lay(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        check(entrypoint="train:train", folder=PLACES[wrong](tmp_path), batch_size=8)


def test_a_data_folder_of_nobodys_home_is_refused() -> None:
    settings = pytest.importorskip("surefoot_service.settings").Settings
    with pytest.raises(ValueError, match="no-such-user"):
        settings(data="~no-such-user/x")
    assert os.path.expanduser("~no-such-user/x") == "~no-such-user/x"
