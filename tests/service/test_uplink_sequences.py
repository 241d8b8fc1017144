"""Whatever an attempt says, in whatever order: its job can be read, listed, followed, cancelled and ended, and the loop passes."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.events import EventKind
from surefoot.spec import JobState
from surefoot.views import EventPage, JobList, JobView, LedgerPage
from surefoot_service.cluster.jobs_api import RayJobs
from surefoot_service.parts import Service
from surefoot_service.policy.attempts import Patience
from surefoot_service.reconciler.launch import Launch
from surefoot_service.reconciler.loop import Reconciler
from surefoot_service.rest import stream
from surefoot_service.rest.app import create_app
from surefoot_service.settings import Settings
from surefoot_service.store import attempts, jobs, overview

from .fake_ray import TOKEN, FakeRay
from .helpers import JSON, TRAIN, ZIP, Attempt, make_row, make_zip

MAX_PASSES = 12


@dataclass
class Plane:
    """One control plane for all examples, each with a job of its own."""

    runner: asyncio.Runner
    service: Service
    user: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    spec: dict[str, Any]
    fake: FakeRay
    launch: Launch


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner.run(_open(runner, stack, Settings(data=tmp_path_factory.mktemp("plane") / "data")))
        runner.run(stack.aclose())


async def _open(runner: asyncio.Runner, stack: AsyncExitStack, chosen: Settings) -> Plane:
    app = create_app(chosen)
    await stack.enter_async_context(app.router.lifespan_context(app))
    token = (chosen.data / "token").read_text().strip()

    async def client(target: Any, url: str, bearer: str | None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        transport = httpx.ASGITransport(target, raise_app_exceptions=False)
        return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=url, headers=headers))

    user, anonymous = await client(app, "http://surefoot", token), await client(app, "http://surefoot", None)
    uploaded = await user.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)
    spec = {"entrypoint": "train:train", "package": uploaded.json()["package"], "batch_size": 64, "trainers": 2}
    fake = FakeRay()
    ray = RayJobs(await client(fake.app(), "http://ray", TOKEN))
    service: Service = app.state.service
    launch = Launch(service=service, ray=ray, python="python")
    return Plane(runner, service, user, anonymous, spec, fake, launch)


# ---- what is said

Call = tuple[str, Any]

STATES = [state.value for state in JobState] + ["dancing", "", None, 7]
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53, 2**63, -(2**70), 10**400, math.nan, math.inf, -math.inf, 1e308]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\0", "\ud800", "x" * 3000, "file:///etc/passwd", "\x1b]52;c;x\x07"]),
    st.sampled_from(STATES),
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


JSON_VALUE = st.one_of(
    STRANGE,
    st.lists(STRANGE, max_size=3),
    st.dictionaries(st.text(max_size=5), STRANGE, max_size=3),
    st.just(nested(110)),
)
FIELDS = [
    "state",
    "reason",
    "generation",
    "trainers",
    "step",
    "num_steps",
    "url",
    "bytes",
    "seconds",
    "stall_s",
    "model",
    "first_step",
    "digest",
    "steps",
    "kind",
    "traceback",
    "message",
    "trainer",
    "node",
    "pid",
    "requirements",
    "joined",
    "lost",
    "left",
    "sub_tasks_again",
    "at",
    "of_a_newer_version",
]
KINDS = [*map(str, EventKind), "of_a_newer_version"]
SOURCES = ["supervisor-1", "supervisor-2", "trainer-3", "launcher", "service", "", "x" * 200, "other-1/supervisor-1"]
TIMES = ["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00", 1e12, None]

forged = st.fixed_dictionaries(
    {
        "source": st.sampled_from(SOURCES),
        "n": st.one_of(st.integers(1, 6), st.sampled_from([0, -1, 2**53, 2**53 + 1, 2**63, 10**30, "x"])),
        "at": st.sampled_from(TIMES),
        "kind": st.sampled_from([*KINDS, "", "no such kind", 5, ["state"]]),
        "data": st.one_of(JSON_VALUE, st.dictionaries(st.sampled_from(FIELDS), JSON_VALUE, max_size=6)),
    }
)
# what any version would send, so that the strange things happen to jobs that are alive
plausible = st.fixed_dictionaries(
    {
        "source": st.sampled_from(["supervisor-1", "supervisor-2"]),
        "n": st.integers(1, 8),
        "at": st.just(TIMES[0]),
        "kind": st.sampled_from(KINDS),
        "data": st.fixed_dictionaries(
            {"state": st.sampled_from(STATES[:9]), "url": st.sampled_from(["/c/1", "s3://b/" + "x" * 1990]), "digest": st.just("d" * 32)},
            optional={
                "generation": st.integers(0, 2**53),
                "trainers": st.one_of(st.integers(0, 10**6), st.lists(st.text(max_size=5), max_size=3)),
                "num_steps": st.sampled_from([None, 0, 3, 2**53]),
                "first_step": st.sampled_from([0, 2, 2**53]),
                "steps": st.integers(0, 3),
                "seconds": st.floats(0, 10),
                "reason": st.text(max_size=20),
                "of_a_newer_version": JSON_VALUE,
            },
        ),
    }
)  # fmt: skip
row = st.builds(
    lambda step, digest, more: {**json.loads(make_row(step, digest * 32).model_dump_json()), **more},
    st.sampled_from([0, 1, 2, 3, 100_001, 2**53]),
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from(["of_a_newer_version", "circumstances", "result"]), JSON_VALUE, max_size=1),
)
one_batch = st.fixed_dictionaries(
    {}, optional={"events": st.lists(st.one_of(plausible, forged), max_size=4), "rows": st.lists(row, max_size=4)}
)
call = st.one_of(
    st.tuples(st.just("say"), one_batch),
    st.tuples(st.just("say"), st.builds(lambda batch: batch | {"of_a_newer_version": 1}, one_batch)),
    st.tuples(st.just("again"), st.none()),
    st.tuples(st.just("as another"), one_batch),
    st.tuples(st.sampled_from(["fence", "pause", "resume", "resize", "poll", "pass", "next attempt"]), st.none()),
)


# ---- what comes of it


@dataclass
class Story:
    """One job, and who speaks for it."""

    plane: Plane
    job: str
    attempt: Attempt
    said: list[dict[str, Any]] = field(default_factory=list)

    async def do(self, what: str, value: Any) -> None:
        user = self.plane.user
        match what:
            case "say":
                self.said.append(value)
                await self.say(value)
            case "again":
                for batch in self.said[-2:]:
                    await self.say(batch)
            case "as another":
                right, self.attempt.token = self.attempt.token, "not-this"
                assert await self.say(value) in (401, 422)
                self.attempt.token = right
            case "fence":
                await self.plane.service.database.write(attempts.fence, self.attempt.name, self.plane.service.now())
                assert await self.say({"events": []}) == 410
            case "pause" | "resume":
                assert (await user.post(f"/v1/jobs/{self.job}/{what}")).status_code in (200, 409)
            case "resize":
                answer = await user.post(f"/v1/jobs/{self.job}/resize", json={"trainers": 3})
                assert answer.status_code in (200, 409)
            case "poll":
                assert (await self.attempt.commands()).status_code in (200, 410)
            case "pass":
                await self.reconcile()
            case "next attempt":
                await self.next_attempt()

    async def say(self, batch: dict[str, Any]) -> int:
        url = f"/v1/attempts/{self.attempt.name}/uplink"
        answer = await self.attempt.client.post(url, content=json.dumps(batch), headers=self.attempt.headers | JSON)
        assert answer.status_code in (200, 400, 401, 410, 422), (answer.status_code, answer.text[:500])
        return answer.status_code

    async def next_attempt(self) -> None:
        """Start the job, if it is queued: for the first time, or after its attempt was lost."""
        service = self.plane.service
        made = await service.database.write(
            attempts.make, self.job, keys=service.keys, session_name="session_1", reason="", now=service.now()
        )
        if made is not None:
            self.attempt = Attempt(self.plane.anonymous, self.job, made.id, service.keys.claim_code(made.id))
            assert (await self.attempt.claim()).status_code in (200, 410)

    async def reconcile(self) -> None:
        """One pass of the loop, that swallows nothing."""
        plane = self.plane
        loop = Reconciler(plane.service, plane.launch, Patience(cancel=timedelta(0)))
        await loop._mend(await plane.service.database.read(overview.look, plane.service.now()))
        for name, submission in plane.fake.submissions.items():
            if submission.status not in ("SUCCEEDED", "FAILED"):
                plane.fake.end(name, "SUCCEEDED")

    async def read(self) -> JobView:
        """Everything that can be read of the job, as an SDK reads it."""
        user = self.plane.user
        listed = await user.get("/v1/jobs", params={"limit": 3})
        assert self.job in [view.id for view in JobList.model_validate_json(listed.content).jobs]
        EventPage.model_validate_json((await user.get(f"/v1/jobs/{self.job}/events")).content)
        LedgerPage.model_validate_json((await user.get(f"/v1/jobs/{self.job}/ledger")).content)
        assert (await user.get(f"/v1/jobs/{self.job}/checkpoints")).status_code == 200
        async for message in stream.follow(self.plane.service, self.job, stream.Cursor()):
            if message.startswith(b"event: job"):
                break
        else:
            raise AssertionError("the stream ended without a word of the job")
        seen = await user.get(f"/v1/jobs/{self.job}")
        assert seen.status_code == 200, seen.text
        return JobView.model_validate_json(seen.content)

    async def end(self) -> None:
        """Cancelled, it comes to its end within a few passes."""
        assert (await self.plane.user.post(f"/v1/jobs/{self.job}/cancel")).status_code == 200
        for _ in range(MAX_PASSES):
            if (await self.plane.service.database.read(jobs.see, self.job)).ended:
                break
            await self.reconcile()
        assert (await self.read()).ended


async def tell(plane: Plane, calls: list[Call]) -> None:
    job = (await plane.user.post("/v1/jobs", json=plane.spec)).json()["id"]
    story = Story(plane, job, Attempt(plane.anonymous, job, "", ""))
    await story.next_attempt()
    for what, value in calls:
        await story.do(what, value)
    await story.read()
    await story.reconcile()
    await story.end()
    await story.reconcile()


@given(st.lists(call, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_is_said_the_job_can_be_read_cancelled_and_ended(plane: Plane, calls: list[Call]) -> None:
    plane.runner.run(tell(plane, calls))
