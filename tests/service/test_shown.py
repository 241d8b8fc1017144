"""What is asked for most often is answered by a shorter way: to the same answer, whatever is in the store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from surefoot.spec import JobSpec, JobState
from surefoot.views import JobView
from surefoot_service.parts import Service
from surefoot_service.store import jobs, shown
from surefoot_service.store.tables import AttemptRow, Base, JobRow

from .helpers import start_attempt

Text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
Times = st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
Number = st.integers(0, 2**53)
Row = st.fixed_dictionaries(
    {
        "state": st.sampled_from(list(JobState)),
        "reason": Text,
        "created_at": Times.filter(bool),
        "started_at": Times,
        "ended_at": Times,
        "trainers": st.integers(0, 9),
        "wanted_trainers": st.integers(0, 9),
        "generation": Number,
        "steps_done": Number,
        "num_steps": st.none() | Number,
        "digest": st.none() | Text,
        "traceback": st.none() | Text,
        "checkpoint": st.none() | Text,
        "checkpoint_step": st.none() | Number,
        "model": st.none() | Text,
    }
)
Config = st.dictionaries(Text, st.none() | st.booleans() | st.integers(-(2**60), 2**60) | Text, max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(Row, Config, st.integers(0, 3)), min_size=1, max_size=4))
def test_the_short_way_gives_what_the_long_one_gives(rows: list[tuple[dict[str, Any], dict[str, Any], int]]) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for n, (row, config, attempts) in enumerate(rows):
            spec = JobSpec(entrypoint="a:b", package="0" * 64, batch_size=8, config=config)
            session.add(JobRow(id=f"j{n}", spec=spec.model_dump_json(), **row))
            session.flush()
            for k in range(1, attempts + 1):
                at = datetime(2026, 1, 1, tzinfo=UTC)
                session.add(
                    AttemptRow(id=f"j{n}-{k}", job=f"j{n}", n=k, created_at=at, claim_hash="", submission_id="")
                )
        session.flush()
        session.expire_all()
        for n in range(len(rows)):
            long = jobs.see(session, f"j{n}")
            short = JobView.model_validate_json(shown.job_json(session, f"j{n}"))
            assert short == long
            assert json.loads(shown.job_json(session, f"j{n}")) == long.model_dump(mode="json")
            assert short.attempts == rows[n][2]
        for state in (None, rows[0][0]["state"]):
            for before in (0, len(rows) - 1, len(rows)):
                newest = f"j{before}" if before < len(rows) else None
                found = json.loads(shown.jobs_json(session, state=state, limit=3, before=newest))["jobs"]
                older = [jobs.see(session, f"j{n}") for n in reversed(range(before))]
                expected = [view for view in older if state in (None, view.state)][:3]
                assert found == [view.model_dump(mode="json") for view in expected]
    engine.dispose()


async def test_reads_show_what_was_written_last(
    client: httpx.AsyncClient, service: Service, anonymous: httpx.AsyncClient, job: str
) -> None:
    """Specs are remembered by their text alone: a resize, an attempt or another spec is seen at once."""
    before = (await client.get(f"/v1/jobs/{job}")).json()
    assert (before["attempt"], before["attempts"], before["wanted_trainers"]) == (None, 0, 2)
    await client.post(f"/v1/jobs/{job}/resize", json={"trainers": 3})
    attempt = await start_attempt(service, anonymous, job)

    def change(session: Session) -> None:
        row = jobs.load(session, job)
        row.spec = JobSpec.model_validate_json(row.spec).model_copy(update={"name": "another"}).model_dump_json()

    await service.database.write(change)
    after = (await client.get(f"/v1/jobs/{job}")).json()
    assert (after["attempt"], after["attempts"], after["wanted_trainers"]) == (attempt.name, 1, 3)
    assert after["spec"] == before["spec"] | {"name": "another"}
    assert (await client.get("/v1/jobs")).json()["jobs"] == [after]


@pytest.mark.parametrize("path", ["/v1/jobs/nobody", "/v1/jobs?before=nobody"])
async def test_an_unknown_job_is_told(client: httpx.AsyncClient, job: str, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
