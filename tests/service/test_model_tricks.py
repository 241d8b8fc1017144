"""What training code may have told of its model, and left in its folder: nothing of it hands out a file of somebody else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import httpx
import pytest
from sqlalchemy.orm import Session

from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.store import jobs

from .helpers import Attempt
from .test_places import TRICKS

SECRET = b"the service's own key"


@pytest.fixture
def place(settings: Settings, attempt: Attempt) -> Path:
    made = Path(settings.checkpoint_place) / attempt.job
    made.mkdir(parents=True)
    return made


@pytest.fixture
def secret(settings: Settings) -> Path:
    """A file of the service's, beside the checkpoints and on the same disk."""
    path = settings.data / "secret.safetensors"
    path.write_bytes(SECRET)
    return path


async def ask(client: httpx.AsyncClient, service: Service, job: str, url: str) -> httpx.Response:
    """Ask for the model of a job that was told to lie at `url`, however it came to be stored."""

    def tell(session: Session) -> None:
        jobs.load(session, job).model = url

    await service.database.write(tell)
    return await client.get(f"/v1/jobs/{job}/model")


Trap = Callable[[Path, Path], Path]


def _link(place: Path, secret: Path) -> Path:
    (place / "m.safetensors").symlink_to(secret)
    return place / "m.safetensors"


def _relative_link(place: Path, secret: Path) -> Path:
    (place / "m.safetensors").symlink_to(os.path.relpath(secret, place))
    return place


def _linked_folder(place: Path, secret: Path) -> Path:
    (place / "model").symlink_to(secret.parent)
    return place / "model"


def _linked_folder_on_the_way(place: Path, secret: Path) -> Path:
    (place / "way").symlink_to(secret.parent.parent)
    return place / "way" / secret.parent.name / secret.name


def _link_in_a_folder(place: Path, secret: Path) -> Path:
    (place / "model").mkdir()
    (place / "model" / "m.safetensors").symlink_to(secret)
    return place / "model"


def _link_of_links(place: Path, secret: Path) -> Path:
    (place / "a.bin").symlink_to(secret)
    (place / "m.safetensors").symlink_to(place / "a.bin")
    return place


def _hard_link(place: Path, secret: Path) -> Path:
    os.link(secret, place / "m.safetensors")
    return place


def _descriptor(place: Path, secret: Path) -> Path:
    (place / "m.safetensors").symlink_to("/proc/self/environ")
    return place


def _pipe(place: Path, secret: Path) -> Path:
    os.mkfifo(place / "m.safetensors")
    return place


def _place_is_a_link(place: Path, secret: Path) -> Path:
    place.rmdir()
    place.symlink_to(secret.parent)
    return place / secret.name


TRAPS: list[Trap] = [
    _link,
    _relative_link,
    _linked_folder,
    _linked_folder_on_the_way,
    _link_in_a_folder,
    _link_of_links,
    _hard_link,
    _descriptor,
    _pipe,
    _place_is_a_link,
]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__.lstrip("_"))
async def test_no_link_leads_out(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, secret: Path, trap: Trap
) -> None:
    answer = await ask(client, service, attempt.job, str(trap(place, secret)))
    assert SECRET not in answer.content
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json"), answer.text
    assert "the model is not opened" in answer.json()["detail"]


async def test_no_url_leads_out(
    client: httpx.AsyncClient,
    service: Service,
    attempt: Attempt,
    place: Path,
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each trick as it is, and as it would be from this job's place; nothing is ever asked of fsspec for it."""
    opened: list[str] = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: opened.append(url))
    # what no database takes is none
    tricks = [t for t in TRICKS if t and "\ud800" not in t and "\0" not in t and len(t) < 4096]
    urls = {url for trick in tricks for url in (trick, trick.replace("/data/runs/j", str(place)))}
    answers = {url: (await ask(client, service, attempt.job, url)).status_code for url in urls}
    assert {url: status for url, status in answers.items() if status != 409} == {}
    assert opened == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_the_services_own_files_are_not_below_any_place(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, secret: Path, form: str
) -> None:
    answer = await ask(client, service, attempt.job, form.format(secret))
    assert (answer.status_code, SECRET in answer.content) == (409, False)


async def test_another_jobs_model_is_not_this_jobs(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, settings: Settings
) -> None:
    other = Path(settings.checkpoint_place) / "otherjob22"
    other.mkdir(parents=True)
    (other / "m.safetensors").write_bytes(SECRET)
    assert (await ask(client, service, attempt.job, str(other))).status_code == 409


async def test_the_place_itself_may_be_reached_by_links(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, settings: Settings, tmp_path: Path
) -> None:
    """Who runs the service may keep checkpoints on another disk."""
    real = tmp_path / "disk"
    (real / attempt.job).mkdir(parents=True)
    (real / attempt.job / "m.safetensors").write_bytes(b"model")
    os.symlink(real, settings.checkpoint_place)
    answer = await ask(client, service, attempt.job, f"{settings.checkpoint_place}/{attempt.job}")
    assert (answer.status_code, answer.content) == (200, b"model")


async def test_a_link_put_in_its_place_while_it_is_opened_is_not_followed(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path, secret: Path
) -> None:
    """A race that no check before the opening wins: the folder is swapped for a link all the time."""
    (place / "real").mkdir()
    (place / "real" / secret.name).write_bytes(b"model")
    (place / "link").symlink_to(secret.parent)
    os.symlink("real", place / "model")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("real", "link"):
                try:
                    os.rename(place / name, place / "model-now")
                    os.rename(place / "model-now", place / name)
                except OSError:
                    continue

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(30):
            answer = await ask(client, service, attempt.job, str(place / "model-now" / secret.name))
            assert SECRET not in answer.content
    finally:
        stop.set()
        swapping.join()


# ---- what a person submits


async def test_no_trick_is_submitted(client: httpx.AsyncClient, spec: dict[str, object]) -> None:
    elsewhere = {
        "/data/runs",
        "/data/runs/j2/m",
        "s3://bucket/runs/j2",
        "s3://bucket2/runs/j/m",
        "gs://bucket/runs/j/m",
    }
    taken: list[tuple[str, object]] = []
    for trick in TRICKS:
        if trick in elsewhere or "\ud800" in trick:
            continue  # a place like any other; no JSON says it
        for field, more in (("checkpoint", {"checkpoint": {"url": trick}}), ("restore", {"restore": trick})):
            answer = await client.post("/v1/jobs", json=spec | more)
            if answer.status_code != 422 or not answer.json()["errors"][0]["field"].startswith(f"body.{field}"):
                taken.append((trick, answer.text))
    assert taken == []


async def test_the_settings_allow_protocols(tmp_path: Path) -> None:
    assert Settings(data=tmp_path, storage_protocols="file, hdfs").storage_protocols == ("file", "hdfs")
    with pytest.raises(ValueError, match="'memory' is not allowed"):
        Settings(data=tmp_path, checkpoints="memory://x")


async def test_the_model_is_read_in_pieces(
    client: httpx.AsyncClient, service: Service, attempt: Attempt, place: Path
) -> None:
    content = os.urandom(3 * 1024 * 1024 + 5)
    (place / "m.safetensors").write_bytes(content)
    assert (await ask(client, service, attempt.job, str(place))).content == content
