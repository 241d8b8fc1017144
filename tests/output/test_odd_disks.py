"""Files in `run.output_dir` on odd disks and storages, and lists of files that nobody of ours has written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from surefoot.errors import CheckpointError, NodeError
from surefoot.output import MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES, load_output, manifest_names
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.output import look as looking
from surefoot_actors.output import sync as syncing
from surefoot_actors.output import upload as uploading
from surefoot_actors.output.folder import LocalFolder

from .elected import Elect, kept, newest


def test_a_lone_trainer_under_notice_is_held_so_long_in_all_and_trains_on(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, as there is nobody else yet, and its storage hangs."""
    first, clock, hangs = elected().begin(), [0.0], threading.Event()
    put, waits = uploading.Uploader._put, list[float]()

    def hanging(self: uploading.Uploader, part: memoryview) -> Any:
        assert hangs.wait(60)
        return put(self, part)

    def wait(self: syncing.Pending, within_s: float) -> bool:
        waits.append(within_s)
        clock[0] += within_s
        return False

    first.sync.leaving = True
    with monkeypatch.context() as slow:
        slow.setattr(uploading.Uploader, "_put", hanging)
        slow.setattr(syncing.Pending, "wait", wait)
        slow.setattr(syncing, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))
        for step in range(1, 50):
            first.write("a", b"%d" % step)
            first.sync.boundary(step, checkpoint=False)
            clock[0] += 0.5
        assert sum(waits) <= 20.0
        assert first.sync._thread._jobs.qsize() <= 2, "what is to be uploaded piles up"
        hangs.set()
    assert first.keep(50)
    assert kept(tmp_path / "job") == {"a": b"49"}


def test_under_notice_each_boundary_leaves_all_behind_while_that_is_quick(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.sync.leaving = True
    for step in range(1, 6):
        first.write("a", b"%d" % step)
        pending = first.sync.boundary(step, checkpoint=step == 3)
        assert pending is not None
        assert pending.is_over
        assert kept(tmp_path / "job") == {"a": b"%d" % step}


def test_a_time_that_no_clock_shows_loses_no_file(elected: Elect, tmp_path: Path) -> None:
    """A clock that was wrong when a file was written, or somebody who set its time."""
    first = elected().begin()
    for name, at in {"later": 1.3e10, "before": -5.0, "now": 1e9}.items():
        first.write(name, name.encode())
        os.utime(first.folder / name, (at, at))
    assert first.keep(1)
    assert elected("t1", 2).begin(1).files == {name: name.encode() for name in ("later", "before", "now")}


def test_a_sparse_file_stays_one(elected: Elect, tmp_path: Path) -> None:
    """As many GB of zeros would not fit on the disk of whoever is elected next."""
    first, size = elected().begin(), 40 * uploading.PART_BYTES
    with (first.folder / "sparse").open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"1")
    first.write("zeros", b"\0" * 9)
    assert first.keep(1)
    second = elected("t1", 2)
    second.write("zeros", b"1" * 9)
    second.begin(1)
    found = (second.folder / "sparse").stat()
    assert (found.st_size, found.st_blocks * 512 < 4 * uploading.PART_BYTES) == (size, True)
    with (second.folder / "sparse").open("rb") as file:
        file.seek(size // 2 - 1)
        assert file.read(3) == b"\x001\0"
    assert (second.folder / "zeros").read_bytes() == b"\0" * 9


def test_code_may_remove_the_folder_to_begin_anew(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("old", b"1")
    assert first.keep(1)
    shutil.rmtree(first.folder)
    assert first.keep(2)
    assert first.sync.folder().is_dir()
    first.write("new", b"2")
    assert first.keep(3)
    assert kept(tmp_path / "job") == {"new": b"2"}


def test_a_storage_that_can_be_read_alone_holds_up_nobody_who_has_nothing_there(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for for ten minutes before the first step. Files are kept as soon as they can be."""
    never = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: pytest.fail("it waits for nothing"))
    monkeypatch.setattr(syncing, "time", never)
    first = elected()
    with monkeypatch.context() as read_only:
        read_only.setattr(Storage, "write", _refuse)
        first.begin(0)
        first.write("a", b"1")
        assert not first.keep(1)
        assert "is tried again" in first.told[0]
    assert first.keep(2)
    assert kept(tmp_path / "job") == {"a": b"1"}


def _refuse(*arguments: object) -> None:
    raise CheckpointError("Read-only file system")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_has_no_room_for_a_folder_is_this_nodes_loss(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(NodeError, match=f"{os.strerror(number)}"):
        LocalFolder()


def test_whoever_makes_a_folder_waits_no_longer_than_it_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that has the lock may be frozen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = LocalFolder()

    def stop() -> None:
        raise KeyboardInterrupt

    with other._alone(), pytest.raises(KeyboardInterrupt):
        LocalFolder(stop)
    LocalFolder(stop).remove()
    other.remove()


def test_nobody_waits_while_leftovers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's 10 GB take a while."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, removed = LocalFolder(), list[Path]()
    (left := first.path.parent.parent / "tmpleft").mkdir()

    def remove(path: Path, **named: object) -> None:
        removed.append(path)
        LocalFolder(lambda: pytest.fail("it waits")).remove()

    with monkeypatch.context() as slow:
        rmtree = shutil.rmtree
        slow.setattr(shutil, "rmtree", lambda path, **n: remove(path) if path == left else rmtree(path, **n))
        first.remove_leftovers()
    assert removed == [left]


def test_a_storage_that_hides_an_object_for_a_while_is_no_damage(
    elected: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = elected().begin()
    first.write("a", os.urandom(looking.SMALL_BYTES + 1))
    assert first.keep(1)
    read, calls = Storage.read_small, list[str]()

    def away(self: Storage, path: str) -> bytes:
        calls.extend([path] * path.startswith("objects/"))
        if path.startswith("objects/") and len(calls) < 3:
            raise CheckpointError("503")
        return read(self, path)

    monkeypatch.setattr(syncing, "_TRY_AGAIN_S", 0.001)
    monkeypatch.setattr(Storage, "read_small", away)
    assert elected("t1", 2).begin(1).files == first.files
    assert len(calls) == 3


# ---- lists of files that nobody of ours has written


def named(body: bytes) -> str:
    return f"000000001-000000000001-a1g1t0-{hashlib.blake2b(body, digest_size=8).hexdigest()}.json"


def manifest(files: str) -> bytes:
    return f'{{"format":1,"step":1,"ended":false,"at":1.0,"files":{files},"left_out":[]}}'.encode()


def file(path: str, pieces: str = "[]", size: int = 0) -> str:
    return f'{{"path":"{path}","bytes":{size},"modified_ns":1,"pieces":{pieces}}}'


_PIECE = f'["{"0" * 32}",0,1]'
HOSTILE = {
    "too long": b" " * (MAX_MANIFEST_BYTES + 1),
    "many values": manifest(f"[{'0,' * MAX_MANIFEST_VALUES}0]"),
    "many bad files": manifest(f"[{'0,' * 900_000}0]"),
    "many bad pieces": manifest(f"[{file('a', '[' + '[],' * 400_000 + '[]]')}]"),
    "many pieces": manifest(f"[{file('a', '[' + (_PIECE + ',') * 200_000 + _PIECE + ']')}]"),
    "deep": manifest("[" * 900_000),
    "a number of many digits": manifest(f"[{file('a').replace('1,', '9' * 4_000_000 + ',')}]"),
    "a name that is not text": manifest(f"[{file('a')}]").replace(b'"a"', b'"\xff"'),
    "half a surrogate pair": manifest(f"[{file(chr(92) + 'udc80')}]"),
    "twice": manifest(f"[{file('a')},{file('a')}]"),
    "a file and a folder": manifest(f"[{file('a')},{file('a/b')}]"),
    "leads out": manifest(f"[{file('../a')}]"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_list_of_files_is_refused_in_words(what: str) -> None:
    with pytest.raises(ValueError, match=r"^0{8}1-.*json .*") as refused:
        load_output(named(HOSTILE[what]), HOSTILE[what])
    assert len(str(refused.value)) < 300


def test_names_as_long_and_as_many_as_may_be_are_kept_as_far_as_can_be_read(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "_MOST_LISTED", (5000, 500))
    first = elected().begin()
    for n in range(40):
        first.write(f"{n:02d}" + "," * 100, b"1")
    assert first.keep(1)
    assert "beyond what is kept" in first.told[0]
    found = newest(tmp_path / "job").files
    assert 0 < len(found) < 40
    [name] = manifest_names(os.listdir(tmp_path / "job" / "files" / "manifests"))
    body = (tmp_path / "job" / "files" / "manifests" / name.name).read_bytes()
    assert len(body.split(b'"left_out"')[0]) <= 5000
    assert sum(body.split(b'"left_out"')[0].count(c) for c in (b",", b"[", b"{")) <= 500
