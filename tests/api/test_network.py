"""Which way requests go: a proxy that listens, a service that listens, and what each of them got to see."""

from __future__ import annotations

import ast
import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import make_row, make_view
from typer.testing import CliRunner

from surefoot import AsyncClient, Client, _transport
from surefoot._loopback import is_here, keep_loopback_direct
from surefoot._network import direct_client, open_client
from surefoot.cli.app import app
from surefoot.errors import ServiceError, SurefootError, UserError
from surefoot.spec import JobState

SECRETS = ("the-token", "the-claim-code-of-the-attempt")
JOB = "abc2345678"


class Listener:
    """A server on loopback that keeps every byte it was sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.location = ""
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                listener.seen.append(f"{self.requestline}\n{self.headers}\n{body!r}")
                status, content = listener.answer(self.command, self.path)
                self.send_response(status)
                if listener.location:
                    self.send_header("Location", listener.location)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_CONNECT = do_DELETE = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        return 502, b"{}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Proxy(Listener):
    """Takes what is meant for others."""


class Service(Listener):
    """Answers as a control plane with one job does."""

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        if self.location:
            return 307, b""
        view = make_view(JOB, JobState.SUCCEEDED, model="/m", num_steps=1, steps_done=1)
        path = path.partition("?")[0].removeprefix("/v1/")
        answers: dict[str, Any] = {
            "health": {"version": "1"},
            "jobs": {"jobs": [view.model_dump(mode="json")]},
            f"jobs/{JOB}/events": {"events": []},
            f"jobs/{JOB}/ledger": {"rows": [make_row(0).model_dump(mode="json")]},
            f"jobs/{JOB}/checkpoints": {"checkpoints": []},
            f"jobs/{JOB}/logs": {"lines": [], "next": 0, "more": False, "done": True},
            "secrets": {"secrets": []},
            f"jobs/{JOB}/model": {"bytes": "of a model"},
        }
        if method == "POST" and path == "jobs":
            return 201, view.model_dump_json().encode()
        if path.startswith("packages"):
            return 200, b'{"package": "x", "bytes": 1}'
        return 200, json.dumps(answers.get(path, view.model_dump(mode="json"))).encode()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _environment(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which a proxy is set."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.upper(), proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ls",),
    ("rm", JOB),
    ("ls", "--json"),
    ("show", JOB),
    ("show", "last", "--json"),
    ("watch", JOB),
    ("resize", JOB, "2"),
    ("cancel", JOB),
    ("pause", JOB),
    ("resume", JOB),
    ("checkpoint", JOB),
    ("checkpoints", JOB),
    ("model", JOB, "-o", "OUT"),
    ("ledger", JOB, "--json"),
    ("ledger", JOB),
    ("diff", JOB, JOB),
    ("chaos", JOB),
    ("logs", JOB),
    ("files", JOB),
    ("files", JOB, "get", "--to", "OUT"),
    ("metrics", JOB),
    ("budget", JOB, "--max-hours", "2"),
    ("track", JOB, "--to", "tensorboard:OUT"),
    ("secret", "list"),
    ("submit", "train:train", "-f", "CODE", "-b", "64", "--detach"),
    ("submit", "train:train", "-f", "CODE", "-b", "64"),
)


def test_every_command_is_tried() -> None:
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {command[0] for command in COMMANDS} | {"up", "check", "schema", "version"} >= names - {
        "delete",
        "prune",
        "wait",
    }


# One client makes all requests of a host; these three go different ways through it.
TRIED = [(command, "127.0.0.1") for command in COMMANDS] + [
    (command, host)
    for command in (
        ("ls",),
        ("submit", "train:train", "-f", "CODE", "-b", "64", "--detach"),
        ("model", JOB, "-o", "OUT"),
    )
    for host in ("localhost", "127.1", "0x7f.1", "[::ffff:127.0.0.1]")
]


@pytest.mark.parametrize(("command", "host"), TRIED, ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_no_command_tells_a_proxy_what_is_for_this_machine(
    command: tuple[str, ...], host: str, proxy: Proxy, service: Service, code: Path, tmp_path: Path
) -> None:
    arguments = [a.replace("OUT", str(tmp_path / "out")).replace("CODE", str(code)) for a in command]
    url = f"http://{host}:{service.port}"
    result = CliRunner().invoke(app, ["--url", url, "--token", "the-token", *arguments])
    assert result.exit_code in (0, 1, 2), result.output
    assert "control plane answers" not in result.output
    assert "mistake of surefoot's own" not in result.output
    assert any("the-token" in seen for seen in service.seen), result.output
    assert proxy.seen == []


def test_nor_does_the_async_client(proxy: Proxy, service: Service, code: Path, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncClient(service.url, "the-token") as client:
            await client.health()
            job = await client.submit("train:train", folder=code, batch_size=64)
            await job.download_model(tmp_path / "m")
            await job.wait()

    asyncio.run(use())
    assert service.seen
    assert proxy.seen == []


def test_for_another_machine_the_proxy_is_the_users_choice(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for any other program: by HTTP_PROXY, and not where NO_PROXY says so."""
    with Client("http://control-plane.example:8470", "the-token") as client, pytest.raises(SurefootError):
        client.health()
    assert any("control-plane.example:8470" in seen for seen in proxy.seen)
    proxy.seen.clear()
    monkeypatch.setenv("no_proxy", "control-plane.invalid")
    with Client("http://control-plane.invalid:8470", "the-token") as client, pytest.raises(SurefootError):
        client.health()
    assert proxy.seen == []


def test_the_users_own_up_is_gone_to_directly_whatever_its_address(
    proxy: Proxy, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told to be reached by a name, which the proxy would be asked for."""
    from tests.api.test_where import held, write

    url = f"http://own.example:{service.port}"
    write(tmp_path, url)
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path))
    with held(tmp_path), Client() as client:
        assert client.where.token == "secret"
        with pytest.raises(SurefootError):
            client.health()
    assert proxy.seen == []


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "nonsense", "http://[", "ftp://x", "http://x:y"])
def test_a_proxy_that_is_none_is_told_in_a_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(other)
        monkeypatch.delenv(other.upper())
    monkeypatch.setenv(name, value)
    with pytest.raises(SurefootError), Client("http://control-plane.invalid", "the-token") as client:
        client.health()


@pytest.mark.parametrize("value", ["/nowhere/certificates.pem", "/etc/hostname"])
def test_certificates_that_are_none_are_told_in_a_sentence(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", value)
    with pytest.raises(UserError, match="SSL_CERT_FILE"):
        Client("https://control-plane.invalid", "the-token")


# ---- redirects


@pytest.mark.parametrize("to", ["other", "own"])
def test_a_redirect_carries_no_token_anywhere(service: Service, proxy: Proxy, to: str, tmp_path: Path) -> None:
    other = Service()
    try:
        service.location = f"{other.url if to == 'other' else service.url}/v1/health"
        with Client(service.url, "the-token") as client:
            for call in (client.health, client.jobs, lambda: client.job(JOB)):
                with pytest.raises(ServiceError, match="a redirect") as told:
                    call()
                assert service.location in str(told.value)
        assert other.seen == []
        assert proxy.seen == []
    finally:
        other.close()


# ---- what is this machine


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.255.0.3", "localhost", "LOCALHOST", "localhost.", "x.localhost", "[::1]", "[::]", "0.0.0.0", "0", "127.1",
     "2130706433", "0x7f000001", "017700000001", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)  # fmt: skip
def test_names_of_this_machine(host: str) -> None:
    assert is_here(f"http://{host}:8470")


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.invalid", "[2001:db8::1]", "128.0.0.1", "localhost.example.invalid", "1270.0.0.1"]
)
def test_names_of_others(host: str) -> None:
    assert not is_here(f"http://{host}:8470")


def test_this_machines_own_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /etc/hosts has it on many a machine: the host's name is 127.0.1.1."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.1.1", 0))])
    assert is_here("http://my-laptop:8470")


@pytest.mark.parametrize("before", ["", "a.example", "127.0.0.1", "*"])
def test_other_libraries_are_told_of_loopback_too(before: str, proxy: Proxy) -> None:
    env = {"no_proxy": before} if before else {}
    keep_loopback_direct(env)
    parts = env["no_proxy"].split(",")
    assert set(parts) >= ({before} if before else set())
    assert before == "*" or {"localhost", "127.0.0.1", "::1"} <= set(parts)
    assert len(parts) == len(set(parts))


def test_a_client_of_the_cluster_takes_no_proxy_at_all(proxy: Proxy, service: Service) -> None:
    with direct_client(service.url) as client:
        assert client.get("/v1/health").status_code == 200
    with direct_client("http://cluster.invalid") as client, pytest.raises(Exception, match=r"."):
        client.get("/")
    assert proxy.seen == []
    with open_client("http://cluster.invalid", direct=False) as client:
        client.get("/")
    assert proxy.seen


def test_no_other_module_makes_http_clients() -> None:
    """So that what is tested here holds for all."""
    makers = {"Client", "AsyncClient", "get", "post", "put", "request", "stream", "HTTPTransport", "AsyncHTTPTransport"}
    found: list[str] = []
    root = Path(__file__).parents[2]
    for path in sorted(p for top in ("api", "actors", "service") for p in (root / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if path.name not in ("_network.py", "_loopback.py") else ():
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="httpx"), attr=attr)) if attr in makers:
                    found.append(f"{path}:{node.lineno} {attr}")
                case ast.Import(names=names):
                    found += [f"{path}:{node.lineno}" for n in names if {n.name, n.name.partition(".")[0]} & _OTHERS]
                case ast.ImportFrom(module=str(module)) if module in _OTHERS or module.partition(".")[0] in _OTHERS:
                    found.append(f"{path}:{node.lineno}")
    assert found == []


_OTHERS = frozenset({"requests", "aiohttp", "urllib3", "http.client", "urllib.request", "websockets"})


@pytest.mark.parametrize("value", ["http://me:hunter2@x:y", "ftp://me:hunter2@x", "socks5://me:hunter2@x"])
def test_a_proxys_password_is_not_told(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", value)
    with pytest.raises(UserError, match="all_proxy") as told:
        Client("http://control-plane.invalid", "the-token")
    assert "hunter2" not in str(told.value)
