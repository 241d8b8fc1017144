"""A control plane over real HTTP, in memory: what the launcher and a supervisor talk to in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from surefoot.events import (
    ClaimRequest,
    Command,
    CommandKind,
    Event,
    EventKind,
    FaultKind,
    LedgerRow,
    SentBatch,
    UplinkAck,
)
from surefoot.logs import LogsAck
from surefoot.spec import JobSpec
from surefoot.views import Claimed, CommandPage

CODE = "a-claim-code-of-some-length"
TOKEN = "the-attempts-token"


class ControlPlane:
    """One attempt's facts. `spec` is what the claim is traded for."""

    def __init__(self, spec: JobSpec, package_uri: str = "") -> None:
        self.spec, self.package_uri = spec, package_uri
        self.url = ""
        # what the claim's answer has beside
        self.more: dict[str, object] = {}
        self.claims = 0
        # called when the claim has been counted, before it is answered
        self.on_claim: Callable[[], None] = lambda: None
        self.events: dict[tuple[str, int], Event] = {}
        self.ledger: dict[int, LedgerRow] = {}
        # printed lines, as they came
        self.logs: list[bytes] = []
        self._commands: list[Command] = []
        self._changed = threading.Condition()
        self._closed = False

    def command(self, kind: CommandKind, trainers: int | None = None, fault: FaultKind | None = None) -> None:
        with self._changed:
            self._commands.append(Command(n=len(self._commands) + 1, kind=kind, trainers=trainers, fault=fault))
            self._changed.notify_all()

    def of(self, kind: EventKind) -> list[Event]:
        with self._changed:
            return [event for event in self.events.values() if event.kind is kind]

    def states(self) -> list[str]:
        return [str(event.data["state"]) for event in self.of(EventKind.STATE)]

    def wait_for_step(self, step: int, timeout_s: float) -> None:
        self._wait(lambda: step in self.ledger, timeout_s)

    def wait_for_state(self, state: str, timeout_s: float) -> None:
        self._wait(lambda: state in (e.data.get("state") for e in self.events.values()), timeout_s)

    def wait_for_event(self, kind: EventKind, timeout_s: float, **data: object) -> Event:
        """Return the first event of a kind with these data."""

        def found() -> list[Event]:
            events = [event for event in self.events.values() if event.kind is kind]
            return [event for event in events if data.items() <= event.data.items()]

        self._wait(found, timeout_s)
        return found()[0]

    def _wait(self, what: object, timeout_s: float) -> None:
        assert callable(what)
        with self._changed:
            self._changed.wait_for(lambda: what() or self._failed(), timeout_s)
            if not what():
                raise AssertionError(f"it did not come; told were {[(e.kind, e.data) for e in self.events.values()]}")

    def _failed(self) -> bool:
        return any(event.kind is EventKind.FAILED for event in self.events.values())

    # ---- answers

    def claim(self, request: ClaimRequest) -> tuple[int, BaseModel | None]:
        if request.code != CODE:
            return 403, None
        self.claims += 1
        self.on_claim()
        if self.claims > 1:
            return 409, None
        claimed = Claimed(token=TOKEN, spec=self.spec, package_uri=self.package_uri)
        return 200, claimed.model_copy(update=self.more)

    def uplink(self, batch: SentBatch) -> tuple[int, BaseModel | None]:
        with self._changed:
            for event in batch.events:
                self.events.setdefault((event.source, event.n), event)
            for row in batch.rows:
                known = self.ledger.setdefault(row.result.step, row)
                assert known.result.canonical() == row.result.canonical()
            self._changed.notify_all()
            below = next(step for step in range(10**9) if step not in self.ledger)
        return 200, UplinkAck(rows_below=below)

    def take_logs(self, body: bytes) -> tuple[int, BaseModel | None]:
        with self._changed:
            self.logs.append(body)
        return 200, LogsAck(stored=1)

    def commands(self, after: int, wait_s: float) -> tuple[int, BaseModel | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._commands) > after, wait_s)
            return 200, CommandPage(commands=tuple(self._commands[after:]))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@contextmanager
def serve(plane: ControlPlane) -> Iterator[ControlPlane]:
    """Serve it on a free port for the duration of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/claim"):
                self._answer(*plane.claim(ClaimRequest.model_validate_json(body)))
            elif self._authorized():
                logs = self.path.endswith("/logs")
                self._answer(*(plane.take_logs(body) if logs else plane.uplink(SentBatch.model_validate_json(body))))

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if self._authorized():
                self._answer(*plane.commands(int(query["after"][0]), float(query["wait_s"][0])))

        def _authorized(self) -> bool:
            known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            if not known:
                self._answer(401, None)
            return known

        def _answer(self, status: int, body: BaseModel | None) -> None:
            content = body.model_dump_json().encode() if body is not None else b"refused"
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if body else "application/problem+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:
                pass  # whoever asked is gone

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="control-plane")
    thread.start()
    plane.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield plane
    finally:
        plane.close()
        server.shutdown()
        thread.join()
        server.server_close()
