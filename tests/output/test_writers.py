"""Two trainers that write one job's files: one that was thought dead, and frozen anywhere, harms nothing of the one that came after it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import CheckpointError
from surefoot.output import (
    KeptFile,
    ManifestName,
    OutputManifest,
    WriterName,
    counted,
    dump_output,
    load_output,
    manifest_names,
    writer_names,
)
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.output import look as looking
from surefoot_actors.output import store as storing
from surefoot_actors.output.store import FencedError, OutputStore, Put, WriterId

from ..programs.fiber import Ended, Fiber
from .elected import Elect, kept


def frozen_before(monkeypatch: pytest.MonkeyPatch, act: str, folder: str, then: Callable[[str], object]) -> list[str]:
    """Stop whoever does this next there, do something else, and let it go on; return what it then did it to."""
    do, stopped = getattr(Storage, act), list[str]()

    def frozen(self: Storage, path: str, *arguments: object) -> object:
        if path.startswith(folder) and not stopped:
            stopped.append(path)
            then(path)
        return do(self, path, *arguments)

    monkeypatch.setattr(Storage, act, frozen)
    return stopped


def test_one_that_was_frozen_as_it_took_over_takes_nothing_from_a_later_one(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = elected("t1", 2)
    stopped = frozen_before(monkeypatch, "write", "writer", lambda path: second.begin(0))
    first = elected().begin(0)
    assert len(stopped) == 1
    second.write("a", b"second")
    assert second.keep(1)
    first.write("a", b"first")
    assert first.told
    assert "t0 of generation 1, attempt 1" in first.told[0]
    assert first.keep(9)  # there is nothing that it keeps, and it has said so
    assert kept(tmp_path / "job") == {"a": b"second"}


def test_a_commit_that_comes_late_does_not_count(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of a later step than what the next one has kept, which began at an earlier checkpoint."""
    first, second = elected().begin(0), elected("t1", 2)
    first.write("a", b"first, as of 1")
    assert first.keep(1)

    def go_on(path: str) -> None:
        assert second.begin(1).files == {"a": b"first, as of 1"}
        second.write("a", b"second")
        assert second.keep(2)

    stopped = frozen_before(monkeypatch, "write", "manifests/", go_on)
    first.write("a", b"first, as of 9")
    assert not first.keep(9)
    assert len(stopped) == 1
    assert kept(tmp_path / "job") == {"a": b"second"}
    assert elected("t2", 3).begin(9).files == {"a": b"second"}


def test_what_is_removed_late_is_nothing_that_a_later_one_has_put(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one trains the same steps again, and writes the same bytes."""
    place, monkeypatched = tmp_path / "job", monkeypatch
    monkeypatched.setattr(storing, "_KEEP", 1)
    (place / "step-000000001").mkdir(parents=True)
    (place / "step-000000001" / "manifest.json").touch()
    first, second = elected().begin(0), elected("t1", 2)

    def best(step: int) -> bytes:
        return b"%03d" % step * looking.SMALL_BYTES

    def go_on(path: str) -> None:
        second.begin(1)
        for step in range(2, 6):
            second.write("best.pt", best(step))
            assert second.keep(step)
            if path.endswith(xxhash.xxh3_128_hexdigest(best(step))):
                break

    stopped = frozen_before(monkeypatch, "remove", "objects/", go_on)
    for step in range(1, 6):
        first.write("best.pt", best(step))
        if not first.keep(step):
            break
    assert len(stopped) == 1
    assert kept(place) == second.files
    assert elected("t2", 3).begin(5).files == second.files


# ---- any interleaving

CONTENTS = [bytes([n]) * 9 for n in range(4)]
DIGESTS = [xxhash.xxh3_128_hexdigest(content) for content in CONTENTS]


class Writer:
    """One writer's life, which stops before everything that it asks of the storage."""

    def __init__(self, place: str, order: int, acts: list[list[int]]) -> None:
        self.store = OutputStore(place, WriterId(attempt=1, generation=order, trainer=f"t{order}"))
        self.acts, self.fenced, self.kept = acts, False, list[ManifestName]()
        self.began: list[ManifestName] | None = None
        self.fiber = Fiber(self.live)
        self.stops = 0

    def live(self) -> None:
        try:
            self.store.take_over()
            self.began = list(self.store.names)
            for name in self.began[:1]:
                files_ = self.store.read(name.name).files
                self.store.count_on(Put(f.pieces[0][0], DIGESTS[int(f.path[2:])]) for f in files_)
            for files in self.acts:
                pieces = [(n, self.store.put(CONTENTS[n]).name) for n in files]
                manifest = OutputManifest(
                    step=0,
                    at=0.0,
                    files=tuple(
                        KeptFile(path=f"{k}-{n}", bytes=9, modified_ns=0, pieces=((name, 0, 9),))
                        for k, (n, name) in enumerate(pieces)
                    ),
                )
                self.store.commit(manifest, 0)
                self.kept.append(self.store.names[0])
                self.store.prune()
        except FencedError:
            self.fenced = True


class World:
    """What is in the storage, and whoever is at work there."""

    def __init__(self, lives: list[list[list[int]]]) -> None:
        self.place = f"memory://{os.urandom(8).hex()}"
        self.writers = [Writer(self.place, order, acts) for order, acts in enumerate(lives)]
        self.storage = Storage(f"{self.place}/files")

    def names(self) -> list[ManifestName]:
        there = manifest_names(self.storage.sizes("manifests"))
        return counted(there, writer_names(self.storage.sizes("writers")))

    def check(self) -> None:
        """The newest that counts is whole, whatever is going on."""
        for name in self.names()[:1]:
            manifest = load_output(name.name, self.storage.read_small(f"manifests/{name.name}"))
            for file in manifest.files:
                data = self.storage.read_small(f"objects/{file.pieces[0][0]}")[:9]
                assert data == CONTENTS[int(file.path[2:])]

    def run(self, turns: list[tuple[int, int]]) -> None:
        for who, count in [*turns, *((n, 10**6) for n in range(len(self.writers)))]:
            fiber = self.writers[who].fiber
            for _ in range(count):
                if fiber.ended:
                    break
                ended = fiber.resume()
                if isinstance(ended, Ended) and ended.error is not None:
                    raise ended.error
                self.check()


def stopping(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Every call of a storage is a stop, by whichever fiber makes it."""
    by_thread = {writer.fiber._thread: writer.fiber for writer in world.writers}

    def stopping_at(do: Callable[..., object]) -> Callable[..., object]:
        def stop(self: Storage, *arguments: object) -> object:
            if (fiber := by_thread.get(threading.current_thread())) is not None:
                fiber.ask(None)
            return do(self, *arguments)

        return stop

    for act in ("write", "sizes", "read_small", "remove"):
        monkeypatch.setattr(Storage, act, stopping_at(getattr(Storage, act)))


_LIFE = st.lists(st.lists(st.integers(0, len(CONTENTS) - 1), max_size=2), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    lives=st.lists(_LIFE, min_size=2, max_size=3),
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), max_size=12),
)
def test_any_interleaving_of_writers(lives: list[list[list[int]]], turns: list[tuple[int, int]]) -> None:
    """At every moment the newest that counts is whole; whatever was kept is found by whoever comes later; and the last is never fenced."""
    world = World(lives)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(storing, "_KEEP", 1)
        stopping(monkeypatch, world)
        world.run([(who % len(lives), count) for who, count in turns])
    assert not world.writers[-1].fenced
    assert len(world.writers[-1].kept) == len(lives[-1])
    assert world.names()[0] == world.writers[-1].kept[-1]
    writers = writer_names(world.storage.sizes("writers"))
    for writer in world.writers:
        assert counted(writer.kept, writers) == writer.kept
        for earlier in world.writers[: world.writers.index(writer)]:
            assert writer.began is None or all(name.seq <= _newest(writer.began) for name in earlier.kept)
    fsspec.filesystem("memory").rm(f"/{world.place.removeprefix('memory://')}", recursive=True)


def _newest(names: list[ManifestName]) -> int:
    return names[0].seq if names else 0


# ---- names


def test_what_an_earlier_version_kept_counts_until_a_later_writer_has_begun() -> None:
    manifest = OutputManifest(step=1, at=0.0, files=())
    old = [dump_output(manifest, seq=n, at=n, writer="a1g4t0")[0] for n in (1, 2, 3)]
    names = manifest_names([*old, "junk"])
    assert counted(names, []) == names
    assert [n.seq for n in counted(names, [WriterName(1, 5, 0, "t1", after=2)])] == [2, 1]
    assert counted(names, [WriterName(1, 5, 0, "t1")]) == names  # it has not looked yet
    assert counted(names, [WriterName(1, 3, 0, "t1", after=0)]) == names  # an earlier one


@given(
    attempt=st.integers(0, 10**9), generation=st.integers(0, 10**9), turn=st.integers(0, 1000),
    after=st.none() | st.integers(0, 10**12),
)  # fmt: skip
def test_a_writers_name_says_what_it_is(attempt: int, generation: int, turn: int, after: int | None) -> None:
    writer = WriterName(attempt, generation, turn, "t7", after)
    assert writer_names([writer.name, "junk"]) == [writer]


def test_numbers_may_have_ten_digits_and_end_at_last(tmp_path: Path) -> None:
    manifest, place = OutputManifest(step=1, at=0.0, files=()), tmp_path / "files" / "manifests"
    place.mkdir(parents=True)
    name, body = dump_output(manifest, seq=999_999_999, at=1, writer="a1g1t0")
    (place / name).write_bytes(body)
    store = OutputStore(str(tmp_path), WriterId(attempt=1, generation=2, trainer="t1"))
    store.take_over()
    store.commit(manifest, 2)
    assert manifest_names(os.listdir(place))[0].seq == 1_000_000_000
    name, body = dump_output(manifest, seq=10**15 - 1, at=1, writer="a1g3t0")
    (place / name).write_bytes(body)
    store = OutputStore(str(tmp_path), WriterId(attempt=1, generation=4, trainer="t1"))
    store.take_over()
    with pytest.raises(CheckpointError, match="there can be none after that"):
        store.commit(manifest, 2)


def test_those_that_are_elected_in_one_generation_come_one_after_the_other(tmp_path: Path) -> None:
    manifest = OutputManifest(step=1, at=0.0, files=())
    stores = [OutputStore(str(tmp_path), WriterId(attempt=1, generation=3, trainer=name)) for name in ("t9", "t2")]
    for store in stores:
        store.take_over()
        store.commit(manifest, 1)
    with pytest.raises(FencedError):
        stores[0].commit(manifest, 2)
    stores[1].take_over()  # again, as after a storage that was away
    stores[1].commit(manifest, 2)
    again = OutputStore(str(tmp_path), WriterId(attempt=1, generation=4, trainer="t2"))
    again.take_over()
    assert [name.seq for name in again.names] == [3, 2, 1]
