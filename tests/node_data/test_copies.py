"""Copies of a job's data on one node: made once, whole or not at all, and removed when nobody uses them and room is needed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from surefoot.data import DataSource
from surefoot.errors import DataError, NodeError
from surefoot_actors.node_data import cache, copying, places
from surefoot_actors.node_data.cache import NodeCache, cache_root
from surefoot_actors.node_data.listing import Listing, list_place
from surefoot_actors.node_data.locks import Holds, locked
from surefoot_actors.node_data.places import Copier

FILES = {"a.bin": b"a" * 1000, "deep/b.bin": b"b" * 20, "deep/empty": b""}


class Told:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.on_progress: Callable[[int], None] = lambda num_bytes: None
        self.on_wait: Callable[[str], None] = lambda what: None

    def waits(self, what: str) -> None:
        self.on_wait(what)

    def copying(self, name: str, listing: Listing) -> None:
        self.said.append(f"copying {name} {listing.bytes} {len(listing.items)}")

    def progress(self, name: str, num_bytes: int, of: int) -> None:
        self.on_progress(num_bytes)

    def copied(self, name: str, copy: cache.Copy, seconds: float) -> None:
        self.said.append(f"copied {name}")

    def trouble(self, name: str, what: str) -> None:
        self.said.append(f"trouble {what}")


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return _made(tmp_path / "source")


def _made(folder: Path, **more: bytes) -> DataSource:
    for name, data in {**FILES, **more}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return DataSource(url=str(folder), copy=True)


class Node:
    """One process's view of a node's cache."""

    def __init__(self, root: Path) -> None:
        self.holds, self.told = Holds(), Told()
        self.cache = NodeCache(root / "cache", self.holds)
        self.copier = Copier(self.cache, self.told)

    def copy(self, source: DataSource, agreed: str | None = None) -> cache.Copy:
        return self.copier.copy("train", source, agreed or source.digest)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.holds.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.holds.close()


def test_it_is_copied_once_and_read_only(node: Node, other: Node, source: DataSource) -> None:
    first, second = node.copy(source), other.copy(source)
    assert first == second
    assert {name: (first.path / name).read_bytes() for name in FILES} == FILES
    assert node.told.said == ["copying train 1020 3", "copied train"]
    assert other.told.said == []
    assert not os.stat(first.path / "a.bin").st_mode & 0o222
    assert not os.stat(first.path / "deep").st_mode & 0o222
    assert first.digest == second.digest == other.copy(source, first.digest).digest


class _Stopped(BaseException):
    """The trainer is to end."""


@pytest.mark.parametrize("what", ["the copy", "the agreed copy", "its use", "the folder for code"])
def test_who_waits_for_another_process_waits_no_longer_than_it_is_to(
    node: Node, other: Node, source: DataSource, what: str
) -> None:
    """It may hang, or be frozen: nobody else can end that waiting but who waits."""
    copy = node.copy(source)
    waits: list[str] = []

    def wait(what: str = "") -> None:
        waits.append(what)
        if len(waits) == 3:
            raise _Stopped

    other.told.on_wait = wait
    other.holds.on_wait = wait
    node.holds.close()
    place = {
        "the copy": next(copy.folder.parent.glob("*.lock")),
        "the agreed copy": next(copy.folder.parent.glob("*.lock")),
        "its use": copy.folder.with_name(f"{copy.folder.name}.use"),
        "the folder for code": other.cache.root / "code" / "package.use",
    }[what]
    place.parent.mkdir(exist_ok=True)
    agreed = copy.digest if what == "the agreed copy" else None
    wants = (
        partial(other.cache.code_dir, "package")
        if what == "the folder for code"
        else partial(other.copy, source, agreed)
    )
    with locked(place), pytest.raises(_Stopped):
        wants()
    assert len(waits) >= 3
    assert not what.startswith("the copy") or "which copies data train" in waits[0]
    other.told.on_wait = lambda what: None
    assert other.copy(source) == copy


def test_links_that_lead_round_or_nowhere_are_named(node: Node, source: DataSource) -> None:
    """Two that lead to their own folder are a million paths twenty folders down."""
    place = Path(source.url)
    (place / "deep" / "to nothing").symlink_to(place / "gone")
    with pytest.raises(DataError, match="to nothing is a link to what is not there"):
        node.copy(source)
    (place / "deep" / "to nothing").unlink()
    (place / "one").symlink_to(place)
    (place / "two").symlink_to(place)
    with pytest.raises(DataError, match="is a link to a folder that it lies in"):
        node.copy(source)
    (place / "one").unlink()
    (place / "two").unlink()
    (place / "beside").symlink_to(place / "deep")
    assert set(node.copy(source).files) == {*FILES, "beside/b.bin", "beside/empty"}


def test_one_file_is_given_as_a_file(node: Node, source: DataSource) -> None:
    found = node.copier.data({"train": DataSource(url=f"{source.url}/deep/b.bin", copy=True), "val": source})
    assert (Path(found["train"]).name, Path(found["train"]).read_bytes()) == ("b.bin", FILES["deep/b.bin"])
    assert (Path(found["val"]) / "a.bin").read_bytes() == FILES["a.bin"]


def test_what_changes_at_its_place_is_copied_anew_and_the_agreed_copy_is_still_had(
    node: Node, source: DataSource
) -> None:
    before = node.copy(source)
    (Path(source.url) / "a.bin").write_bytes(b"c" * 1000)
    after = node.copy(source)
    assert (after.path / "a.bin").read_bytes() == b"c" * 1000
    assert before.digest != after.digest
    shutil.rmtree(source.url)
    assert node.copy(source, before.digest) == before  # nobody asks the storage
    with pytest.raises(DataError, match="there is nothing at"):
        node.copy(source)


def test_a_digest_that_the_job_is_given_is_kept(node: Node, source: DataSource) -> None:
    digest = node.copy(source).digest
    assert node.copy(source.model_copy(update={"digest": digest})).digest == digest
    with pytest.raises(DataError, match=f"has the digest {digest}, and the job is given {'0' * 32}"):
        node.copy(source.model_copy(update={"digest": "0" * 32}))


@pytest.mark.parametrize("harm", ["cut", "touched", "new", "gone", "torn list"])
def test_a_copy_that_somebody_changed_is_not_used(node: Node, other: Node, source: DataSource, harm: str) -> None:
    """Nor removed while somebody may still read it."""
    before = node.copy(source)
    for folder, _, _ in os.walk(before.path):
        os.chmod(folder, 0o700)
    file = before.path / "a.bin"
    file.chmod(0o600)
    match harm:
        case "cut":
            file.write_bytes(b"x")
        case "touched":
            file.write_bytes(FILES["a.bin"])
        case "new":
            (before.path / "cache.idx").write_text("x")
        case "gone":
            file.unlink()
        case _:
            text = (before.folder.parent / f"{before.folder.name.partition('-')[0]}.json").read_text()
            before.folder.with_name(f"{before.folder.name.partition('-')[0]}.json").write_text(text[:-20])
    after = other.copy(source)
    assert after.folder != before.folder
    assert after.digest == before.digest
    assert {name: (after.path / name).read_bytes() for name in FILES} == FILES
    assert before.folder.exists()


def test_what_was_not_finished_is_never_used(node: Node, source: DataSource) -> None:
    def fail(num_bytes: int) -> None:
        raise KeyboardInterrupt

    node.told.on_progress = fail
    with pytest.raises(KeyboardInterrupt):
        node.copy(source)
    assert not [found for found in (node.cache.root / "data").iterdir() if found.is_dir()]
    node.told.on_progress = lambda num_bytes: None
    assert node.copy(source).files.keys() == FILES.keys()


_KILLED = """
import os, signal, sys, time
from pathlib import Path
from surefoot.data import DataSource
from surefoot_actors.node_data import places
from surefoot_actors.node_data.cache import NodeCache
from surefoot_actors.node_data.locks import Holds, locked
from surefoot_actors.node_data.places import Copier, Printed

class Teller(Printed):
    def progress(self, name, num_bytes, of):
        if sys.argv[3] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

print("starts", flush=True)
copier = Copier(NodeCache(Path(sys.argv[1]), Holds()), Teller())
copy = copier.copy("train", DataSource(url=sys.argv[2], copy=True), None)
print(copy.folder, flush=True)
"""


@pytest.mark.process
def test_processes_of_a_node_copy_once_and_one_that_is_killed_at_it_leaves_nothing(tmp_path: Path) -> None:
    source = _made(tmp_path / "source")

    def start(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _KILLED, str(tmp_path / "cache"), source.url, how]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with start("dies") as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    [part] = [found for found in (tmp_path / "cache" / "data").iterdir() if found.is_dir()]
    assert part.suffix == ".part"
    running = [start("lives") for _ in range(2)]
    outs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], outs
    assert len({out.splitlines()[-1] for out, _ in outs}) == 1
    assert sorted(err.count("copied data train") for _, err in outs) == [0, 1]
    assert not part.exists()


def test_room_is_made_by_what_nobody_uses_the_longest_unused_first(
    node: Node, other: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [_made(tmp_path / f"source{n}") for n in range(3)]
    copies = [node.copy(sources[0]), other.copy(sources[1]), other.copy(sources[2])]
    code = other.cache.code_dir("p" * 64)
    (code / "downloaded").write_text("x")
    other.holds.close()
    now = time.time()
    for n, folder in enumerate([copies[0].folder, copies[2].folder, copies[1].folder, code]):
        os.utime(folder.with_name(f"{folder.name}.use"), (now, now - 100 + n))
    there = lambda: [folder.exists() for folder in (*(copy.folder for copy in copies), code)]  # noqa: E731
    frees = iter([0, 0, 10, 10, 10])
    monkeypatch.setattr(NodeCache, "_free", lambda self: next(frees))
    node.cache.make_room(5, "")
    assert there() == [True, True, False, True]  # the first is held by this node, and then there was room
    frees = iter([0] * 10)
    node.cache.make_room(5, "")
    assert there() == [True, False, False, False]


def test_what_is_unused_for_long_goes_even_if_there_is_room(
    node: Node, other: Node, source: DataSource, tmp_path: Path
) -> None:
    old = other.copy(source)
    other.holds.close()
    node.cache.make_room(0, "")
    assert old.folder.exists()
    long_ago = time.time() - cache.UNUSED_S - 1
    os.utime(old.folder.with_name(f"{old.folder.name}.use"), (long_ago, long_ago))
    node.copy(_made(tmp_path / "new"))
    assert not old.folder.exists()
    assert node.cache.having(old.digest) is not None  # the new one: it has the same bytes


def test_a_disk_without_room_is_told_before_and_after(
    node: Node, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeCache, "_free", lambda self: 500)
    with pytest.raises(NodeError, match=r"data train has 1.02 kB, and /.*/cache has room for 500 bytes"):
        node.copy(source)
    monkeypatch.undo()

    def full(handle: int, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copying, "_make_durable", lambda folder: full(0, b""))
    with pytest.raises(NodeError, match=r"could not be copied to this node: No space left on device"):
        node.copy(source)
    monkeypatch.setattr(copying, "_write", full)
    with pytest.raises(NodeError, match=r"could not be copied to .*: No space left on device"):
        node.copy(source)


def test_a_cache_is_nobody_elses(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(NodeError, match="SUREFOOT_CACHE_DIR"):
        Node(tmp_path).cache.code_dir("x")
    assert cache_root({"SUREFOOT_CACHE_DIR": "/big"}) == Path("/big", f"surefoot-cache-{os.getuid()}")
    assert cache_root({}).name == f"surefoot-cache-{os.getuid()}"


def test_a_cache_has_the_size_that_it_is_given(
    node: Node, source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"": None, "7": 7, "2k": 2000, "10Gi": 10 << 30, "3TB": 3 * 10**12, "1.5Gi": 3 << 29}
    assert {text: cache.cache_size({"SUREFOOT_CACHE_SIZE": text}) for text in sizes} == sizes
    for odd in ("1i", "x", "-1", "100m"):
        with pytest.raises(NodeError, match="such as 50Gi"):
            cache.cache_size({"SUREFOOT_CACHE_SIZE": odd})
    monkeypatch.setattr(places, "_SPARE_BYTES", 0)
    monkeypatch.setenv("SUREFOOT_CACHE_SIZE", "1000")
    with pytest.raises(NodeError, match="has room for 1 kB"):
        node.copy(source)
    monkeypatch.setenv("SUREFOOT_CACHE_SIZE", "32Ki")  # files take whole blocks
    first = node.copy(source)
    node.holds.close()
    second = node.copy(_made(tmp_path / "second", **{"large": b"x" * 20_000}))  # for which the first has to go
    assert (first.folder.exists(), second.folder.exists()) == (False, True)


class _Flaky:
    """A store whose every file can be read the second time it is asked for."""

    def __init__(self, files: dict[str, bytes], wrong: Exception | None) -> None:
        self.files, self.wrong, self.asked = files, wrong, set[str]()

    def find(self, root: str, detail: bool) -> dict[str, dict[str, object]]:
        return {f"{root}/{name}": {"size": len(data), "ETag": f"e{len(data)}"} for name, data in self.files.items()}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        if path not in self.asked and self.wrong is not None:
            self.asked.add(path)
            raise self.wrong
        return self.files[path.removeprefix("bucket/")][start:end]


@pytest.mark.parametrize(
    ("wrong", "tries", "kind"),
    [
        (None, 1, None),
        (OSError("reset by peer"), 2, None),
        (PermissionError("403"), 1, DataError),
        (OSError("away"), 0, NodeError),
    ],
)
def test_what_may_pass_is_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, wrong: Exception | None, tries: int, kind: type[Exception] | None
) -> None:
    store = _Flaky(FILES, wrong)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (store, "bucket"))
    monkeypatch.setattr(copying, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(copying, "PATIENCE_S", 60.0 if tries else 0.0)
    source = DataSource(url="s3://bucket")
    if kind is not None:
        with pytest.raises(kind, match=r"s3://bucket: \S+ could not be copied"):
            node.copy(source)
        return
    copy = node.copy(source)
    assert {name: (copy.path / name).read_bytes() for name in FILES} == FILES


def test_what_could_change_unseen_is_another_attempts_own(
    node: Node, other: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/data/a", b"1")
    monkeypatch.setattr("surefoot_actors.node_data.listing._MARKS", ())
    try:
        copiers = [Copier(n.cache, n.told, run_id) for n, run_id in ((node, "1"), (other, "1"), (other, "2"))]
        copies = [c.copy("train", DataSource(url="memory://bucket/data"), None) for c in copiers]
        assert copies[0].folder == copies[1].folder != copies[2].folder
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_copy_is_not_lost_to_a_storage_that_is_away_when_it_is_done(
    node: Node, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it changed meanwhile is asked at the end: of a copy that may have taken hours."""
    calls: list[str] = []

    def away_once(url: str) -> Listing | None:
        calls.append(url)
        if len(calls) == 2:
            raise ConnectionResetError("away")
        return list_place(url)

    monkeypatch.setattr(places, "list_place", away_once)
    assert (node.copy(source).path / "a.bin").read_bytes() == FILES["a.bin"]
    assert node.told.said == ["copying train 1020 3", "trouble away", "copied train"]


def test_what_changes_while_it_is_copied_is_no_copy(node: Node, source: DataSource) -> None:
    node.told.on_progress = lambda num_bytes: os.utime(f"{source.url}/a.bin", ns=(1, 1))
    with pytest.raises(DataError, match="changed while it was copied"):
        node.copy(source)
    assert places.in_place(source) == Path(source.url)
