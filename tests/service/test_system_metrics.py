"""What trainers use, as the control plane keeps it: the newest of each, bounded whatever is told, and shown while they live."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from surefoot.system import SystemMetrics, SystemSample
from surefoot_service.parts import Service
from surefoot_service.store import system
from surefoot_service.store.tables import SystemSampleRow

from .helpers import JSON, Attempt, batch, make_row

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def sample(trainer: str = "t0", **told: float) -> SystemSample:
    return SystemSample(trainer=trainer, **told)


async def shown(client: httpx.AsyncClient, job: str, **asked: str) -> SystemMetrics:
    answer = await client.get(f"/v1/jobs/{job}/system", params=asked)
    assert answer.status_code == 200, answer.text
    return SystemMetrics.model_validate_json(answer.content)


async def test_the_newest_of_each_trainer_is_shown(client: httpx.AsyncClient, attempt: Attempt) -> None:
    await attempt.uplink(system=[sample("t0", cpus=1.0), sample("t1", cpus=2.0, memory_bytes=3e9)])
    told = await attempt.uplink(system=[sample("t0", cpus=1.5, wait_s=0.25)], rows=[make_row(0)])
    assert told.status_code == 200, told.text
    found = {point.trainer: point for point in (await shown(client, attempt.job)).samples}
    assert (found["t0"].cpus, found["t0"].wait_s, found["t0"].gpu_percent) == (1.5, 0.25, None)
    assert found["t1"].memory_bytes == 3e9
    assert all(point.live for point in found.values())


async def test_what_is_told_is_a_sample_or_refused(client: httpx.AsyncClient, attempt: Attempt) -> None:
    headers = attempt.headers | JSON
    for wrong in (
        '{"trainer": ""}',
        '{"cpus": 1}',
        '{"trainer": "t0", "cpus": -1}',
        '{"trainer": "t0", "cpus": "NaN"}',
    ):
        answer = await client.post(
            f"/v1/attempts/{attempt.name}/uplink", content=f'{{"system": [{wrong}]}}', headers=headers
        )
        assert answer.status_code == 422, wrong
    newer = '{"system": [{"trainer": "t0", "cpus": 1, "disk": 7}]}'
    assert (await client.post(f"/v1/attempts/{attempt.name}/uplink", content=newer, headers=headers)).status_code == 200
    assert [point.trainer for point in (await shown(client, attempt.job)).samples] == ["t0"]


async def test_one_a_minute_is_kept_for_two_hours(service: Service, attempt: Attempt) -> None:
    def fill(session: object) -> None:
        for n in range(400):  # every half a minute, for 200 minutes
            system.take(session, attempt.job, [sample(cpus=n)], NOON + timedelta(seconds=30 * n))  # type: ignore[arg-type]

    await service.database.write(fill)
    end = NOON + timedelta(seconds=30 * 399)
    found = (await service.database.read(system.look, attempt.job, history=True, now=end)).samples
    assert [point.cpus for point in found] == list(range(161, 400, 2)), "the newest of each of the last 120 minutes"
    assert [
        point.cpus for point in (await service.database.read(system.look, attempt.job, history=False, now=end)).samples
    ] == [399]


async def test_however_many_names_are_told_the_rows_are_bounded(
    service: Service, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "MAX_ROWS", 100)

    def flood(session: Session) -> None:
        for n in range(50):
            system.take(
                session, attempt.job, [sample(f"x{n}-{k}") for k in range(30)], NOON + timedelta(seconds=20 * n)
            )

    await service.database.write(flood)
    num_rows = await service.database.read(
        lambda session: session.scalar(select(func.count()).select_from(SystemSampleRow))
    )
    assert num_rows is not None
    assert 0 < num_rows <= 100


async def test_a_row_that_cannot_be_read_hides_no_other(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    await attempt.uplink(system=[sample("t0"), sample("t1")])
    broken = update(SystemSampleRow).where(SystemSampleRow.trainer == "t0").values(sample="[[")
    await service.database.write(lambda session: session.execute(broken))
    assert [point.trainer for point in (await shown(client, attempt.job)).samples] == ["t1"]


async def test_prometheus_has_series_of_trainers_that_live_alone(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    def take(session: object) -> None:
        now = service.now()
        system.take(session, attempt.job, [sample("gone", cpus=1.0)], now - timedelta(seconds=50))  # type: ignore[arg-type]
        system.take(session, attempt.job, [sample("t0", cpus=1.5, wait_s=0.25, sent_bytes_per_s=10)], now)  # type: ignore[arg-type]

    await service.database.write(take)
    text = (await client.get("/metrics")).text
    found = {
        (s.name, s.labels["trainer"]): s.value
        for family in parse(text)
        for s in family.samples
        if s.name.startswith("surefoot_trainer_")
    }
    assert found == {
        ("surefoot_trainer_cpus", "t0"): 1.5,
        ("surefoot_trainer_wait_seconds", "t0"): 0.25,
        ("surefoot_trainer_sent_bytes_per_second", "t0"): 10.0,
    }, "nothing is told of what was not measured, and nothing of who is gone"


async def test_a_job_that_is_deleted_takes_its_samples_along(
    service: Service, client: httpx.AsyncClient, attempt: Attempt
) -> None:
    from surefoot_service.store.removal import history_tables

    assert SystemSampleRow.__table__ in history_tables()
    assert (await client.get("/v1/jobs/nosuchjob1/system")).status_code == 404
    assert batch() == '{"events":[],"rows":[]}', "an older control plane's tests saw no other field"
