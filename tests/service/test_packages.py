"""Uploads: what is refused leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from surefoot_service.packages import Limits, PackageStore
from surefoot_service.settings import Settings
from surefoot_service.waiting import Waiting

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


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
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


async def test_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/packages", content=make_zip({"a.py": TRAIN}))
    assert answer.status_code == 415
