"""What Prometheus reads: who may, what is in it, that it stays small, and that rules and dashboard name nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families as parse

from surefoot.events import EventKind
from surefoot.system import SystemPoint, SystemSample
from surefoot_service.metrics.instruments import Instruments, PassClock
from surefoot_service.metrics.snapshot import JobFacts, Snapshot, families
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store.database import StoreAwayError

from .helpers import Attempt, make_event, make_row

ROOT = Path(__file__).parents[2]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"surefoot_{name}", frozenset(labels.items())))


async def test_a_job_is_told_with_what_it_has_told(client: httpx.AsyncClient, attempt: Attempt) -> None:
    events = [
        make_event(1, EventKind.STATE, state="running"),
        make_event(2, EventKind.GENERATION, generation=3, trainers=["t0", "t1"], num_steps=10),
        make_event(3, EventKind.TRAINER_LOST, trainer="t2", reason="it died"),
        make_event(4, EventKind.RECOVERED, seconds=0.5, sub_tasks_again=2),
        make_event(5, EventKind.CHECKPOINT_FAILED, step=1, reason="disk full"),
    ]
    told = await attempt.uplink(events=events, rows=[make_row(0), make_row(1)])
    assert told.status_code == 200, told.text
    assert (await attempt.uplink(events=events)).status_code == 200  # again: counted once
    found = await scrape(client)
    job = attempt.job
    assert of(found, "job_trainers", job=job) == of(found, "job_trainers_wanted", job=job) == 2
    assert of(found, "job_steps_total", job=job) == 2
    assert of(found, "job_samples_total", job=job) == 128
    assert of(found, "job_samples_per_second", job=job) == 128
    assert of(found, "job_steps_planned", job=job) == 10
    assert of(found, "job_state", job=job, state="running") == 1
    assert of(found, "job_recoveries_total", job=job) == of(found, "recovery_seconds_count") == 1
    assert of(found, "job_recovery_seconds_total", job=job) == of(found, "recovery_seconds_sum") == 0.5
    assert of(found, "trainers_lost_total") == of(found, "checkpoint_failures_total") == 1
    assert of(found, "job_sub_tasks_again_total", job=job) == 2
    assert of(found, "events_total", kind="recovered") == 1
    assert of(found, "jobs", state="running") == 1
    assert of(found, "queue_length") == 0
    assert of(found, "check_ok", check="database") == 1


async def test_a_job_that_has_ended_has_no_series(client: httpx.AsyncClient, job: str) -> None:
    assert of(await scrape(client), "job_steps_total", job=job) == 0
    assert of(await scrape(client), "queue_length") == 1
    await client.post(f"/v1/jobs/{job}/cancel")
    found = await scrape(client)
    assert not [labels for _, labels in found if ("job", job) in labels]
    assert of(found, "jobs", state="cancelled") == 1


@pytest.mark.parametrize("settings_more", [{"metrics_jobs": 1}], indirect=True)
async def test_series_are_bounded_however_many_jobs_there_are(client: httpx.AsyncClient, spec: dict[str, str]) -> None:
    jobs = [(await client.post("/v1/jobs", json=spec)).json()["id"] for _ in range(3)]
    found = await scrape(client)
    assert {dict(labels)["job"] for _, labels in found if "job" in dict(labels)} == {jobs[-1]}
    assert of(found, "jobs_unlisted") == 2


async def test_a_strangers_path_is_no_label(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    for n in range(5):
        await anonymous.get(f"/wp-admin/{n}")
        await client.get(f"/v1/jobs/222222222{n + 2}")
    await anonymous.request("BREW", "/v1/jobs")
    routes = {labels["route"] for _, found in await scrape(client) if "route" in (labels := dict(found))}
    methods = {labels["method"] for _, found in await scrape(client) if "route" in (labels := dict(found))}
    assert routes <= {"none", "/v1/jobs/{job}", "/v1/jobs", "/metrics", "/v1/packages"}
    assert "/v1/jobs/{job}" in routes
    assert methods <= {"GET", "POST", "other"}


@pytest.mark.parametrize("settings_more", [{"metrics_token": "m" * 40}], indirect=True)
async def test_its_own_token_opens_it_and_nothing_else(anonymous: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    mine = {"Authorization": f"Bearer {'m' * 40}"}
    assert (await anonymous.get("/metrics")).status_code == 401
    assert (await anonymous.get("/metrics", headers={"Authorization": "Bearer x"})).status_code == 401
    assert (await anonymous.get("/metrics", headers=mine)).status_code == 200
    assert (await client.get("/metrics")).status_code == 200
    assert (await anonymous.get("/v1/jobs", headers=mine)).status_code == 401


async def test_without_that_setting_no_empty_token_opens_it(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.get("/metrics", headers={"Authorization": "Bearer "})).status_code == 401


async def test_a_port_of_its_own_serves_it_without_a_token(tmp_path: Path) -> None:
    import socket

    from surefoot_service.rest.app import create_app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(Settings(data=tmp_path / "data", metrics_port=port))
    async with app.router.lifespan_context(app), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as scraper:
        answer = await scraper.get("/metrics")
        assert answer.status_code == 200
        assert "surefoot_jobs{" in answer.text
        assert (await scraper.get("/v1/jobs")).status_code == 404


async def test_openmetrics_where_it_is_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_a_database_that_is_away_is_told(
    app: FastAPI, service: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreAwayError("away")

    monkeypatch.setattr(type(service.database), "read", away)
    assert of(await scrape(client), "reconciler_running") == 0


def test_the_reconcilers_lag() -> None:
    clock = PassClock()
    assert clock.lag_s(100.0) == 0.0
    clock.due = 90.0
    assert clock.lag_s(100.0) == 10.0
    clock.began = 97.0
    assert clock.lag_s(100.0) == 3.0
    instruments = Instruments()
    with instruments.one_pass():
        assert instruments.clock.began is not None
    assert instruments.rests(None) is None
    assert instruments.clock.due is None


def test_counts_of_jobs_are_bounded() -> None:
    instruments = Instruments()
    for n in range(5000):
        instruments.took_in(f"job{n}", [], 1)
        instruments._of(f"job{n}")
    assert len(instruments.jobs) == 1000


# ---- what the chart says of them


def _there() -> set[str]:
    """Every name that /metrics can have."""
    point = SystemPoint.model_validate(
        dict.fromkeys(SystemSample.model_fields, 1) | {"trainer": "t0", "at": "2026-01-01T00:00:00Z"}
    )
    job = JobFacts(id="j", name="n", state="running", trainers=1, wanted_trainers=1, generation=1, attempts=1, steps_done=1,
                   batch_size=8, num_steps=2, checkpoint_step=1, step_s=1.0, cost=1.0, system=(point,))  # fmt: skip
    now = Snapshot(version="1", jobs_by_state={}, queue_oldest_s=0.0, jobs=[job], unlisted=0, checks={"storage": True}, ray=True,
                   reconciler_running=True, reconciler_lag_s=0.0)  # fmt: skip
    instruments = Instruments()
    instruments.requests.labels("GET", "/", "2xx").observe(1)
    instruments.events.labels("state").inc()
    return {s.name for family in (*families(now), *instruments.registry.collect()) for s in family.samples}


def test_every_metric_that_rules_and_dashboard_name_is_there() -> None:
    there = _there()
    for file in ("templates/prometheusrule.yaml", "files/dashboard.json"):
        named = set(re.findall(r"\bsurefoot_[a-z_]+\b", (ROOT / "helm" / "surefoot" / file).read_text()))
        assert len(named) > 5, file
        assert named - there == set(), file


def test_the_dashboard_is_one() -> None:
    board = json.loads((ROOT / "helm" / "surefoot" / "files" / "dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 10
    for panel in panels:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_page_lists_every_metric() -> None:
    said = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _there() if not name.endswith("_created")}
    assert [name for name in sorted(bare) if f"`{name}`" not in said] == []
