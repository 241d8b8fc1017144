"""Traces from the request to the first step: what their spans are, that restarts and collectors lose none, and what is never in them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from surefoot.errors import UserError
from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot_service.parts import Service
from surefoot_service.reconciler import traces as loop
from surefoot_service.rest.app import serving
from surefoot_service.settings import Settings
from surefoot_service.store import traces
from surefoot_service.store.tables import JobRow
from surefoot_service.tracing.context import TraceContext, context_of, read_context, read_traceparent
from surefoot_service.tracing.exporter import open_exporter
from surefoot_service.tracing.spans import AttemptFacts, JobFacts, SpanFacts, spans_of
from surefoot_service.up.up import up

from .helpers import TRAIN, ZIP, Attempt, make_event, make_row, make_zip, start_attempt
from .otlp_receiver import Receiver, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PHASES = ["launcher submitted", "claimed", "supervisor spoke", "trainers ready", "first step"]

moments = st.integers(-100, 1000).map(lambda s: NOON + timedelta(seconds=s))
maybe = st.none() | moments
attempts = st.builds(
    AttemptFacts, id=st.just(""), number=st.just(0), created_at=moments, submitted_at=maybe, claimed_at=maybe, spoke_at=maybe,
    ready_at=maybe, first_step_at=st.none(), ended_at=maybe, lost=st.booleans(),
)  # fmt: skip
jobs = st.builds(
    JobFacts, id=st.just("ab2cd3ef4g"), name=st.just("n"), entrypoint=st.just("t:t"), trainers=st.just(2),
    state=st.sampled_from([str(s) for s in JobState]), context=st.just(TraceContext(trace_id=7, parent_id=9)),
    asked_at=moments, created_at=moments, ended_at=maybe,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(jobs, st.lists(attempts, max_size=4), maybe, moments)
def test_spans_are_nested_and_ordered_whatever_the_clocks_say(
    job: JobFacts, tried: list[AttemptFacts], first_step_at: datetime | None, until: datetime
) -> None:
    named = [_numbered(one, n, first_step_at if n == len(tried) else None) for n, one in enumerate(tried, 1)]
    spans = spans_of(job, named, until)
    assert spans == spans_of(job, named, until)
    assert len({span.span_id for span in spans}) == len(spans)
    assert {span.trace_id for span in spans} == {7}
    known: dict[int, SpanFacts] = {}
    ends: dict[int, datetime] = {}
    for span in spans:
        assert span.begin <= span.end
        if span.parent_id == 9:
            assert span is spans[0]
        else:
            assert span.parent_id is not None
            parent = known[span.parent_id]
            assert parent.begin <= span.begin
            assert span.end <= parent.end
            # side by side: each begins where the one before has ended
            assert span.begin == ends.get(span.parent_id, parent.begin)
            ends[span.parent_id] = span.end
        known[span.span_id] = span
    assert all(ends[parent] == known[parent].end for parent in ends), "nothing of the time is left out"
    assert [s.name for s in spans].count("start") == len(named)
    assert ("first step" in [s.name for s in spans if not s.failed]) >= (first_step_at is not None and bool(tried))


def _numbered(attempt: AttemptFacts, number: int, first_step_at: datetime | None) -> AttemptFacts:
    values = {name: getattr(attempt, name) for name in AttemptFacts.__slots__}
    return AttemptFacts(**values | {"id": f"ab2cd3ef4g-{number}", "number": number, "first_step_at": first_step_at})


def test_what_was_under_way_has_failed() -> None:
    job = JobFacts(id="j", name="n", entrypoint="t:t", trainers=1, state="failed", context=TraceContext(trace_id=7),
                   asked_at=NOON, created_at=NOON, ended_at=NOON + timedelta(seconds=9))  # fmt: skip
    lost = AttemptFacts(id="j-1", number=1, created_at=NOON, submitted_at=NOON + timedelta(seconds=2), lost=True)
    spans = {span.name: span for span in spans_of(job, [lost], NOON + timedelta(seconds=60))}
    assert list(spans) == ["job", "submit", "queued", "start", "launcher submitted", "claimed"]
    assert [name for name, span in spans.items() if span.failed] == ["job", "start", "claimed"]
    assert spans["claimed"].end == spans["job"].end == job.ended_at
    assert spans["job"].parent_id is None


@pytest.mark.parametrize(
    "header",
    [
        None, "", "x", TRACEPARENT.upper(), f" {TRACEPARENT}", f"{TRACEPARENT}\n", f"{TRACEPARENT}-00", f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}", f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE[:-1]}-{PARENT}-01", f"00-{TRACE}-{PARENT}-0g", f"00-{TRACE[:-1]}٣-{PARENT}-01", f"01-{TRACE}-{PARENT}-01x",
    ],
)  # fmt: skip
def test_a_malformed_header_is_ignored(header: str | None) -> None:
    assert read_traceparent(header) is None


def test_a_header_is_read_and_kept() -> None:
    found = read_traceparent(TRACEPARENT)
    assert found == TraceContext(trace_id=int(TRACE, 16), parent_id=int(PARENT, 16))
    assert str(found) == TRACEPARENT
    assert read_traceparent(f"01-{TRACE}-{PARENT}-03-more") == found
    unsampled = read_traceparent(f"00-{TRACE}-{PARENT}-02")
    assert unsampled is not None
    assert not unsampled.sampled
    own = context_of("ab2cd3ef4g", None)
    assert own == context_of("ab2cd3ef4g", None) == read_context(str(own))
    assert own != context_of("ab2cd3ef4h", None)


# ---- a job, a service, a collector


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    with receiving(asyncio.get_running_loop()) as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k3y")
        monkeypatch.setattr(loop, "LOOK_S", 0.02)
        yield found


@asynccontextmanager
async def served(routes: FastAPI, settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """The service, until it is stopped; it may be started again."""
    async with serving(routes, settings):
        headers = {"Authorization": "Bearer " + (settings.data / "token").read_text().strip()}
        transport = httpx.ASGITransport(routes, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://surefoot", headers=headers) as client:
            yield routes.state.service, client


async def submit(client: httpx.AsyncClient, *headers: tuple[str, str], **more: Any) -> str:
    package = await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)
    spec = {"entrypoint": "train:train", "package": package.json()["package"], "batch_size": 64, "trainers": 2} | more
    answer = await client.post("/v1/jobs", json=spec, headers=list(headers))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def first_step(attempt: Attempt) -> None:
    events = [
        make_event(1, EventKind.TRAINER_READY, trainer="t0"),
        make_event(2, EventKind.GENERATION, generation=1, trainers=["t0", "t1"]),
        make_event(3, EventKind.STATE, state="running"),
    ]
    assert (await attempt.uplink(events=events)).status_code == 200
    assert (await attempt.uplink(rows=[make_row(0)])).status_code == 200


async def test_a_jobs_trace_survives_a_restart_before_its_first_step(
    routes: FastAPI, settings: Settings, receiver: Receiver
) -> None:
    secret = {"env": {"HIDDEN": "s3cret"}, "config": {"lr": "s3cret"}, "name": "my job"}
    async with served(routes, settings) as (service, client):
        job = await submit(client, ("traceparent", TRACEPARENT), **secret)
        attempt = await start_attempt(service, client, job)
    async with served(routes, settings) as (_, client):
        attempt.client = client
        assert (await attempt.claim()).status_code == 200
        assert receiver.requests == [], "nothing before the first step"
        await first_step(attempt)
        await receiver.until(requests=1)
        spans = receiver.spans()
    assert [span.name for span in spans] == ["job", "submit", "queued", "start", *PHASES[1:]]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert spans[0].parent_span_id.hex() == PARENT
    by_id = {span.span_id: span for span in spans}
    assert [by_id[s.parent_span_id].name for s in spans[1:]] == ["job", "job", "job", *["start"] * 4]
    assert all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    told = {a.key: a.value.string_value or a.value.int_value for a in spans[0].attributes}
    assert told.pop("surefoot.job.state") in ("starting", "running")
    assert told == {
        "surefoot.job.id": job,
        "surefoot.job.name": "my job",
        "surefoot.job.entrypoint": "train:train",
        "surefoot.job.trainers": 2,
    }
    assert b"s3cret" not in receiver.requests[0].SerializeToString()
    assert attempt.token.encode() not in receiver.requests[0].SerializeToString()
    assert receiver.headers[0]["api-key"] == "k3y"
    assert {a.key: a.value.string_value for a in receiver.requests[0].resource_spans[0].resource.attributes}[
        "service.name"
    ] == "surefoot"


async def test_spans_are_exported_once_and_made_again_with_the_same_ids(
    routes: FastAPI, settings: Settings, receiver: Receiver
) -> None:
    async with served(routes, settings) as (service, client):
        job = await submit(client)
        attempt = await start_attempt(service, client, job)
        await attempt.claim()
        before = await service.database.read(traces.spans, job, service.now())
        await first_step(attempt)
        await receiver.until(requests=1)
        await attempt.uplink(rows=[make_row(1)])
        for n in (
            2,
            3,
        ):  # when the third has come, the second is done with, and there was a look after the first job's second step
            other = await submit(client)
            await client.post(f"/v1/jobs/{other}/cancel")
            await receiver.until(requests=n)
        assert {one.job for one in await service.database.read(traces.due, 0, 10)} <= {other}
    first, second = receiver.spans(0), receiver.spans(1)
    assert [span.name for span in second] == ["job", "submit", "queued"]
    assert second[0].trace_id != first[0].trace_id
    assert first[0].parent_span_id == b""
    made = {span.span_id for span in before}
    assert made >= {int.from_bytes(span.span_id, "big") for span in first if span.name not in PHASES[3:]}
    assert len(receiver.requests) == 3


async def test_a_collector_that_is_away_is_told_later(routes: FastAPI, settings: Settings, receiver: Receiver) -> None:
    receiver.refuse = 400
    async with served(routes, settings) as (service, client):
        job = await submit(client)
        await client.post(f"/v1/jobs/{job}/cancel")
        await receiver.until(refused=2)
        assert len(await service.database.read(traces.due, 0, 10)) == 1
        receiver.refuse = 0
        await receiver.until(requests=1)
    assert receiver.spans()[0].name == "job"


@pytest.mark.parametrize(
    "headers",
    [[("traceparent", "nonsense")], [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]],
)
async def test_what_is_not_one_good_header_begins_a_trace(
    routes: FastAPI, settings: Settings, receiver: Receiver, headers: list[tuple[str, str]]
) -> None:
    async with served(routes, settings) as (_, client):
        job = await submit(client, *headers)
        await client.post(f"/v1/jobs/{job}/cancel")
        await receiver.until(requests=1)
    assert int(receiver.spans()[0].trace_id.hex(), 16) == context_of(job, None).trace_id


async def test_what_the_caller_does_not_sample_is_not_exported(
    routes: FastAPI, settings: Settings, receiver: Receiver
) -> None:
    async with served(routes, settings) as (service, client):
        job = await submit(client, ("traceparent", f"00-{TRACE}-{PARENT}-00"))
        await client.post(f"/v1/jobs/{job}/cancel")
        assert await service.database.read(traces.due, 0, 10) == ()


async def test_without_an_endpoint_nothing_is_noted(client: httpx.AsyncClient, service: Service) -> None:
    assert service.exporter is None
    job = await submit(client, ("traceparent", TRACEPARENT))
    found = await service.database.read(lambda session: session.scalar(select(JobRow).where(JobRow.id == job)))
    assert found is not None
    assert (found.traceparent, found.asked_at) == (None, None)


_UNSET = """
import asyncio, sys
from surefoot_service.rest.app import create_app, serving
from surefoot_service.settings import Settings
async def main():
    settings = Settings(data=sys.argv[1])
    async with serving(create_app(settings), settings):
        pass
asyncio.run(main())
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto"))])
"""


def test_without_an_endpoint_opentelemetry_is_not_imported(tmp_path: Path, tables: Path) -> None:
    # its bare API is: FastAPI imports that where it finds it
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "surefoot.db").write_bytes(tables.read_bytes())
    done = subprocess.run([sys.executable, "-c", _UNSET, str(tmp_path / "data")], capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


# ---- what the environment says


@pytest.fixture
def no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.exporter.otlp"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
async def test_a_missing_extra_is_refused_at_the_start(
    routes: FastAPI, settings: Settings, name: str, no_opentelemetry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:4318")
    with pytest.raises(UserError, match=r"surefoot\[otel\]") as told:
        async with serving(routes, settings):
            pass
    assert name in str(told.value)


def test_up_says_so_in_a_sentence(tmp_path: Path, no_opentelemetry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(UserError, match=r"surefoot\[otel\]"):
        up(data=tmp_path / "data", port=0, ray_address="http://127.0.0.1:1")
    assert not (tmp_path / "data").exists()


def test_another_protocol_is_refused() -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(UserError, match="4318"):
        open_exporter(env)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_traces_where_none_are_asked_for(env: dict[str, str]) -> None:
    assert open_exporter(env) is None
