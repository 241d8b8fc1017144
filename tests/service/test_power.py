"""Secrets and packages that a service has told of are on disk, names and all: a power cut does not take them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import httpx
import pytest

from surefoot_service.keys import open_keys
from surefoot_service.parts import Service

from .helpers import TRAIN, ZIP, make_zip


class Synced:
    """What was synced, as it was then: of a file its bytes, of a folder its names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        fsync = os.fsync

        def noting(handle: int) -> None:
            fsync(handle)
            status, path = os.fstat(handle), Path(f"/proc/self/fd/{handle}").resolve()
            if stat.S_ISDIR(status.st_mode):
                self._names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
            else:
                self._bytes[status.st_ino] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", noting)

    def has(self, file: Path) -> bool:
        """Whether a power cut now leaves the file as it is."""
        inode = file.stat().st_ino
        named = self._names.get(file.parent.stat().st_ino, {}).get(file.name)
        return named == inode and self._bytes.get(inode) == file.read_bytes()


def test_keys_are_on_disk_before_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Synced(monkeypatch)
    open_keys(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"token", "token.sha256", "key"}
    assert [file.name for file in tmp_path.iterdir() if not synced.has(file)] == []


async def test_an_acknowledged_package_is_on_disk(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    answer = await client.post("/v1/packages", content=make_zip({"train.py": TRAIN}), headers=ZIP)
    assert answer.status_code == 201
    assert synced.has(service.packages.path(answer.json()["package"]))
