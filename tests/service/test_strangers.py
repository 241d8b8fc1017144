"""Whoever holds no token costs next to nothing: on every route of the document, whatever is sent."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.events import EventKind
from surefoot.views import Problem
from surefoot_service.keys import digest
from surefoot_service.parts import Service
from surefoot_service.rest.app import create_app, open_service
from surefoot_service.rest.dependencies import GUARDS
from surefoot_service.rest.route import GuardedRoute
from surefoot_service.settings import Settings

from .asgi import PIECE, Answer, Headers, ask, peak_bytes
from .helpers import Attempt, make_event, make_row, start_attempt

MIB = 1024 * 1024
LOOP_S = 0.1
PEAK_BYTES = 20 * MIB
PAGE_BYTES = 16 * 1024
JSON = ("content-type", "application/json")

ROUTES = [
    (method.upper(), path, bool(operation.get("security")))
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    for method, operation in operations.items()
]
# open to everybody, on purpose
OPEN = {("POST", "/v1/attempts/{attempt}/claim"), ("GET", "/v1/health"), ("GET", "/v1/ready")}


def named(path: str) -> str:
    return (
        path.replace("{attempt}", "job-1")
        .replace("{job}", "job")
        .replace("{sha256}", "0" * 64)
        .replace("{name}", "NONE")
    )


def filled(start: bytes, unit: bytes, end: bytes, size: int) -> bytes:
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


@cache
def bodies(size: int) -> dict[str, bytes]:
    """One of each kind of body that costs a careless reader most."""
    return {
        "numbers for events": filled(b'{"events":[0', b",0", b"]}", size),
        "numbers for rows": filled(b'{"rows":[0', b",0", b"]}", size),
        "empty events": filled(b'{"events":[{}', b",{}", b"]}", size),
        "an empty list": filled(b"[[]", b",[]", b"]", size),
        "many fields": b"{" + b",".join(b'"f%d":0' % n for n in range(size // 12)) + b"}",
        "env of many": b'{"env":{' + b",".join(b'"f%d":0' % n for n in range(size // 12)) + b"}}",
        "deep lists": b"[" * size,
        "deep objects": filled(b"", b'{"a":', b"", size),
        "a long text": filled(b'{"code":"', b"x", b'"}', size),
        "halves of pairs": filled(b'{"code":"', b"\\ud800", b'"}', size),
        "a long number": filled(b'{"code":', b"9", b"}", size),
        "no text": b"\xff" * size,
        "spaces": b" " * size,
    }


def check(answer: Answer) -> None:
    assert answer.loop_s <= LOOP_S
    assert answer.status < 500
    if answer.status >= 400:
        assert len(answer.body) <= PAGE_BYTES
        assert answer.headers["content-type"] == "application/problem+json"
        assert Problem.model_validate_json(answer.body).status == answer.status


def test_which_routes_are_open(app: FastAPI) -> None:
    assert {(method, path) for method, path, secured in ROUTES if not secured} == OPEN


def test_every_route_is_guarded(app: FastAPI) -> None:
    """All of one kind, so that a new one is too; and what the document says of its token is what is checked."""
    for route in iter_route_contexts(app.routes):
        if route.path == "/openapi.json":
            continue
        assert isinstance(route.original_route, GuardedRoute), route.path
        guards = [d.call for d in route.original_route.dependant.dependencies if d.call in GUARDS]
        assert bool(guards) == all((method, route.path) not in OPEN for method in route.methods or ()), route.path


HEADERS_OF_STRANGERS: tuple[list[tuple[str, str]], ...] = (
    [JSON],
    [JSON, ("authorization", "Bearer " + "x" * 43)],
    [JSON, ("content-length", str(MIB))],
    [],
)


@pytest.mark.parametrize(("method", "path", "secured"), ROUTES)
async def test_a_stranger_s_body_is_not_read(method: str, path: str, secured: bool, app: FastAPI) -> None:
    for name, body in bodies(MIB).items():
        for headers in HEADERS_OF_STRANGERS:
            answer = await ask(app, method, named(path), body, headers)
            check(answer)
            if secured:
                assert (answer.status, answer.taken) == (401, 0), name
            else:
                # of a claim so much is taken as tells that it is too long
                assert answer.taken <= PIECE
        assert await peak_bytes(app, method, named(path), body, [JSON]) <= PEAK_BYTES


@pytest.mark.parametrize(("method", "path", "secured"), ROUTES)
async def test_sixteen_times_as_much_costs_no_more(method: str, path: str, secured: bool, app: FastAPI) -> None:
    answer = await ask(app, method, named(path), b'{"events":[0' + b",0" * 8 * MIB, [JSON])
    check(answer)
    assert answer.taken <= (0 if secured else PIECE)


@pytest.mark.parametrize(("method", "path", "secured"), ROUTES)
async def test_what_fits_costs_little_too(method: str, path: str, secured: bool, app: FastAPI) -> None:
    for name, body in bodies(4096).items():
        answer = await ask(app, method, named(path), body, [JSON])
        check(answer)
        assert (answer.status == 401) == secured, name


@pytest.mark.parametrize(("method", "path", "secured"), ROUTES)
async def test_a_declared_length_of_a_hundred_gigabytes_is_refused_at_once(
    method: str, path: str, secured: bool, app: FastAPI, client: httpx.AsyncClient
) -> None:
    for length in (10**11, 10**30):
        headers = [JSON, ("content-length", str(length)), ("authorization", client.headers["authorization"])]
        answer = await ask(app, method, named(path), b"{", headers)
        check(answer)
        assert answer.status in (401, 413)
        assert answer.taken == 0


# ---- hypothesis: any headers, any JSON, made large


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    service = open_service(Settings(data=tmp_path_factory.mktemp("strangers")))
    app = create_app(service.settings)
    app.state.service = service
    with asyncio.Runner() as runner:
        yield lambda *request: runner.run(ask(app, *request))
    service.database.close()


FIELDS = (
    "events",
    "rows",
    "code",
    "kind",
    "config",
    "env",
    "pip",
    "trainers",
    "left_out",
    "checkpoint",
    "source",
    "data",
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner),
    max_leaves=10,
)
HEADERS = st.lists(
    st.sampled_from(
        [
            JSON,
            ("content-type", "text/plain"),
            ("content-type", "application/json; charset=utf-16"),
            ("authorization", "Bearer " + "x" * 43),
            ("authorization", "Basic eDp5"),
            ("authorization", "Bearer é"),
            ("content-length", "5"),
            ("content-length", "-1"),
            ("content-length", "1e3"),
            ("transfer-encoding", "chunked"),
            ("idempotency-key", "a"),
            ("last-event-id", "1-1"),
        ]
    ),
    max_size=5,
)


@given(route=st.sampled_from(ROUTES), value=VALUES, times=st.sampled_from([1, 10, 10_000, 200_000]), headers=HEADERS)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
def test_nothing_that_a_stranger_says_costs_much(
    route: tuple[str, str, bool], value: Any, times: int, headers: Headers, served: Any
) -> None:
    method, path, secured = route
    unit = json.dumps(value).encode()
    body = b'{"events":[' + b",".join([unit] * min(times, MIB // (len(unit) + 1) + 1)) + b"]}"
    answer = served(method, named(path), body, headers)
    check(answer)
    if secured:
        assert (answer.status, answer.taken) == (401, 0)


# ---- claims


async def test_a_stranger_s_claim_asks_no_database(
    anonymous: httpx.AsyncClient, service: Service, job: str, settings: Settings
) -> None:
    made = await start_attempt(service, anonymous, job)
    service.database.close()
    for attempt in (made.name, "nothere-1"):
        assert (await Attempt(anonymous, job, attempt, "x" * 64).claim()).status_code == 403


# ---- with a token


@pytest.mark.parametrize(("method", "path", "secured"), [r for r in ROUTES if r[0] == "POST"])
async def test_with_a_token_too_nothing_holds_the_loop(
    method: str, path: str, secured: bool, app: FastAPI, client: httpx.AsyncClient, attempt: Attempt, tmp_path: Path
) -> None:
    """As much as each route takes; the parsing of what is large is a thread's."""
    token = attempt.token if "{attempt}" in path else str(client.headers["authorization"]).removeprefix("Bearer ")
    headers = [JSON, ("authorization", f"Bearer {token}")]
    url = path.replace("{attempt}", attempt.name).replace("{job}", attempt.job)
    for size in (4096, 99_000):
        for body in bodies(size).values():
            check(await ask(app, method, url, body, headers))


def full_batches() -> dict[str, bytes]:
    """Batches that are sound, and as large as is taken."""
    row = make_row(0, many={f"value{n}": 0.123456 for n in range(60)}).model_dump(mode="json")
    event = make_event(1, EventKind.WARNING, message="x" * 900).model_dump(mode="json")
    many = make_event(1, EventKind.WARNING, trainers=[{"trainer": "t0"}] * 30).model_dump(mode="json")
    batches = {"rows": {"rows": [row] * 1000}, "events": {"events": [event] * 2000}, "many": {"events": [many] * 1500}}
    return {name: json.dumps(batch).encode() for name, batch in batches.items()}


async def test_the_largest_bodies_with_a_token(tmp_path: Path) -> None:
    """With the defaults' limits, on the two routes that take more than a command."""
    app = create_app(Settings(data=tmp_path / "data"))
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        token = (tmp_path / "data" / "token").read_text().strip()
        service.tokens.add("job-1", digest("t"))
        for path, given_token, most in (
            ("/v1/jobs", token, service.settings.max_spec_bytes),
            ("/v1/attempts/job-1/uplink", "t", service.settings.max_body_bytes),
        ):
            headers = [JSON, ("authorization", f"Bearer {given_token}")]
            for name, body in (bodies(most - 100) | full_batches()).items():
                answer = await ask(app, "POST", path, body, headers)
                check(answer)
                assert answer.status in (401, 413, 422), (path, name)
