"""Whatever is broken, the SDK raises errors of its own and the CLI says a sentence: files, addresses, and answers of every kind."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.conftest import FakeService, make_event, make_row, make_view, problem
from typer.testing import CliRunner, Result

from surefoot import AsyncClient, Client, _transport
from surefoot.cli.app import app
from surefoot.cli.session import Session
from surefoot.errors import ServiceError, SpecError, SurefootError, UserError
from surefoot.spec import JobState

JOB = "abc2345678"
LIMIT_S = 180.0

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ls",),
    ("rm", JOB),
    ("show", JOB),
    ("show", "last"),
    ("watch", JOB),
    ("resize", JOB, "2"),
    ("cancel", JOB, "--no-wait"),
    ("pause", JOB, "--no-wait"),
    ("resume", JOB),
    ("checkpoint", JOB),
    ("checkpoints", JOB),
    ("model", JOB, "-o", "OUT"),
    ("ledger", JOB),
    ("diff", JOB, JOB),
    ("submit", "train:train", "-f", "CODE", "-b", "64", "--detach"),
)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)
    monkeypatch.setattr("surefoot._follow.PATIENCE_S", 0.0)


def run(
    command: tuple[str, ...], transport: httpx.BaseTransport | None, tmp_path: Path, code: Path, *first: str
) -> Result:
    places = {"OUT": str(tmp_path / "out"), "CODE": str(code)}
    return CliRunner().invoke(app, [*first, *(places.get(a, a) for a in command)], obj=Session(transport=transport))


def assert_a_sentence(result: Result) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    assert "mistake of surefoot's own" not in result.output, result.output
    assert result.stderr.startswith("surefoot: ") or "Usage" in result.stderr, result.output


# ---- answers

ANSWERS: dict[str, Callable[[], httpx.Response]] = {
    "empty": lambda: httpx.Response(200),
    "no content": lambda: httpx.Response(204),
    "html": lambda: httpx.Response(200, html="<html><body>Welcome to nginx!</body></html>"),
    "html error": lambda: httpx.Response(500, html="<html>"),
    "half": lambda: httpx.Response(200, content=make_view(JOB).model_dump_json()[:100]),
    "null": lambda: httpx.Response(200, json=None),
    "a list": lambda: httpx.Response(200, json=[]),
    "a number": lambda: httpx.Response(200, json=1),
    "wrong types": lambda: httpx.Response(200, json={"id": 5, "jobs": 7, "events": {}, "rows": "x", "state": [], "package": None}),
    "wrong items": lambda: httpx.Response(200, json={"jobs": [1], "events": [None], "rows": [[]], "checkpoints": [{}]}),
    "deep": lambda: httpx.Response(200, content=b'{"jobs":' + b"[" * 100_000),
    "no text": lambda: httpx.Response(200, content=b"\xff\xfe\x00\x01"),
    "a problem that is none": lambda: httpx.Response(422, json={"status": "x", "errors": 5}),
    "an odd status": lambda: httpx.Response(299, content=b"x"),
    "a teapot": lambda: httpx.Response(418, content=b"x"),
    "unauthorized": lambda: httpx.Response(401, content=b""),
    "bad gateway": lambda: httpx.Response(502, content=b"\x00"),
    "an id that is a path": lambda: httpx.Response(200, content=_evil_view()),
    "a redirect": lambda: httpx.Response(302, headers={"location": "http://elsewhere/"}),
    "a redirect to nowhere": lambda: httpx.Response(301),
    "not modified": lambda: httpx.Response(304),
}  # fmt: skip


def _evil_view() -> bytes:
    view = make_view("../../etc/passwd").model_dump(mode="json")
    return json.dumps(view | {"jobs": [view]}).encode()


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_answer_is_too_odd_for_a_sentence(answer: str, tmp_path: Path, code: Path) -> None:
    for command in COMMANDS:
        result = run(command, httpx.MockTransport(lambda _: ANSWERS[answer]()), tmp_path, code)
        if answer in ("empty", "no content") and command[0] in ("model", "watch"):
            continue  # a model may be empty
        assert_a_sentence(result)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(200, 599),
    st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=5) | st.integers(), lambda i: st.lists(i) | st.dictionaries(
        st.sampled_from(["jobs", "id", "state", "events", "rows", "title", "status", "detail", "errors"]), i), max_leaves=6).map(
        lambda v: json.dumps(v).encode()),
    st.sampled_from(["application/json", "text/event-stream", "text/html", "application/problem+json", "x"]),
)  # fmt: skip
def test_nor_is_any_made_up_one(status: int, body: bytes, kind: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers={"content-type": kind}))
    with Client("http://surefoot", transport=transport) as client:
        for call in (client.health, client.jobs, lambda: client.job(JOB), lambda: client.job("last")):
            try:
                call()
            except SurefootError:
                continue


# ---- answers by bytes: what no library would send


class Raw:
    """A server that says these bytes to whoever asks, in pieces, and ends as it is told."""

    def __init__(self, *pieces: bytes, repeat: bytes = b"", reset: bool = False) -> None:
        self._pieces, self._repeat, self._reset = pieces, repeat, reset
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                asked, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(asked,), daemon=True).start()

    def _answer(self, asked: socket.socket) -> None:
        with asked:
            try:
                asked.recv(65536)
                for piece in self._pieces:
                    asked.sendall(piece)
                while self._repeat:
                    asked.sendall(self._repeat)
                if self._reset:
                    asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RAW: dict[str, Callable[[], Raw]] = {
    "closes at once": Raw,
    "resets": lambda: Raw(reset=True),
    "no HTTP": lambda: Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a TLS alert": lambda: Raw(b"\x15\x03\x01\x00\x02\x02\x28"),
    "half a head": lambda: Raw(OK),
    "less than it said": lambda: Raw(OK + b"Content-Length: 1000\r\n\r\n{"),
    "a chunk that ends early": lambda: Raw(OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"),
    "a chunk of no size": lambda: Raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{"),
    "no gzip": lambda: Raw(OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain"),
    "half a gzip": lambda: Raw(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 1000)[:20]),
    "a head without end": lambda: Raw(b"HTTP/1.1 200 OK\r\nX: ", repeat=b"x" * 65536),
    "a status that is none": lambda: Raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "another encoding": lambda: Raw(OK + b"Content-Length: -5\r\n\r\n{}"),
}


@pytest.mark.parametrize("how", RAW)
def test_no_server_is_too_odd(how: str, tmp_path: Path, code: Path) -> None:
    server = RAW[how]()
    try:
        for command in (
            ("ls",),
            ("model", JOB, "-o", "OUT"),
            ("watch", JOB),
            ("submit", "train:train", "-f", "CODE", "-b", "64"),
        ):
            assert_a_sentence(run(command, None, tmp_path, code, "--url", server.url))
        with Client(server.url) as client:
            job = Client("http://x", transport=_one_job(JobState.RUNNING)).job(JOB)
            job._client = client
            for call in (job.refresh, job.wait, lambda: job.download_model(tmp_path / "model"), job.ledger):
                with pytest.raises(SurefootError):
                    call()
        assert list(tmp_path.glob("*model*")) == [], "nothing half is left"
    finally:
        server.close()


@pytest.mark.parametrize("how", ["closes at once", "no gzip", "a chunk that ends early"])
async def test_nor_for_the_async_client(how: str, tmp_path: Path) -> None:
    server = RAW[how]()
    try:
        async with AsyncClient(server.url) as client:
            for call in (client.health, client.jobs, lambda: client.job(JOB)):
                with pytest.raises(SurefootError):
                    await call()
    finally:
        server.close()


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory that is bounded, of whatever kind: plain, or packed a thousand times."""
    monkeypatch.setattr(_transport, "_MOST_BYTES", 2_000_000)
    bomb = gzip.compress(bytes(20_000_000))
    for server in (
        Raw(OK + b"\r\n", repeat=b" " * 65536),
        Raw(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb),
    ):
        with Client(server.url) as client, pytest.raises(ServiceError, match="does not end"):
            client.jobs()
        server.close()


def test_nor_is_one_waited_for_that_only_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "_LONGEST_S", 0.0)
    server = Raw(OK + b"\r\n", b" ", repeat=b" ")
    with Client(server.url) as client, pytest.raises(ServiceError, match="does not end"):
        client.jobs()
    server.close()


def test_pages_without_end_are_given_up(fake: FakeService) -> None:
    fake.add(make_view(JOB, JobState.RUNNING))
    page = {"events": [make_event(1).model_dump(mode="json")] * 1000}
    row_lines = b"\n".join([make_row(3).model_dump_json().encode()] * 9_999)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("events"):
            return httpx.Response(200, json=page)
        if request.url.path.endswith("ledger"):
            return httpx.Response(200, content=make_row(3).model_dump_json().encode() + b"\n" + row_lines)
        return fake.answer(request)

    job = Client("http://surefoot", transport=httpx.MockTransport(answer)).job(JOB)
    for call in (job.events, job.ledger):
        with pytest.raises(ServiceError, match="no further on"):
            call()


# ---- files


def _one_job(state: JobState = JobState.SUCCEEDED) -> httpx.MockTransport:
    fake = FakeService()
    fake.add(make_view(JOB, state, model="/m"))

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"model") if request.url.path.endswith("model") else fake.answer(request)

    return httpx.MockTransport(answer)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


TARGETS: dict[str, Callable[[Path], Path]] = {
    "a folder": lambda tmp: _folder(tmp / "folder"),
    "the folder it is in": lambda tmp: Path("."),
    "the root": lambda tmp: Path("/"),
    "in no folder": lambda tmp: tmp / "nowhere" / "m",
    "below a file": lambda tmp: Path("/etc/hostname/m"),
    "too long": lambda tmp: tmp / ("x" * 300),
    "with a zero": lambda tmp: tmp / "a\0b",
    "half a character": lambda tmp: tmp / "\udc00\ud800",
    "of the kernel": lambda tmp: Path("/proc/nothing"),
    "empty": lambda tmp: Path(""),
}


@pytest.mark.parametrize("target", TARGETS)
def test_where_a_model_cannot_be_written_is_told(target: str, tmp_path: Path, code: Path) -> None:
    path = TARGETS[target](tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        Client("http://surefoot", transport=_one_job()).job(JOB).download_model(path)
    if target not in ("with a zero", "half a character"):
        result = run(("model", JOB, "-o", str(path) or "."), _one_job(), tmp_path, code)
        assert_a_sentence(result)
        assert "cannot be written" in result.stderr


def test_a_full_disk_is_told_and_nothing_half_is_left(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    client = Client("http://surefoot", transport=_one_job())
    job = client.job(JOB)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file of this process may be longer: the kernel refuses the rest, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written: File too large"):
            job.download_model(tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


FOLDERS: dict[str, Callable[[Path], str]] = {
    "a file": lambda tmp: str(tmp / "code" / "train.py"),
    "nothing": lambda tmp: str(tmp / "nowhere"),
    "too long": lambda tmp: str(tmp / ("x" * 300)),
    "a source that is a folder": lambda tmp: _with(tmp, lambda f: (f / "train.py").unlink() or (f / "train.py").mkdir()),
    "a source that is no text": lambda tmp: _with(tmp, lambda f: (f / "train.py").write_bytes(b"\xff\0def")),
    "a source too deep": lambda tmp: _with(tmp, lambda f: (f / "train.py").write_text("x = " + "(" * 5000 + ")" * 5000)),
    "a source of elifs": lambda tmp: _with(tmp, lambda f: (f / "train.py").write_text("if x: y\n" + "elif x: y\n" * 20_000)),
    "a pipe as the source": lambda tmp: _with(tmp, lambda f: (f / "train.py").unlink() or os.mkfifo(f / "train.py")),
    "a link in a circle": lambda tmp: _with(tmp, lambda f: (f / "train.py").unlink() or (f / "train.py").symlink_to("train.py")),
    "an ignore file that is no text": lambda tmp: _with(tmp, lambda f: (f / ".gitignore").write_bytes(b"\xff\xfe")),
    "an ignore file with a bad pattern": lambda tmp: _with(tmp, lambda f: (f / ".gitignore").write_text("[z-a]\n!!\n\\\n")),
}  # fmt: skip


def _with(tmp: Path, change: Callable[[Path], Any]) -> str:
    change(tmp / "code")
    return str(tmp / "code")


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_cannot_be_packed_is_told(folder: str, fake: FakeService, tmp_path: Path, code: Path) -> None:
    given_ = FOLDERS[folder](tmp_path)
    client = Client("http://surefoot", transport=fake.transport)
    try:
        client.submit("train:train", folder=given_, batch_size=64)
    except SurefootError:
        pass
    result = run(("submit", "train:train", "-f", given_, "-b", "64", "--detach"), fake.transport, tmp_path, code)
    assert result.exit_code == 0 or assert_a_sentence(result) is None


@pytest.mark.parametrize(
    "options",
    [
        ("--config", "/"),
        ("--config", "/nowhere"),
        ("--config", "DEEP"),
        ("--config", "BINARY"),
        ("--set", "x=" + "[" * 100_000),
        ("--set", "x=NaN"),
        ("--set", "x=1e999"),
        ("--set", "x=" + "9" * 5000),
        ("--env", "A=\udcff"),
        ("--set", "a=\udcff"),
        ("--name", "\udcff"),
        ("--checkpoint-url", "\udcff"),
        ("--env", "=x"),
    ],
    ids=lambda o: " ".join(o)[:20].encode("ascii", "replace").decode(),
)
def test_options_that_cannot_be_read_are_told(
    options: tuple[str, str], fake: FakeService, tmp_path: Path, code: Path
) -> None:
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    files = {"DEEP": str(tmp_path / "deep"), "BINARY": str(tmp_path / "binary")}
    arguments = (
        "submit",
        "train:train",
        "-f",
        "CODE",
        "-b",
        "64",
        "--detach",
        options[0],
        files.get(options[1], options[1]),
    )
    result = run(arguments, fake.transport, tmp_path, code)
    assert result.exit_code == 0 or assert_a_sentence(result) is None
    if options[0] == "--config":
        assert result.exit_code == 2


@pytest.mark.parametrize("ref", ["/", "/etc", "x" * 5000, "a/b", "\udcff", "a\0b", "DEEP", "BINARY", "EMPTY", "PIPE"])
def test_ledgers_that_cannot_be_read_are_told(ref: str, fake: FakeService, tmp_path: Path, code: Path) -> None:
    (tmp_path / "DEEP").write_text('{"rows":' + "[" * 100_000)
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    (tmp_path / "EMPTY").write_text("")
    os.mkfifo(tmp_path / "PIPE")
    name = str(tmp_path / ref) if ref.isupper() else ref
    assert_a_sentence(run(("diff", name, "last"), fake.transport, tmp_path, code))


@pytest.mark.parametrize("url", ["", "x", "http://", "http://[", "http://a:b", "http://a b", "ftp://x", "http://\udcff", "http://xn--a",
                                 "http://" + "a" * 300, "http://a\0b", "http://127.0.0.1:1", "https://127.0.0.1:1"])  # fmt: skip
def test_addresses_that_are_none_are_told(url: str, tmp_path: Path, code: Path) -> None:
    if url:
        assert_a_sentence(run(("ls",), None, tmp_path, code, "--url", url))
    with pytest.raises(SurefootError):
        Client(url or "http://").health()


# ---- use


def test_a_closed_client_says_so(fake: FakeService, tmp_path: Path, code: Path) -> None:
    fake.add(make_view(JOB, JobState.RUNNING))
    with Client("http://surefoot", transport=fake.transport) as client:
        job = client.job(JOB)
    for call in (
        client.health,
        client.jobs,
        job.refresh,
        job.wait,
        job.ledger,
        lambda: job.download_model(tmp_path / "m"),
        lambda: client.submit("train:train", folder=code, batch_size=64),
    ):
        with pytest.raises(UserError, match="is closed"):
            call()


def test_so_does_a_closed_async_one(fake: FakeService) -> None:
    fake.add(make_view(JOB, JobState.RUNNING))

    async def use() -> None:
        async with AsyncClient("http://surefoot", transport=fake.transport) as client:
            job = await client.job(JOB)
        for call in (client.health, client.jobs, job.refresh, job.wait):
            with pytest.raises(UserError, match="is closed"):
                await call()

    asyncio.run(use())


@pytest.mark.process
def test_a_reader_that_has_gone_is_no_error(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `surefoot ls | head`, in a process of its own."""
    import subprocess
    import sys

    program = "from surefoot.cli.app import app; import sys; sys.argv = ['surefoot', 'version']; app()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, timeout=LIMIT_S)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_mistake_of_ours_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: Path) -> None:
    monkeypatch.setattr("surefoot.cli.local.version_here", lambda: 1 / 0)
    result = run(("version",), None, tmp_path, code)
    assert (result.exit_code, "ZeroDivisionError" in result.stderr, "Traceback" in result.output) == (2, True, False)
    told = run(("version",), None, tmp_path, code, "--debug")
    assert "Traceback" in told.stderr


# ---- a package that the service has lost


def _refusal() -> httpx.Response:
    return problem(422, "package x is not here; upload it first", (("body.package", "it is not here"),))


@pytest.mark.parametrize("times", [1, 2])
def test_a_package_that_is_gone_when_the_job_is_submitted_is_uploaded_again(
    fake: FakeService, code: Path, times: int
) -> None:
    fake.faults = [("/v1/jobs", lambda _: _refusal()) for _ in range(times)]
    client = Client("http://surefoot", transport=fake.transport)
    if times == 1:
        client.submit("train:train", folder=code, batch_size=64)
    else:
        with pytest.raises(SpecError, match="not here"):
            client.submit("train:train", folder=code, batch_size=64)
    assert fake.uploads == 2
