"""Bodies: what is taken, and what is refused in milliseconds with a sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from surefoot.events import MAX_BATCH, ClaimRequest, UplinkBatch
from surefoot.spec import MAX_CONFIG_DEPTH, JobSpec
from surefoot.views import FaultRequest, Problem, ResizeRequest
from surefoot_service.errors import InvalidError
from surefoot_service.rest.body import MAX_DEPTH, MAX_MEMBERS, MAX_VALUES, BoundedBody, parse
from surefoot_service.rest.problems import MAX_ERRORS, MAX_PROBLEM_BYTES, ProblemError, problem_of, problem_response

from .asgi import ask
from .helpers import JSON, Attempt, make_row

# ---- the shape of JSON


def nested(depth: int, kind: str) -> str:
    return ("[" * depth + "]" * depth) if kind == "lists" else ('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100, 900, 5000, 500_000])
def test_what_is_deep_is_refused(depth: int, kind: str) -> None:
    with pytest.raises(ProblemError, match="levels deep"):
        parse(nested(depth, kind).encode())


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_what_is_as_deep_as_may_be_is_taken(kind: str) -> None:
    parse(nested(MAX_DEPTH, kind).encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"a": "\xc3"}', "UTF-8"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "digits"),
        (json.dumps(dict.fromkeys(map(str, range(MAX_MEMBERS + 1)))).encode(), "members"),
    ],
)
def test_what_cannot_be_taken_is_named(body: bytes, message: str) -> None:
    with pytest.raises(ProblemError) as raised:
        parse(body)
    assert raised.value.status_code == 422
    assert message in raised.value.detail


def test_too_many_values_are_too_large() -> None:
    """With 413, at which a supervisor halves its batches; as many as it sends are not."""
    values: tuple[Any, ...] = ([0] * (MAX_VALUES + 1), {"events": [{"data": {"l": [{}] * 400}}] * 400})
    for value in values:
        with pytest.raises(ProblemError) as raised:
            parse(json.dumps(value).encode())
        assert raised.value.status_code == 413
    row = make_row(0, many={f"value{n}": 0.5 for n in range(40)}).model_dump(mode="json")
    parse(json.dumps({"rows": [row] * 1000}).encode())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(JSON_VALUES)
def test_all_other_json_is_what_it_was(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        parse(body)
    except (ProblemError, json.JSONDecodeError):
        pass


# ---- the sizes of lists and mappings are bounded in every schema


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from schemas(value)


@pytest.mark.parametrize("model", [JobSpec, UplinkBatch, ClaimRequest, ResizeRequest, FaultRequest])
def test_no_list_that_is_taken_in_is_unbounded(model: type[BaseModel]) -> None:
    for schema in schemas(model.model_json_schema()):
        if schema.get("type") == "array" and "items" in schema:
            assert "maxItems" in schema, schema


# ---- the first errors are told, shortly


async def test_of_many_errors_the_first_are_told(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    for change in (
        {f"field{n}": 0 for n in range(19)},
        {"env": {f"V{n}": n for n in range(400)}},
        {"env": {"\ud800" * 100: 1}},
        {"pip": [0] * 20_000},
        {"x" * 50_000: 1},
        {"entrypoint": "\x00" * 300},
        {"checkpoint": {"best_mode": "x" * 50_000}},
    ):
        answer = await client.post("/v1/jobs", content=json.dumps(spec | change), headers=JSON)
        assert answer.status_code == 422
        assert 1 <= len(answer.json()["errors"]) <= MAX_ERRORS
        assert len(answer.content) <= MAX_PROBLEM_BYTES


async def test_the_first_wrong_event_ends_it(attempt: Attempt, app: FastAPI) -> None:
    for what in ("events", "rows"):
        body = json.dumps({what: [0] * MAX_BATCH}).encode()
        headers = [*JSON.items(), *attempt.headers.items()]
        answer = await ask(app, "POST", f"/v1/attempts/{attempt.name}/uplink", body, headers)
        errors = json.loads(answer.body)["errors"]
        assert len(errors) == 1
        assert errors[0]["field"].startswith(f"body.{what}.0")


@given(st.lists(st.text(max_size=2000), max_size=50), st.text(max_size=100_000))
def test_no_problem_is_longer_than_a_page(messages: list[str], detail: str) -> None:
    error = InvalidError("x".join(messages), detail)
    answer = problem_response(problem_of(error))
    assert len(answer.body) <= MAX_PROBLEM_BYTES
    assert Problem.model_validate_json(bytes(answer.body)).status == 422


async def test_as_much_as_a_supervisor_sends_is_taken(attempt: Attempt) -> None:
    """The limits of lists are not below what is sent at a time."""
    from surefoot_actors.uplink.http import MOST_ROWS

    assert MOST_ROWS <= MAX_BATCH


# ---- content types, headers


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        ";",
        "é",
    ],
)
async def test_another_content_type_is_refused(
    kind: str | None, app: FastAPI, client: httpx.AsyncClient, job: str
) -> None:
    headers = [("authorization", client.headers["authorization"]), ("content-length", "2")]
    headers += [] if kind is None else [("content-type", kind)]
    for path in (
        "/v1/jobs",
        f"/v1/jobs/{job}/resize",
        f"/v1/jobs/{job}/faults",
        "/v1/packages",
        "/v1/attempts/x-1/claim",
    ):
        assert (await ask(app, "POST", path, b"{}", headers)).status == 415, path


async def test_json_by_another_spelling_is_taken(app: FastAPI, client: httpx.AsyncClient, job: str) -> None:
    for kind in ("application/json", "application/json; charset=UTF-8", "Application/JSON;charset=utf8"):
        headers = [("authorization", client.headers["authorization"]), ("content-type", kind)]
        assert (await ask(app, "POST", f"/v1/jobs/{job}/resize", b'{"trainers": 2}', headers)).status == 200


@pytest.mark.parametrize("name", ["content-type", "content-length", "idempotency-key", "last-event-id"])
async def test_a_header_that_is_given_twice(name: str, app: FastAPI, client: httpx.AsyncClient) -> None:
    headers = [
        ("authorization", client.headers["authorization"]),
        ("content-type", "application/json"),
        (name, "1"),
        (name, "2"),
    ]
    assert (await ask(app, "POST", "/v1/jobs", b"{}", headers)).status == 400


async def test_two_tokens_are_none(app: FastAPI, client: httpx.AsyncClient) -> None:
    right = ("authorization", client.headers["authorization"])
    assert (await ask(app, "GET", "/v1/jobs", b"", [right])).status == 200
    assert (await ask(app, "GET", "/v1/jobs", b"", [right, ("authorization", "Bearer x")])).status == 401
    assert (await ask(app, "GET", "/v1/jobs", b"", [right, right])).status == 401


async def test_all_that_can_be_done_is_told_where_something_else_is_asked(client: httpx.AsyncClient) -> None:
    for path, methods in (("/v1/jobs", {"GET", "POST"}), ("/v1/health", {"GET"}), ("/v1/jobs/x/cancel", {"POST"})):
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "HEAD"):
            if method in methods:
                continue
            answer = await client.request(method, path)
            assert answer.status_code == 405
            allowed = {m.strip() for m in answer.headers["allow"].split(",")}
            assert methods <= allowed, (path, method)
            assert method not in allowed


# ---- what a spec may say: config, environment


BAD: dict[str, dict[str, Any]] = {
    "NaN": {"config": {"x": float("nan")}},
    "Infinity": {"config": {"x": float("inf")}},
    "a huge whole number": {"config": {"x": 10**400}},
    "a deep config": {"config": {"x": json.loads(nested(MAX_CONFIG_DEPTH, "lists"))}},
    "half of a pair in a name": {"env": {"\ud800": "x"}},
    "half of a pair in a value": {"env": {"A": "\udfff"}},
    "half of a pair deep in a config": {"config": {"a": [{"\ud800": 1}]}},
    "NUL in a name": {"env": {"A\0": "x"}},
    "NUL in a value": {"env": {"A": "x\0"}},
    "= in a name": {"env": {"A=B": "x"}},
    "no name": {"env": {"": "x"}},
    "too much environment": {"env": {f"V{n}": "" for n in range(501)}},
    "NaN CPUs": {"resources": {"cpus": float("nan")}},
    "endless GPUs": {"resources": {"gpus": float("inf")}},
    "NaN seconds": {"checkpoint": {"every_s": float("nan")}},
    "a huge step": {"checkpoint": {"every_steps": 10**30}},
    "a huge seed": {"seed": 10**300},
    "a line end in a path": {"restore": "/a\nb/"},
    "an escape in a URL": {"checkpoint": {"url": "/a\x1b[31m"}},
    "a line end after the entrypoint": {"entrypoint": "train:train\n"},
    "a NUL in a requirement": {"pip": ["einops\0"]},
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_spec_is_refused_in_milliseconds(
    case: str, app: FastAPI, client: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    headers = [*JSON.items(), ("authorization", client.headers["authorization"])]
    answer = await ask(app, "POST", "/v1/jobs", json.dumps(spec | BAD[case]).encode(), headers)
    assert answer.status == 422, answer.body
    assert answer.loop_s <= 0.1
    assert json.loads(answer.body)["errors"]
    assert (await client.get("/v1/jobs")).json() == {"jobs": []}


async def test_numbers_too_large_for_any_float(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    text = json.dumps(spec | {"config": {"x": "HERE"}})
    for number in ("1e999", "-1e999", "NaN", "-Infinity", "9" * 5000):
        answer = await client.post("/v1/jobs", content=text.replace('"HERE"', number), headers=JSON)
        assert answer.status_code == 422, number


@given(env=st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=10), max_size=5))
def test_an_environment_is_one_that_a_process_can_have(env: dict[str, str]) -> None:
    good = all("=" not in k and "\0" not in k + v for k, v in env.items())
    spec = {"entrypoint": "a:b", "package": "0" * 64, "batch_size": 8, "env": env}
    try:
        JobSpec.model_validate(spec)
    except ValueError:
        assert not good
    else:
        assert good


# ---- the pace of a body


async def test_a_body_is_waited_for_by_its_pace() -> None:
    """Time in which the service does not wait for the sender does not count."""
    pieces = asyncio.Queue[bytes]()

    async def receive() -> Any:
        return {"type": "http.request", "body": await pieces.get(), "more_body": True}

    body = BoundedBody(receive, max_bytes=10_000, grace_s=0.2, bytes_per_s=1e9)
    pieces.put_nowait(b"x")
    await body()
    await asyncio.sleep(0.3)
    pieces.put_nowait(b"x")
    await body()
    with pytest.raises(ProblemError, match="too slowly"):
        await body()
    pieces.put_nowait(b"x" * 20_000)
    with pytest.raises(ProblemError, match="above 10000 bytes"):
        await BoundedBody(receive, max_bytes=10_000, grace_s=1, bytes_per_s=1)()


async def test_whoever_waits_for_the_end_of_the_connection_may_wait() -> None:
    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    body = BoundedBody(receive, max_bytes=10, grace_s=0.01, bytes_per_s=1)
    await body()
    async with asyncio.timeout(60):
        await body()


async def test_an_upload_that_lies_about_its_length(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)

    answer = await client.post("/v1/packages", content=pieces(), headers={"content-type": "application/zip"})
    assert answer.status_code == 413


@pytest.mark.parametrize("number", ["+0.0", "1_000", "1e1", " 1", "0x1", "١"])
async def test_numbers_in_queries_are_written_in_digits(client: httpx.AsyncClient, number: str) -> None:
    for path, name in (("/v1/audit", "after"), ("/v1/jobs", "limit")):
        answer = await client.get(path, params={name: number})
        assert answer.status_code == 422, answer.text
        assert (await client.get(path, params={name: "1"})).status_code == 200
