"""The files that training wrote, as they are listed and fetched: by REST, SDK and command line, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.output.elected import Elected, manifests

from surefoot._files import all_files, targets
from surefoot.errors import NotFoundError, ServiceError
from surefoot.output import FileList, FileView, dump_output, load_output
from surefoot_service.checkpoints import files as reading
from surefoot_service.errors import ConflictError, StorageError
from surefoot_service.parts import Service
from surefoot_service.settings import Settings

from ..s3 import BUCKET, s3_wire
from .helpers import Attempt

BIG = os.urandom(5 * 1024 * 1024)
SECRET = b"the service's own key"


@pytest.fixture
def place(settings: Settings, attempt: Attempt) -> Path:
    return Path(settings.checkpoint_place) / attempt.job


@pytest.fixture
def written(place: Path) -> Path:
    """Files as a trainer keeps them."""
    trainer = Elected(place).begin()
    trainer.write("big", BIG)
    trainer.write("plots/a b.png", b"png")
    trainer.write("plots/é.csv", b"1,2\n")
    trainer.write("empty", b"")
    assert trainer.keep(7)
    trainer.sync.close()
    return place


async def get(client: httpx.AsyncClient, attempt: Attempt, path: str, **headers: str) -> httpx.Response:
    return await client.get(f"/v1/jobs/{attempt.job}/files/content", params={"path": path}, headers=headers)


async def test_a_job_without_files_has_none(client: httpx.AsyncClient, attempt: Attempt) -> None:
    listed = await client.get(f"/v1/jobs/{attempt.job}/files")
    assert FileList.model_validate(listed.json()) == FileList()
    assert (await get(client, attempt, "a")).status_code == 404


async def test_files_are_listed_and_fetched(client: httpx.AsyncClient, attempt: Attempt, written: Path) -> None:
    url = f"/v1/jobs/{attempt.job}/files"
    found = FileList.model_validate((await client.get(url)).json())
    assert [(f.path, f.bytes) for f in found.files] == [
        ("big", len(BIG)),
        ("empty", 0),
        ("plots/a b.png", 3),
        ("plots/é.csv", 4),
    ]
    assert (found.step, found.ended, found.total_files, found.total_bytes) == (7, False, 4, len(BIG) + 7)
    some = (await client.get(url, params={"prefix": "plots/", "limit": 1})).json()
    assert [f["path"] for f in some["files"]] == ["plots/a b.png"]
    assert some["more"]
    rest = (await client.get(url, params={"prefix": "plots/", "after": "plots/a b.png"})).json()
    assert [f["path"] for f in rest["files"]] == ["plots/é.csv"]
    for path, data in {"big": BIG, "empty": b"", "plots/é.csv": b"1,2\n"}.items():
        answer = await get(client, attempt, path)
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-length"] == str(len(data))


PART = 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        (f"bytes={PART - 3}-{PART + 3}", PART - 3, PART + 4),
        (f"bytes={PART}-", PART, len(BIG)),
        ("bytes=-5", len(BIG) - 5, len(BIG)),
        ("bytes=0-99999999999", 0, len(BIG)),
    ],
)
async def test_a_range(
    client: httpx.AsyncClient, attempt: Attempt, written: Path, asked: str, start: int, stop: int
) -> None:
    answer = await get(client, attempt, "big", range=asked)
    assert answer.status_code == 206
    assert answer.content == BIG[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(BIG)}"


async def test_ranges_that_are_none(client: httpx.AsyncClient, attempt: Attempt, written: Path) -> None:
    beyond = await get(client, attempt, "big", range=f"bytes={len(BIG)}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(BIG)}"
    assert beyond.headers["content-type"] == "application/problem+json"
    for odd in ("bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        whole = await get(client, attempt, "empty", range=odd)
        assert (whole.status_code, whole.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["../token", "/etc/passwd", "plots/../../token", "files/writer", "plots", "plots/", "BIG", "", "a\0b"]
)
async def test_no_path_leads_out(client: httpx.AsyncClient, attempt: Attempt, written: Path, path: str) -> None:
    answer = await get(client, attempt, path)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_version_is_of_one_moment(client: httpx.AsyncClient, attempt: Attempt, written: Path) -> None:
    url = f"/v1/jobs/{attempt.job}/files"
    version = (await client.get(url)).json()["version"]
    trainer = Elected(written, "t1", 2).begin(7)
    trainer.write("empty", b"not any more")
    trainer.keep(8)
    trainer.sync.close()
    asked = {"path": "empty", "version": version}
    assert (await client.get(f"{url}/content", params=asked)).content == b""
    assert (await get(client, attempt, "empty")).content == b"not any more"
    (written / "files" / "manifests" / version).unlink()
    reading._manifest.cache_clear()
    gone = await client.get(f"{url}/content", params=asked)
    assert (gone.status_code, "anew" in gone.json()["detail"]) == (409, True)
    for none in ("../../token", "x", "1.json"):
        assert (await client.get(url, params={"version": none})).status_code == 422


# ---- what training code may have put in the place of what trainers write


def _objects(place: Path) -> list[Path]:
    return list((place / "files" / "objects").iterdir())


def _linked_object(place: Path, secret: Path) -> None:
    for path in _objects(place):
        path.unlink()
        path.symlink_to(secret)


def _hard_linked_object(place: Path, secret: Path) -> None:
    for path in _objects(place):
        path.unlink()
        os.link(secret, path)


def _linked_folder(place: Path, secret: Path) -> None:
    (place / "files").rename(place / "real")
    (place / "files").symlink_to(place / "real")


def _linked_place(place: Path, secret: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


def _piped_object(place: Path, secret: Path) -> None:
    for path in _objects(place):
        path.unlink()
        os.mkfifo(path)


def _damaged_manifest(place: Path, secret: Path) -> None:
    path = place / "files" / "manifests" / manifests(place)[0]
    path.write_bytes(path.read_bytes().replace(b"empty", b"../..") + b" ")


def _leading_out(place: Path, secret: Path) -> None:
    """One that names an object by a path, with a digest of its own."""
    folder = place / "files" / "manifests"
    name = manifests(place)[0]
    body = (folder / name).read_bytes()
    manifest = load_output(name, body)
    name, body = dump_output(manifest, seq=9, at=9, writer="a1g1t0")
    piece = json.loads(body)["files"][0]["pieces"][0][0].encode()
    body = body.replace(piece, b"../../../token")
    name = f"{name[:-21]}{hashlib.blake2b(body, digest_size=8).hexdigest()}.json"
    (folder / name).write_bytes(body)


TRAPS: list[Callable[[Path, Path], None]] = [
    _linked_object,
    _hard_linked_object,
    _linked_folder,
    _linked_place,
    _piped_object,
    _damaged_manifest,
    _leading_out,
]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__.lstrip("_"))
async def test_no_trick_hands_out_a_file_of_somebody_else(
    client: httpx.AsyncClient, attempt: Attempt, written: Path, settings: Settings, trap: Callable[[Path, Path], None]
) -> None:
    secret = settings.data / "secret"
    secret.write_bytes(SECRET * (len(BIG) // len(SECRET)))
    trap(written, secret)
    reading._manifest.cache_clear()
    answer = await get(client, attempt, "big")
    assert answer.status_code in (409, 502)
    assert SECRET not in answer.content
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_place_that_the_control_plane_cannot_read_is_told(
    client: httpx.AsyncClient, attempt: Attempt, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> object:
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(reading, "open_folder", refuse)
    for url in ("files", "files/content?path=big"):
        answer = await client.get(f"/v1/jobs/{attempt.job}/{url}")
        assert answer.status_code == 502
        assert "does not give the files" in answer.json()["detail"]
        assert "Access Denied" in answer.json()["detail"]


async def test_files_of_a_place_that_is_not_allowed_are_not_opened(service: Service) -> None:
    with pytest.raises(ConflictError, match="not allowed"):
        await reading.find_files(service.waiting, "http://bucket/j", ("file", "s3"))


async def test_files_in_a_store(service: Service) -> None:
    """On a real S3 wire: written and restored by trainers, read by the control plane."""
    with s3_wire() as wire:
        place = f"s3://{BUCKET}/j"
        trainer = Elected(place).begin()
        trainer.write("a/b", BIG)
        assert trainer.keep(3)
        trainer.write("a/b", b"!", "ab")
        trainer.write("c", b"3")
        assert trainer.keep(4)
        later = Elected(place, "t1", 2).begin(3)
        assert later.files == {"a/b": BIG}
        found = await reading.find_files(service.waiting, place, ("s3",))
        assert found is not None
        span = reading.Span(10, len(BIG) + 1)
        data = [chunk async for chunk in found.chunks(service.waiting, found.file("a/b"), span)]
        assert b"".join(data) == BIG[10:] + b"!"
        assert await reading.find_files(service.waiting, f"s3://{BUCKET}/another", ("s3",)) is None
        wire.away.set()
        with pytest.raises(StorageError, match="does not give the files"):
            await reading.find_files(service.waiting, place, ("s3",))
        wire.away.clear()
        for one in (trainer, later):
            one.sync.close()


# ---- the SDK


def test_pages_are_of_one_version_and_end() -> None:
    def view(name: str) -> FileView:
        return FileView(path=name, bytes=1, modified="2026-01-02T03:04:05Z")

    flow = all_files("j", "p")
    first = next(flow)
    assert first.params == {"limit": "1000", "prefix": "p"}
    second = flow.send(FileList(files=(view("pa"),), more=True, version="v"))
    assert second.params == {"limit": "1000", "prefix": "p", "after": "pa", "version": "v"}
    with pytest.raises(ServiceError):
        flow.send(FileList(files=(view("pa"),), more=True, version="v"))


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a\\b"])
def test_no_answer_writes_outside_of_the_folder(tmp_path: Path, path: str) -> None:
    found = FileList(files=(FileView(path=path, bytes=1, modified="2026-01-02T03:04:05Z"),))
    with pytest.raises(ServiceError, match="cannot be read"):
        list(targets(found, "", tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_what_is_fetched(tmp_path: Path) -> None:
    files = tuple(FileView(path=p, bytes=1, modified="2026-01-02T03:04:05Z") for p in ("a", "b/c", "bc"))
    found = FileList(files=files)
    assert [t for _, t in targets(found, "b", tmp_path)] == [tmp_path / "b" / "c"]
    assert [t for _, t in targets(found, "a", tmp_path)] == [tmp_path / "a"]
    assert len(list(targets(found, "", tmp_path))) == 3
    with pytest.raises(NotFoundError, match="no such file"):
        list(targets(found, "d", tmp_path))
