"""Checkpoints as they are told, restores from another job's, and the final model as it is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy.orm import Session

from surefoot.events import EventKind
from surefoot.views import Claimed
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store import jobs

from .helpers import Attempt, make_event, make_row, start_attempt, until


def place_of(settings: Settings, attempt: Attempt) -> Path:
    """Where the attempt's job has its checkpoints."""
    return Path(settings.checkpoint_place) / attempt.job


def saved(n: int, step: int, url: str = "", **data: Any) -> Any:
    return make_event(n, EventKind.CHECKPOINT, url=url or f"/c/step-{step}", step=step, **data)


async def test_checkpoints_as_they_were_told(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, settings: Settings
) -> None:
    told = {"bytes": 10, "seconds": 0.5, "stall_s": 0.01, "reason": "every 5 steps"}
    place = place_of(settings, attempt)
    five, ten = (str(place / name) for name in ("step-5", "step-10"))
    events = [saved(1, 5, five, **told), saved(2, 10, ten)]
    await attempt.uplink(events=events)
    found = (await client.get(f"/v1/jobs/{attempt.job}/checkpoints")).json()["checkpoints"]
    assert [(c["url"], c["step"]) for c in found] == [(ten, 10), (five, 5)]
    assert {name: found[1][name] for name in told} == told
    newest = (await client.get(f"/v1/jobs/{attempt.job}/checkpoints", params={"limit": 2})).json()["checkpoints"]
    assert [c["step"] for c in newest] == [10, 5]
    view = await until(service, attempt.job, lambda _: True)
    assert (view.checkpoint, view.checkpoint_step, view.model, view.attempts) == (ten, 10, None, 1)


async def test_the_last_checkpoint_counts_although_the_job_has_ended(
    service: Service, attempt: Attempt, settings: Settings
) -> None:
    end = [make_event(n, EventKind.STATE, state=s) for n, s in enumerate(("running", "succeeded"), 1)]
    seven, model = (str(place_of(settings, attempt) / name) for name in ("step-7", "model"))
    await attempt.uplink(events=[*end, saved(3, 7, seven, model=model)])
    view = await until(service, attempt.job, lambda _: True)
    assert (view.checkpoint_step, view.model) == (7, model)


@pytest.mark.parametrize(
    "url", ["/c/step-7", "reference://::file:///x", "http://169.254.169.254/x", "OWN/../x", "OWN2/x"]
)
async def test_what_is_told_to_lie_elsewhere_is_not_taken_and_that_is_told_once(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, settings: Settings, url: str
) -> None:
    url = url.replace("OWN", str(place_of(settings, attempt)))
    good = str(place_of(settings, attempt) / "step-6")
    await attempt.uplink(events=[saved(1, 6, good), saved(2, 7, url, model=url), saved(3, 8, url)])
    finished = make_event(4, EventKind.FINISHED, steps=8, digest="d" * 32, model=url)
    assert (await attempt.uplink(events=[finished])).status_code == 200
    view = await until(service, attempt.job, lambda _: True)
    assert (view.checkpoint, view.checkpoint_step, view.model, view.digest) == (good, 6, None, "d" * 32)
    events = (await client.get(f"/v1/jobs/{attempt.job}/events")).json()["events"]
    told = [e["data"]["message"] for e in events if e["kind"] == "warning" and e["source"] == "service"]
    assert [t.partition(" was told to lie elsewhere")[0] for t in told] == ["a checkpoint", "a final model"]


@pytest.fixture
def moved(service: Service, settings: Settings) -> Any:
    """Have whoever runs the service name another place by default."""

    def move(place: Path) -> None:
        object.__setattr__(service, "settings", settings.model_copy(update={"checkpoints": str(place)}))

    return move


async def test_another_default_place_is_for_other_jobs(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, spec: dict[str, Any], settings: Settings,
    tmp_path: Path, moved: Any,
) -> None:  # fmt: skip
    own = place_of(settings, attempt)
    own.mkdir(parents=True)
    (own / "net.safetensors").write_bytes(b"bytes")
    five = str(own / "step-5")
    await attempt.uplink(events=[saved(1, 5, five, model=str(own))])
    moved(tmp_path / "another")
    assert (await client.get(f"/v1/jobs/{attempt.job}/model")).content == b"bytes"
    assert [c["url"] for c in (await client.get(f"/v1/jobs/{attempt.job}/checkpoints")).json()["checkpoints"]] == [five]
    made = await client.post("/v1/jobs", json=spec | {"restore": attempt.job})
    assert made.json()["spec"]["restore"] == five
    other = await start_attempt(service, client, made.json()["id"])
    assert (await other.claim()).json()["checkpoints"] == str(tmp_path / "another" / other.job)


async def test_a_later_attempt_has_the_place_of_the_first(
    service: Service, attempt: Attempt, settings: Settings, tmp_path: Path, moved: Any
) -> None:
    moved(tmp_path / "another")

    def queue_again(session: Session) -> None:
        jobs.load(session, attempt.job).state = "queued"

    await service.database.write(queue_again)
    again = await start_attempt(service, attempt.client, attempt.job)
    assert (await again.claim()).json()["checkpoints"] == str(place_of(settings, attempt))


@pytest.mark.parametrize("spec_more", [{"checkpoint": {"url": "s3://bucket/runs/"}}])
async def test_a_job_has_a_folder_of_its_own_in_the_place_it_names(
    service: Service, anonymous: httpx.AsyncClient, job: str
) -> None:
    made = await start_attempt(service, anonymous, job)
    claimed = Claimed.model_validate((await made.claim()).json())
    assert (claimed.checkpoints, claimed.rows_below) == (f"s3://bucket/runs/{job}", 0)


# ---- restore


async def test_another_jobs_id_is_its_newest_checkpoint(
    client: httpx.AsyncClient, attempt: Attempt, spec: dict[str, Any], settings: Settings
) -> None:
    five, six = (str(place_of(settings, attempt) / name) for name in ("step-5", "step-6"))
    early = await client.post("/v1/jobs", json=spec | {"restore": attempt.job})
    assert (early.status_code, early.json()["errors"]) == (
        422,
        [{"field": "body.restore", "message": f"job {attempt.job} has no checkpoint yet"}],
    )
    await attempt.uplink(events=[saved(1, 5, five)])
    key = {"Idempotency-Key": "k"}
    made = await client.post("/v1/jobs", json=spec | {"restore": attempt.job}, headers=key)
    assert made.json()["spec"]["restore"] == five
    await attempt.uplink(events=[saved(2, 6, six)])
    again = await client.post("/v1/jobs", json=spec | {"restore": attempt.job}, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert again.json()["spec"]["restore"] == five


async def test_a_checkpoint_that_was_told_to_be_elsewhere_is_not_begun_from_by_the_jobs_name(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, spec: dict[str, Any]
) -> None:
    def told(session: Session, url: str) -> None:
        """As a version before this one has stored it."""
        jobs.load(session, attempt.job).checkpoint = url

    for url in ("/etc/step-5", "reference://::file:///x", "http://169.254.169.254/step-5"):
        await service.database.write(told, url)
        answer = await client.post("/v1/jobs", json=spec | {"restore": attempt.job})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body.restore")
        assert "not below its place" in answer.json()["detail"]


@pytest.mark.parametrize("spec_more", [{}, {"restore": "/other"}])
@pytest.mark.parametrize(
    "url", ["/elsewhere/step-40", "/other/../elsewhere", "reference://::file:///x", "/other2/step-40"]
)
async def test_no_attempt_says_where_its_job_began_but_below_what_was_submitted(
    service: Service, attempt: Attempt, spec_more: dict[str, Any], url: str
) -> None:
    """Later attempts begin there, and its ledger would begin where it likes."""
    await attempt.uplink(events=[make_event(1, EventKind.RESTORED, step=40, url=url, trainer="t0", first_step=40)])
    view = await until(service, attempt.job, lambda _: True)
    assert (view.spec.restore, view.steps_done) == (spec_more.get("restore"), 0)


async def test_restore_of_nothing(client: httpx.AsyncClient, spec: dict[str, Any]) -> None:
    answer = await client.post("/v1/jobs", json=spec | {"restore": "nosuchjob"})
    assert answer.status_code == 422
    assert "there is no job 'nosuchjob'" in answer.json()["detail"]
    for url in ("s3://bucket/runs/x", "/runs/x"):
        assert (await client.post("/v1/jobs", json=spec | {"restore": url})).json()["spec"]["restore"] == url


@pytest.mark.parametrize("spec_more", [{"restore": "/other"}])
@pytest.mark.parametrize("rows_first", [False, True])
async def test_a_ledger_that_begins_at_another_jobs_checkpoint_has_no_gap(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, rows_first: bool
) -> None:
    begun = make_event(1, EventKind.RESTORED, step=40, url="/other/step-40", trainer="t0", first_step=40)
    rows = [make_row(40), make_row(41)]
    if rows_first:
        assert (await attempt.uplink(rows=rows)).json()["rows_below"] == 0
    answer = await attempt.uplink(events=[begun], rows=rows)
    assert answer.json()["rows_below"] == 42
    view = await until(service, attempt.job, lambda _: True)
    assert view.steps_done == 42
    assert view.spec.restore == "/other/step-40", "a later attempt would begin from another one"
    ledger = (await client.get(f"/v1/jobs/{attempt.job}/ledger")).json()["rows"]
    assert [r["result"]["step"] for r in ledger] == [40, 41]


async def test_its_own_checkpoint_lets_no_row_be_missed(attempt: Attempt) -> None:
    restored = make_event(1, EventKind.RESTORED, step=2, url="/c/step-2", trainer="t0")
    assert (await attempt.uplink(events=[restored], rows=[make_row(2)])).json()["rows_below"] == 0
    assert (await attempt.uplink(rows=[make_row(0), make_row(1)])).json()["rows_below"] == 3


# ---- the model


async def finished(attempt: Attempt, model: str) -> str:
    await attempt.uplink(events=[saved(1, 5, model=model)])
    return f"/v1/jobs/{attempt.job}/model"


async def test_there_is_no_model_before_it_is_saved(client: httpx.AsyncClient, job: str) -> None:
    answer = await client.get(f"/v1/jobs/{job}/model")
    assert answer.status_code == 404
    assert "has saved no model yet" in answer.json()["detail"]


@pytest.fixture
def place(settings: Settings, attempt: Attempt) -> Path:
    made = place_of(settings, attempt) / "model"
    made.mkdir(parents=True)
    return made


async def test_the_model_is_streamed_as_it_is(client: httpx.AsyncClient, attempt: Attempt, place: Path) -> None:
    content = bytes(range(256)) * 10_000
    (place / "model.safetensors").write_bytes(content)
    (place / "README").write_text("no module")
    url = await finished(attempt, str(place))
    answer = await client.get(url)
    assert (answer.status_code, answer.content == content) == (200, True)
    assert answer.headers["content-disposition"] == f'attachment; filename="{attempt.job}-model.safetensors"'
    assert answer.headers["content-length"] == str(len(content))
    unknown = await client.get(url, params={"module": "../model"})
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "there is no module '../model'")


async def test_of_several_modules_one_is_named(client: httpx.AsyncClient, attempt: Attempt, place: Path) -> None:
    for name in ("ema", "model"):
        (place / f"{name}.safetensors").write_text(name)
    url = await finished(attempt, f"file://{place}")
    assert (await client.get(url, params={"module": "ema"})).text == "ema"
    answer = await client.get(url)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "the model has several modules, name one: ema, model",
    )


async def test_a_model_that_is_gone(client: httpx.AsyncClient, attempt: Attempt, place: Path) -> None:
    answer = await client.get(await finished(attempt, str(place / "gone")))
    assert answer.status_code == 409
    assert "is no longer there" in answer.json()["detail"]


class TestInAStore:
    """The place is a bucket's, here one in memory, which the settings allow."""

    @pytest.fixture
    def settings(self, tmp_path: Path, database_url: str | None) -> Settings:
        return Settings(
            data=tmp_path / "data",
            database_url=database_url,
            checkpoints="memory://runs",
            storage_protocols=("memory", "s3"),
        )

    async def test_a_model_that_is_one_file(self, client: httpx.AsyncClient, attempt: Attempt) -> None:
        fsspec.filesystem("memory").pipe(f"/runs/{attempt.job}/net.safetensors", b"bytes")
        url = await finished(attempt, f"memory://runs/{attempt.job}/net.safetensors")
        assert (await client.get(url)).content == b"bytes"
        assert (await client.get(url, params={"module": "net"})).content == b"bytes"

    async def test_a_storage_that_fails(
        self, client: httpx.AsyncClient, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("no such bucket")

        monkeypatch.setattr(MemoryFileSystem, "ls", fail)
        answer = await client.get(await finished(attempt, f"memory://runs/{attempt.job}/model"))
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "application/problem+json"
        assert "no such bucket" in answer.json()["detail"]


# ---- data


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://169.254.169.254/latest", "the protocol 'https' is not allowed here"),
        ("zip::s3://bucket/x.zip", "it is a chain"),
        ("data/train", "write the whole path"),
        ("s3://bucket/../other", "no name of a folder"),
        ("s3://key@bucket/x", "without passwords"),
    ],
)
async def test_data_lies_where_a_job_may_read(
    client: httpx.AsyncClient, attempt: Attempt, spec: dict[str, Any], url: str, why: str
) -> None:
    """By the rules of all places that a person names; also where another job is submitted again."""
    for body, field in (
        (spec | {"data": {"train": url}}, "body.data.train.url"),
        ({"from": attempt.job, "changes": {"data": {"train": {"url": url, "copy": True}}}}, "body.data.train.url"),
    ):
        answer = await client.post("/v1/jobs", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
        assert why in answer.json()["errors"][0]["message"]
    good = {"train": "s3://bucket/train", "val": {"url": "/shared/val", "copy": True}}
    made = await client.post("/v1/jobs", json=spec | {"data": good})
    assert made.json()["spec"]["data"] == {
        "train": {"url": "s3://bucket/train", "copy": None, "digest": None},
        "val": {"url": "/shared/val", "copy": True, "digest": None},
    }
