"""Uploads: what is refused leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import PackageError
from surefoot_service.packages import archive as packages
from surefoot_service.packages.archive import Limits, PackageStore, check_zip, limits_of
from surefoot_service.parts import Service
from surefoot_service.settings import Settings
from surefoot_service.waiting import Waiting

from .asgi import ask
from .helpers import TRAIN, ZIP, make_zip


def special(name: str, mode: int) -> bytes:
    """A zip with one entry of this file type."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (mode | 0o644) << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a.py", "x = 1")
        archive.writestr("a.py", "x = 2")
    return buffer.getvalue()


def encrypted() -> bytes:
    """The encryption bit set in both headers: what a reader goes by."""
    raw = bytearray(make_zip({"a.py": TRAIN}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1
    return bytes(raw)


def lying_bomb() -> bytes:
    """20 MB of zeros that the headers call 10 bytes."""
    raw = bytearray(make_zip({"a.bin": bytes(20_000_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(signature) + offset, 10)
    return bytes(raw)


def packed_by(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.py", TRAIN)
    return buffer.getvalue()


def broken() -> bytes:
    raw = bytearray(make_zip({"a.py": TRAIN * 100}))
    raw[40] ^= 0xFF
    return bytes(raw)


def long_table() -> bytes:
    """A table of contents far longer than that of so many entries can be: read whole before anybody could count them."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    table = entry * 3000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(table), 0, 0)
    return table + end


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a path of many parts": (lambda: make_zip({"a/" * 32_000 + "b.py": TRAIN}), "a path of 32001 parts"),
    "a path of many empty parts": (lambda: make_zip({"a" + "/" * 32_000 + "b.py": TRAIN}), "parts"),
    "a path of many dots": (lambda: make_zip({"./" * 32_000 + "b.py": TRAIN}), "parts"),
    "a long path": (lambda: make_zip({"/".join(["a" * 100] * 20) + ".py": TRAIN}), "characters"),
    "a long name": (lambda: make_zip({"a" * 300 + ".py": TRAIN}), "a name of more than 255 bytes"),
    "a long table of contents": (long_table, "too many entries"),
    "no zip": (lambda: b"hello", "not a sound zip"),
    "nothing": (lambda: b"", "not a sound zip"),
    "empty": (lambda: make_zip({}), "is empty"),
    "only a folder": (lambda: make_zip({"a/": b""}), "is empty"),
    "up": (lambda: make_zip({"../a.py": TRAIN}), r"path with \"..\""),
    "up inside": (lambda: make_zip({"a/../../b.py": TRAIN}), r"path with \"..\""),
    "absolute": (lambda: make_zip({"/etc/a.py": TRAIN}), "absolute path"),
    "drive": (lambda: make_zip({"C:/a.py": TRAIN}), "absolute path"),
    "backslash": (lambda: make_zip({"..\\a.py": TRAIN}), "backslashes"),
    "symlink": (lambda: special("a.py", stat.S_IFLNK), "symbolic link"),
    "fifo": (lambda: special("a.py", stat.S_IFIFO), "special file"),
    "device": (lambda: special("a.py", stat.S_IFCHR), "special file"),
    "twice": (twice, "twice"),
    "twice by another spelling": (lambda: make_zip({"a/b.py": "", "a//b.py": ""}), "twice"),
    "file and folder": (lambda: make_zip({"a": "", "a/b.py": ""}), "both a file and a folder"),
    "encrypted": (encrypted, "encrypted"),
    "too many": (lambda: make_zip({f"f{i}.py": "" for i in range(51)}), "51 entries"),
    "bomb": (lambda: make_zip({"a.bin": bytes(20_000_000)}), "bomb"),
    "bombs": (lambda: make_zip({f"{i}.bin": bytes(9_000_000) for i in range(4)}), "unpacks to more than"),
    "lying bomb": (lying_bomb, "sound zip|not as long"),
    "another method": (lambda: packed_by(zipfile.ZIP_LZMA), "other than deflate"),
    "broken": (broken, "not a sound zip"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_package_is_refused_and_leaves_nothing(
    case: str, client: httpx.AsyncClient, settings: Settings
) -> None:
    content, message = BAD[case]
    answer = await client.post("/v1/packages", content=content(), headers=ZIP)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert any(part in answer.text for part in message.split("|")), answer.text
    assert list((settings.data / "packages").iterdir()) == []


async def test_an_upload_above_the_limit(client: httpx.AsyncClient, settings: Settings) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)

    answer = await client.post("/v1/packages", content=endless(), headers=ZIP)
    assert answer.status_code == 413
    assert "200000 bytes" in answer.json()["detail"]
    assert list((settings.data / "packages").iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken_off() -> AsyncIterator[bytes]:
        yield b"PK"
        raise ConnectionResetError

    store = PackageStore(tmp_path, Limits(packed_bytes=100, unpacked_bytes=100, entries=1))
    with pytest.raises(ConnectionResetError):
        await store.receive(broken_off(), Waiting())
    assert os.listdir(tmp_path) == []


def test_what_an_interrupted_service_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".upload-x").write_bytes(b"PK")
    PackageStore(tmp_path, Limits(packed_bytes=100, unpacked_bytes=100, entries=1))
    assert list(tmp_path.iterdir()) == []


async def test_a_package_is_stored_once_under_its_hash(client: httpx.AsyncClient, settings: Settings) -> None:
    content = make_zip({"train.py": TRAIN, "data/x.bin": bytes(100)})
    sha256 = hashlib.sha256(content).hexdigest()
    assert (await client.get(f"/v1/packages/{sha256}")).status_code == 404
    first = await client.post("/v1/packages", content=content, headers=ZIP)
    again = await client.post("/v1/packages", content=content, headers=ZIP)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"package": sha256, "bytes": len(content)}
    assert (await client.get(f"/v1/packages/{sha256}")).json() == first.json()
    assert [f.read_bytes() for f in (settings.data / "packages").iterdir()] == [content]


async def test_a_package_whose_file_is_gone_is_asked_for_again(
    client: httpx.AsyncClient, settings: Settings, package: str, spec: dict[str, Any]
) -> None:
    file = settings.data / "packages" / f"{package}.zip"
    file.unlink()
    assert (await client.get(f"/v1/packages/{package}")).status_code == 404
    refused = await client.post("/v1/jobs", json=spec)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.package")
    assert (await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)).status_code == 200
    assert (await client.post("/v1/jobs", json=spec)).status_code == 201


async def test_a_folder_that_cannot_be_written_is_no_mistake_of_the_service(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages, "_append", full)
    answer = await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "No space left" in answer.json()["detail"]
    assert list(service.packages.folder.iterdir()) == []
    service.packages.folder.rmdir()
    assert (await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)).status_code == 503


async def test_a_bad_path_is_found_in_milliseconds(app: FastAPI, client: httpx.AsyncClient) -> None:
    content = make_zip({"a/" * 32_000 + "b.py": TRAIN})
    headers = [*ZIP.items(), ("authorization", client.headers["authorization"])]
    began = time.process_time()
    answer = await ask(app, "POST", "/v1/packages", content, headers)
    assert answer.status == 422
    assert answer.loop_s <= 0.1
    # of all threads
    assert time.process_time() - began <= 1.0


async def test_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/packages", content=make_zip({"a.py": TRAIN}))
    assert answer.status_code == 415


# ---- a file that is gone from the disk


def _lose(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _spoil(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [_lose, _cut, _spoil], ids=["lost", "cut", "spoilt"])
async def test_a_package_that_the_disk_has_lost_is_asked_for_again(
    client: httpx.AsyncClient, settings: Settings, spec: dict[str, object], harm: Callable[[Path], None]
) -> None:
    path = settings.data / "packages" / f"{spec['package']}.zip"
    content = path.read_bytes()
    harm(path)
    if harm is not _spoil:  # which is seen when it is read
        assert (await client.get(f"/v1/packages/{spec['package']}")).status_code == 404
    refused = await client.post("/v1/jobs", json=spec)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.package")
    assert (await client.post("/v1/packages", content=content, headers=ZIP)).status_code == 200
    assert (await client.post("/v1/jobs", json=spec)).status_code == 201


async def test_a_disk_that_fails_is_no_mistake_of_who_submits(
    client: httpx.AsyncClient, service: Service, spec: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(service.packages), "has", fail)
    answer = await client.post("/v1/jobs", json=spec)
    assert (answer.status_code, "Input/output error" in answer.json()["detail"]) == (503, True)


ODD_NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(["\0", "a\0b", "/", "//", ".", "..", "a/\0", "\0/"])


@given(st.dictionaries(ODD_NAMES, st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 2**16), max_size=5))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_no_archive_does_anything_but_be_refused(files: dict[str, bytes], damaged: list[int]) -> None:
    """Members of any names, even such that Python's own zipfile does not write, and any damage to the bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in files.items():
            member = zipfile.ZipInfo("x")
            member.filename = name.encode("utf-8", "replace").decode()
            archive.writestr(member, content)
    data = bytearray(buffer.getvalue())
    for place in damaged:
        data[place % len(data)] ^= 1 + place % 255
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(PackageError):
            check_zip(Path(file.name), limits_of(Settings()))
