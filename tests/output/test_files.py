"""Files in `run.output_dir`: what is kept is as of a step, costs nothing twice, and is bounded. One process, no trainer."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import CheckpointError, NodeError
from surefoot.output import (
    AFTER_ALL,
    as_of,
    load_output,
    manifest_names,
    path_fault,
)
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.output import look as looking
from surefoot_actors.output import restore as restoring
from surefoot_actors.output import store as storing
from surefoot_actors.output import sync as syncing
from surefoot_actors.output import upload as uploading
from surefoot_actors.output.folder import LocalFolder
from surefoot_actors.output.store import OutputStore

from .elected import WAIT_S, Elect, Elected, kept, manifests, newest, objects

PART = uploading.PART_BYTES
# ---- what is kept, and given to whoever comes next


def test_whoever_is_elected_next_has_the_files_as_of_its_step(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    big = os.urandom(2 * PART + 17)
    first.write("plots/a.png", b"png" * 100)
    first.write("empty", b"")
    first.write("big.bin", big)
    for step in range(1, 6):
        first.write("rows.csv", f"{step - 1}\n".encode(), "ab")
        assert first.keep(step)
    at = {step: "".join(f"{k}\n" for k in range(step)).encode() for step in range(7)}
    for generation, step in enumerate((5, 3, 9), 2):
        then = elected("t1", generation).begin(step)
        assert then.files == {
            "plots/a.png": b"png" * 100,
            "empty": b"",
            "big.bin": big,
            "rows.csv": at[min(step, 5)],
        }
    assert elected("t9", generation=99).begin(0).files == {}


def test_after_going_back_to_an_earlier_step_the_newer_files_are_those_of_that_way(
    elected: Elect,
) -> None:
    first = elected().begin()
    first.write("a", b"first, as of 10")
    first.keep(10)
    second = elected("t1", 2).begin(5)
    second.write("a", b"second, as of 7")
    second.keep(7)
    assert elected("t2", 3).begin(12).files == {"a": b"second, as of 7"}


def test_what_was_left_in_the_midst_of_a_step_is_shown_and_not_gone_on_from(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("a", b"whole")
    first.keep(1)
    first.write("a", b"torn")
    first.sync.sync(1, WAIT_S, in_step=True)
    names = manifest_names(manifests(tmp_path / "job"))
    assert [name.at for name in names] == [AFTER_ALL, 1]
    assert elected("t1", 2).begin(100).files == {"a": b"whole"}


def test_what_is_written_after_the_loop_is_not_there_for_whoever_runs_that_again(
    elected: Elect,
) -> None:
    first = elected().begin()
    first.write("a", b"loop")
    first.keep(8)
    first.write("a", b" and after", "ab")
    first.sync.sync(8, WAIT_S, ended=True)
    assert elected("t1", 2).begin(8).files == {"a": b"loop"}


def test_a_file_that_is_open_to_append_goes_on_behind_what_is_restored(elected: Elect) -> None:
    first = elected().begin()
    first.write("rows.csv", b"0\n1\n")
    first.keep(2)
    second = elected("t1", 2)
    with (second.folder / "rows.csv").open("ab", buffering=0) as file:
        file.write(b"what nobody keeps")
        second.begin(2)
        file.write(b"2\n")
    assert second.files == {"rows.csv": b"0\n1\n2\n"}


def test_two_jobs_do_not_see_each_others(elected: Elect, tmp_path: Path) -> None:
    one, other = elected(place=tmp_path / "one").begin(), elected(place=tmp_path / "other").begin()
    one.write("a", b"1")
    other.write("b", b"2")
    assert one.keep(1)
    assert other.keep(1)
    assert one.folder != other.folder
    assert elected("t1", 2, place=tmp_path / "one").begin(1).files == {"a": b"1"}
    assert elected("t1", 2, place=tmp_path / "other").begin(1).files == {"b": b"2"}


_DATA = st.binary(max_size=40)
_ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "append"]), st.sampled_from("abc"), _DATA),
        st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(b"")),
        st.tuples(st.just("keep"), st.just(""), st.just(b"")),
        st.tuples(st.just("lose"), st.just(""), st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(acts=_ACTS)
def test_any_way_of_writing_keeping_and_losing(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, bytes]]
) -> None:
    """Whoever comes next has what was there when files were kept last, byte by byte."""
    place = tmp_path_factory.mktemp("job")
    now, kept, step, number = dict[str, bytes](), dict[str, bytes](), 0, 1
    trainer = Elected(place).begin()
    for act, name, data in [*acts, ("lose", "", b"")]:
        if act == "write":
            trainer.write(name, data)
            now[name] = data
        elif act == "append":
            trainer.write(name, data, "ab")
            now[name] = now.get(name, b"") + data
        elif act == "remove":
            (trainer.folder / name).unlink(missing_ok=True)
            now.pop(name, None)
        elif act == "keep":
            step += 1
            assert trainer.keep(step)
            kept = dict(now)
        else:
            trainer.sync.close()
            number += 1
            trainer = Elected(place, f"t{number}", number).begin(step)
            now = dict(kept)
        assert trainer.files == now
    trainer.sync.close()


# ---- what it costs


def test_what_is_unchanged_costs_nothing_again_and_what_grows_its_new_parts(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Storage.write

    def counted(self: Storage, path: str, chunks: list[memoryview], num_bytes: int = 0) -> object:
        if path.startswith("objects/"):
            written.append(sum(map(len, chunks)))
        return write(self, path, chunks, num_bytes)

    monkeypatch.setattr(Storage, "write", counted)
    first = elected().begin()
    first.write("big", os.urandom(4 * PART))
    first.keep(1)
    assert sum(written) == 4 * PART
    written.clear()
    os.utime(first.folder / "big")
    first.keep(2)
    assert written == []
    first.write("big", b"more", "ab")
    first.keep(3)
    assert written == [4]
    assert len(manifests(tmp_path / "job")) == 3
    first.keep(4)
    assert len(manifests(tmp_path / "job")) == 3


def test_many_small_files_are_few_objects(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    for n in range(300):
        first.write(f"{n % 7}/{n}", b"%d" % n * 20)
    first.keep(1)
    assert len(objects(tmp_path / "job")) == 1
    assert len(elected("t1", 2).begin(1).files) == 300


@pytest.mark.parametrize("at_once", [True, False])
def test_small_files_that_are_unchanged_are_not_read_again_however_many(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """More than is read at once as a step begins, and packed anew where there are many packs of little."""
    monkeypatch.setattr(looking, "_MOST_READ", 100_000)
    first, step = elected().begin(), 0
    for n in range(100):
        first.write(f"{n}", os.urandom(5000))
        os.utime(first.folder / f"{n}", (1e9, 1e9))  # long ago: what has just been written may be again
        if not at_once:
            assert first.keep(step := step + 1)
    for _ in range(3):
        assert first.keep(step := step + 1)
    read: list[Path] = []
    take = looking.take
    for module in (looking, uploading):
        monkeypatch.setattr(module, "take", lambda path: read.append(path) or take(path))
    assert first.keep(step := step + 1)
    assert read == []
    assert first.files == kept(tmp_path / "job") == elected("t1", 2).begin(step).files
    assert len({p for f in newest(tmp_path / "job").files for p, _, _ in f.pieces}) < 20


def test_what_nobody_needs_is_removed_and_what_a_checkpoint_needs_is_not(elected: Elect, tmp_path: Path) -> None:
    place = tmp_path / "job"
    (place / "step-000000003").mkdir(parents=True)
    (place / "step-000000003" / "manifest.json").touch()
    first = elected().begin()
    for step in range(1, 30):
        first.write("best.pt", bytes([step]) * (PART // 8))
        first.keep(step)
    assert len(manifests(place)) == 9
    assert len(objects(place)) <= 11
    assert elected("t1", 2).begin(3).files == {"best.pt": bytes([3]) * (PART // 8)}


# ---- what cannot be kept is told, and nothing fails


def test_odd_things_are_told_and_the_rest_is_kept(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("good", b"1")
    (first.folder / "link").symlink_to("/etc/passwd")
    (first.folder / "linked").symlink_to("/etc")
    os.mkfifo(first.folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(first.folder)
        server.bind("socket")
        os.chdir(here)
        first.write("new\nline", b"1")
        (first.folder / os.fsdecode(b"not-utf-8-\xff")).write_bytes(b"1")
        assert first.keep(1)
    told = "\n".join(first.told)
    for name in ("link", "linked", "pipe", "socket", "line", "not-utf-8"):
        assert name in told
    first.keep(2)
    assert len(first.told) == 6
    assert elected("t1", 2).begin(1).files == {"good": b"1"}


def test_an_unreadable_file_is_told(elected: Elect, monkeypatch: pytest.MonkeyPatch) -> None:
    first = elected().begin()
    first.write("secret", b"1" * (looking.SMALL_BYTES + 1))
    first.write("good", b"1")

    def refuse(path: Path) -> int:
        if path.name == "secret":
            raise PermissionError(13, "Permission denied")
        return os.open(path, os.O_RDONLY)

    monkeypatch.setattr(uploading, "take", refuse)
    assert first.keep(1)
    assert "secret" in first.told[0]
    assert "Permission denied" in first.told[0]
    assert elected("t1", 2).begin(1).files == {"good": b"1"}


@pytest.mark.parametrize("unread", ["", "plots"])
def test_a_folder_that_cannot_be_looked_into_loses_nothing_that_was_kept(
    elected: Elect, monkeypatch: pytest.MonkeyPatch, unread: str
) -> None:
    """A process has only so many open files: that they are all in use is no word of what is in a folder."""
    first = elected().begin()
    first.write("plots/a", b"1")
    first.write("b", b"2")
    assert first.keep(1)
    scandir = os.scandir
    with monkeypatch.context() as full:

        def refuse(path: Path) -> object:
            if path == first.folder / unread:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return scandir(path)

        full.setattr(os, "scandir", refuse)
        first.write("b", b"3")
        assert first.keep(2)
    assert "Too many open files" in first.told[0]
    second = elected("t1", 2).begin(2)
    assert second.files == {"plots/a": b"1", "b": b"3" if unread else b"2"}
    (second.folder / "plots" / "a").unlink()
    (second.folder / "plots").rmdir()
    assert second.keep(3)
    assert elected("t2", 3).begin(3).files.keys() == {"b"}


def test_too_many_entries_lose_nothing_that_was_kept(elected: Elect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_MOST_ENTRIES", 20)
    first = elected().begin()
    for name in "abc":
        first.write(f"{name}/file", name.encode())
    assert first.keep(1)
    for n in range(30):
        for name in "abc":
            first.write(f"{name}/{n}", b"1")
    assert first.keep(2)
    assert {f"{name}/file" for name in "abc"} <= elected("t1", 2).begin(2).files.keys()


def test_beyond_the_bound_the_new_is_left_out_and_told(elected: Elect) -> None:
    first = elected(most=1000).begin()
    first.write("b", b"1" * 600)
    first.keep(1)
    first.write("a", b"2" * 600)
    first.write("c", b"3" * 100)
    assert first.keep(2)
    assert "'a'" in first.told[0]
    assert "SUREFOOT_MAX_OUTPUT_BYTES" in first.told[0]
    assert set(elected("t1", 2).begin(2).files) == {"b", "c"}


def test_a_big_file_written_anew_while_it_is_read_is_kept_as_it_was(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never half of one version and half of another: neither is of any step."""
    first = elected().begin()
    before, after = b"1" * (looking.SMALL_BYTES + 10), b"2" * (looking.SMALL_BYTES + 99)
    first.write("big", before)
    first.keep(1)
    first.write("big", before[:-1] + b"!")
    read = uploading.Uploader._read

    def rewriting(self: uploading.Uploader, handle: int, at: int, size: int) -> memoryview:
        part = read(self, handle, at, size)
        first.write("big", after)
        return part

    monkeypatch.setattr(uploading.Uploader, "_read", rewriting)
    assert first.keep(2)
    assert kept(tmp_path / "job") == {"big": before}
    for step in range(3, 7):
        os.utime(first.folder / "big")
        first.keep(step)
    assert "changed each time" in first.told[0]
    monkeypatch.setattr(uploading.Uploader, "_read", read)
    assert first.keep(7)
    assert kept(tmp_path / "job") == {"big": after}


def test_a_big_file_that_grows_while_it_is_read_is_kept_as_long_as_it_was(
    elected: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = elected().begin()
    row = b"x" * 1000 + b"\n"
    first.write("log", row * 200)
    first.keep(1)
    first.write("log", row * 200, "ab")
    read = uploading.Uploader._read

    def growing(self: uploading.Uploader, handle: int, at: int, size: int) -> memoryview:
        first.write("log", b"of the next step", "ab")
        return read(self, handle, at, size)

    monkeypatch.setattr(uploading.Uploader, "_read", growing)
    assert first.keep(2)
    assert elected("t1", 2).begin(2).files == {"log": row * 400}


@pytest.mark.parametrize("size", [4096, looking.SMALL_BYTES + 4096])
def test_what_is_written_to_a_file_that_is_in_memory_is_kept(elected: Elect, tmp_path: Path, size: int) -> None:
    """The system notes the time of the first such write alone, until the file is on disk."""
    first = elected().begin()
    first.write("map ped", b"0" * size)
    with (first.folder / "map ped").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:1] = b"1"
        os.utime(file.fileno(), (1e9, 1e9))  # it is long ago
        assert first.keep(1)
        memory[:1] = b"2"
        assert (first.folder / "map ped").stat().st_mtime == 1e9
    assert first.keep(2)
    assert kept(tmp_path / "job") == {"map ped": b"2" + b"0" * (size - 1)}


def test_a_later_writer_ends_the_earlier_ones_writing(elected: Elect, tmp_path: Path) -> None:
    first, second = elected().begin(), elected("t1", 2)
    first.write("a", b"1")
    first.keep(1)
    second.begin(1)
    first.write("a", b"a frozen one's")
    assert not first.keep(2)
    third = elected("t0", 1)
    third.begin(2)  # one that was frozen before it took over
    third.write("a", b"late")
    third.keep(2)
    assert elected("t2", 3).begin(9).files == {"a": b"1"}


def test_storage_that_is_away_costs_a_word_and_is_tried_again(elected: Elect, monkeypatch: pytest.MonkeyPatch) -> None:
    first = elected().begin()
    first.write("a", b"1")
    with monkeypatch.context() as away:
        away.setattr(OutputStore, "put", _refuse)
        assert not first.keep(1)
        assert not first.keep(2)
    assert len(first.told) == 1
    assert first.keep(3)
    assert elected("t1", 2).begin(3).files == {"a": b"1"}


def test_files_are_kept_although_old_ones_cannot_be_removed(elected: Elect, monkeypatch: pytest.MonkeyPatch) -> None:
    first = elected().begin()
    monkeypatch.setattr(Storage, "remove", _refuse)
    for step in range(1, 13):
        first.write("a", b"%d" % step)
        assert first.keep(step)
    assert first.told == []
    assert elected("t1", 2).begin(12).files == {"a": b"12"}


def test_whoever_is_elected_waits_for_a_storage_that_is_away_and_at_last_no_more(
    elected: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = elected().begin()
    first.write("a", b"1")
    first.keep(1)
    monkeypatch.setattr(syncing, "_TRY_AGAIN_S", 0.001)
    second, calls = elected("t1", 2), []

    def later(self: OutputStore) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise CheckpointError("away")
        take_over(self)

    take_over = OutputStore.take_over
    monkeypatch.setattr(OutputStore, "take_over", later)
    assert second.begin(1).files == {"a": b"1"}
    monkeypatch.setattr(OutputStore, "take_over", _refuse)
    monkeypatch.setattr(syncing, "AWAY_S", 0.0)
    third = elected("t2", 3).begin(1)
    assert third.files == {}
    third.write("b", b"2")
    assert third.keep(2)  # nothing to be kept: it was told
    assert "nothing is kept" in third.told[-1]
    monkeypatch.setattr(OutputStore, "take_over", take_over)
    assert elected("t3", 4).begin(2).files == {"a": b"1"}


def test_damaged_files_are_told_and_those_before_them_taken(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("a", b"1")
    first.keep(1)
    kept = set(objects(tmp_path / "job"))
    first.write("a", b"2")
    first.keep(2)
    (bad,) = set(objects(tmp_path / "job")) - kept
    (tmp_path / "job" / "files" / "objects" / bad).write_bytes(b"?")
    second = elected("t1", 2).begin(2)
    assert second.files == {"a": b"1"}
    assert "damaged" in second.told[0]


def _refuse(*arguments: object) -> None:
    raise CheckpointError("the storage is away")


# ---- the folder, and names


@pytest.mark.process
def test_folders_of_dead_processes_are_removed_and_living_ones_stay(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    living = elected()
    pid = os.fork()
    if not pid:
        Elected(tmp_path / "other").write("a", b"1")
        os._exit(0)
    os.waitpid(pid, 0)
    base = living.folder.parents[1]
    assert len([p for p in base.iterdir() if p.is_dir()]) == 2
    living.sync._local.remove_leftovers()  # type: ignore[union-attr]
    assert [p for p in base.iterdir() if p.is_dir()] == [living.folder.parent]


@pytest.mark.parametrize("taken", ["by a link", "by somebody else", "open to all"])
def test_a_folder_that_is_somebody_elses_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    """Everybody can write to /tmp, and knows what the folder there is called."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    me, base = os.getuid(), tmp_path / f"surefoot-output-{os.getuid()}"
    other = tmp_path / "other"
    other.mkdir()
    if taken == "by a link":
        base.symlink_to(other)
    else:
        base.mkdir()
        base.chmod(0o777)
    if taken == "by somebody else":
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
        base.rename(tmp_path / f"surefoot-output-{me + 1}")
    if taken == "open to all":
        LocalFolder().remove()
        assert base.stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(NodeError, match="TMPDIR"):
            LocalFolder()
    assert not list(other.iterdir())


@pytest.mark.parametrize(
    "path", ["../a", "a/../b", "/a", "a//b", "", ".", "a/.", "a\\b", "a\0b", "x" * 300, "a/" * 600 + "a"]
)
def test_no_path_leads_out(path: str) -> None:
    assert path_fault(path)


@given(st.text(max_size=30))
def test_a_path_without_fault_lies_below(path: str) -> None:
    if not path_fault(path):
        assert os.path.normpath(f"/x/{path}") == f"/x/{path}"


def test_a_manifest_that_leads_out_is_refused(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("abc", b"1")
    first.keep(1)
    (name,) = manifests(tmp_path / "job")
    body = (tmp_path / "job" / "files" / "manifests" / name).read_bytes()
    assert load_output(name, body).files[0].path == "abc"
    with pytest.raises(ValueError, match="corrupt"):
        load_output(name, body.replace(b"abc", b"../"))
    assert as_of(manifest_names([name, "junk", "../x"]), 1)[0].name == name


def test_no_more_of_what_is_restored_is_in_memory_than_is_read_side_by_side(
    elected: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files of a job together may be larger than the machine's memory."""
    first = elected().begin()
    for n in range(40):
        first.write(f"{n}", os.urandom(looking.SMALL_BYTES + 1))
    assert first.keep(1)
    read, most, done = [0], [0], [0]
    read_small, write = Storage.read_small, restoring._write

    def counted(self: Storage, path: str) -> bytes:
        if path.startswith("objects/"):
            read[0] += 1
            most[0] = max(most[0], read[0] - done[0])
        return read_small(self, path)

    def slow(path: Path, data: bytes, at: int) -> None:
        time.sleep(0.01)
        write(path, data, at)
        done[0] += 1

    monkeypatch.setattr(Storage, "read_small", counted)
    monkeypatch.setattr(restoring, "_write", slow)
    assert len(elected("t1", 2).begin(1).files) == 40
    assert read[0] == 40
    assert most[0] <= 2 * storing._NUM_READERS


def test_what_a_full_disk_could_not_take_is_not_kept_as_the_jobs(
    elected: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = elected().begin()
    for n in range(3):
        first.write(f"{n}", b"%d" % n * 2 * looking.SMALL_BYTES)
    assert first.keep(1)
    before = dict(first.files)
    write = restoring._write

    def full(path: Path, data: bytes, at: int) -> None:
        if path.name == "1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data, at)

    with monkeypatch.context() as disk:
        disk.setattr(restoring, "_write", full)
        second = elected("t1", 2)
        (second.folder / "2").write_bytes(b"of its own")
        second.begin(1)
    assert second.files == {"2": b""}
    assert "No space left" in second.told[0]
    second.write("more", b"1")
    second.keep(2)
    assert elected("t2", 3).begin(2).files == before


def test_nothing_of_damaged_files_is_kept_as_the_jobs(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("a", b"1")
    first.keep(1)
    whole = set(objects(tmp_path / "job"))
    first.write("b", os.urandom(PART + looking.SMALL_BYTES))
    first.keep(2)
    for bad in set(objects(tmp_path / "job")) - whole:
        (tmp_path / "job" / "files" / "objects" / bad).write_bytes(b"?")
    second = elected("t1", 2).begin(2)
    assert second.files == {"a": b"1"}
    assert second.keep(3)
    assert kept(tmp_path / "job") == {"a": b"1"}


def test_gone_back_to_an_earlier_step_its_files_are_those_that_are_shown(elected: Elect, tmp_path: Path) -> None:
    first = elected().begin()
    first.write("a", b"as of 1")
    first.keep(1)
    first.write("a", b"as of 5")
    first.keep(5)
    second = elected("t1", 2).begin(2)
    assert second.keep(3)
    assert kept(tmp_path / "job") == {"a": b"as of 1"}
    assert elected("t2", 3).begin(9).files == {"a": b"as of 1"}


def test_an_earlier_writer_removes_nothing_that_a_later_one_counts_on(
    elected: Elect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training again from an earlier step writes the same bytes: what is there already is not written again."""
    place = tmp_path / "job"
    (place / "step-000000001").mkdir(parents=True)
    (place / "step-000000001" / "manifest.json").touch()
    first = elected().begin()
    later: list[Elected] = []
    remove = Storage.remove

    def write(trainer: Elected, step: int) -> None:
        for name in ("best.pt", "plot.png"):
            trainer.write(name, name.encode() + b"%03d" % step * looking.SMALL_BYTES)

    def frozen(self: Storage, path: str) -> None:
        remove(self, path)
        if path.startswith("objects/") and not later:
            later.append(elected("t1", 2).begin(1))

    monkeypatch.setattr(Storage, "remove", frozen)
    for step in range(1, 40):
        write(first, step)
        if not first.keep(step) and later:
            break
    (second,) = later
    for step in range(2, 12):
        write(second, step)
        assert second.keep(step)
        assert kept(place) == second.files
