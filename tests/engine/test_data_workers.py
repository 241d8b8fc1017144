# ruff: noqa: SIM115  the files of these tests are open on purpose
"""Data workers that die, raise, or hold what cannot be shared: never a hang, never other bits, never the loss of more than a worker."""

from __future__ import annotations

import os
import queue
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surefoot.contract import Run
from surefoot.errors import ContractError, SurefootError
from surefoot_actors.engine.data import pool
from surefoot_actors.engine.data.pool import DataWorkersLostError

from .kit import run_local, same
from .loading import loaded

pytestmark = pytest.mark.timeout(360)
RECORD = 24


class Samples:
    """What each test makes of a sample; `at` is told whether it is in a data worker."""

    def __init__(self, at: Callable[[int, bool], Any], length: int = 40) -> None:
        self.at, self.length = at, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.at(index, torch.utils.data.get_worker_info() is not None)


def once(mark: Path) -> bool:
    """Whether this is the first call with this mark, in any process."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# ---- deaths


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, "exit", "exit with a child"])
@pytest.mark.parametrize("data_workers", [1, 3])
def test_a_worker_that_dies_is_replaced(how: Any, data_workers: int, tmp_path: Path) -> None:
    def at(index: int, in_worker: bool) -> Any:
        if in_worker and index % 7 == 5 and once(tmp_path / f"died-{index}"):
            if how == "exit with a child":  # which keeps the worker's end of its channel
                child = os.fork()
                if not child:
                    os.closerange(0, 3)
                    signal.pause()
                (tmp_path / f"died-{index}").write_text(str(child))
            if isinstance(how, str):
                os._exit(7)
            signal.signal(how, signal.SIG_DFL) if how != signal.SIGKILL else None
            os.kill(os.getpid(), how)
        return torch.rand(3) + index

    def train(run: Run) -> None:
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        run.track(model=model, optimizer=optimizer)
        data = Samples(at)
        for step in run.steps(6):
            for x in step.batches(data):
                loss = model(x).square().mean()
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    undisturbed = run_local(train, batch_size=12, sub_tasks=3)
    assert not list(tmp_path.iterdir())
    try:
        disturbed = run_local(train, batch_size=12, sub_tasks=3, data_workers=data_workers)
    finally:
        for child in filter(None, (mark.read_text() for mark in tmp_path.iterdir())):
            os.kill(int(child), signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 5, "each of 5, 12, 19, 26, 33 is to kill a worker"
    assert same(undisturbed, disturbed)


def die(how: int) -> Callable[[int, bool], Any]:
    def at(index: int, in_worker: bool) -> Any:
        if index == 5:
            signal.signal(how, signal.SIG_DFL) if how != signal.SIGKILL else None
            os.kill(os.getpid(), how)
        return index

    return at


def test_samples_that_kill_every_worker_are_named() -> None:
    with pytest.raises(
        SurefootError, match=r"SIGSEGV, as did the 2 before it.*samples \[.*\b5\b.*data_workers=0"
    ) as caught:
        loaded(Samples(die(signal.SIGSEGV)), data_workers=2, num_steps=10)
    assert not isinstance(caught.value, DataWorkersLostError)


def test_workers_that_are_killed_again_and_again_are_the_trainers_loss() -> None:
    """The kernel does so when memory is short: elsewhere there may be more."""
    with pytest.raises(DataWorkersLostError, match=r"SIGKILL.*lower data_workers"):
        loaded(Samples(die(signal.SIGKILL)), data_workers=1, num_steps=10)


def test_workers_that_cannot_be_started_are_the_trainers_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_more)
    with pytest.raises(DataWorkersLostError, match=r"could not be started.*lower data_workers"):
        loaded(Samples(lambda i, _: i), data_workers=1)


def test_workers_that_die_at_once_are_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(pool, "work", broken)
    with pytest.raises(SurefootError, match="exit code 1"):
        loaded(Samples(lambda i, _: i), data_workers=1)
    assert "RuntimeError: planted" in capfd.readouterr().err


# ---- what is raised


class OddError(Exception):
    """Cannot be made from its message alone."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


RAISED: list[BaseException] = [
    KeyError("a key"),
    FileNotFoundError(2, "No such file", "somewhere"),
    ContractError("of the user's own"),
    SystemExit(3),
    UnicodeDecodeError("utf8", b"x", 0, 1, "bad"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_errors_of_samples_keep_their_type_and_tell_where(error: BaseException) -> None:
    def at(index: int, in_worker: bool) -> Any:
        raise error

    for data_workers in (0, 1):
        with pytest.raises(type(error)) as caught:
            loaded(Samples(at), data_workers=data_workers)
        assert str(error) in str(caught.value)
        if data_workers:
            assert "test_data_workers.py" in str(caught.value.__cause__)
            assert "raise error" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_is_told() -> None:
    def at(index: int, in_worker: bool) -> Any:
        raise OddError(1, 2)

    with pytest.raises(SurefootError, match="OddError in a data worker: 1 and 2"):
        loaded(Samples(at), data_workers=1)


@pytest.mark.parametrize("data_workers", [0, 1])
def test_an_iterator_that_ends_does_not_end_the_loop(data_workers: int) -> None:
    def at(index: int, in_worker: bool) -> Any:
        return next(iter([]))

    with pytest.raises(RuntimeError, match="StopIteration"):
        loaded(Samples(at), data_workers=data_workers)


def opened() -> Any:
    with open(__file__) as file:
        return file


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda i: lambda: i, r"batch\['a'\]\[2\]\[1\] is a builtins.function"),
        (lambda i: opened(), r"batch\['a'\]\[2\]\[1\] is a _io.TextIOWrapper"),
        (lambda i: torch.ones(2, requires_grad=True) * i, r"batch\['a'\]\[2\]\[1\] is a torch.Tensor.*detach\(\)"),
        (lambda i: {"deep": (i, iter([i]).__iter__, (x for x in ()))}, r"batch\['a'\]\[2\]\[1\]\['deep'\]\[2\] is a builtins.generator"),
    ],
)  # fmt: skip
def test_what_cannot_be_pickled_is_named_by_path_and_type(bad: Callable[[int], Any], words: str) -> None:
    def collate(rows: list[Any]) -> Any:
        return {"x": torch.zeros(3), "a": [1, 2, (3, bad(rows[0]))]}

    with pytest.raises(ContractError, match=rf"here.py:1: {words}.*data_workers=0"):
        loaded(Samples(lambda i, _: i), lambda step: collate, data_workers=1)
    loaded(Samples(lambda i, _: i), lambda step: collate, data_workers=0, use=lambda batch: None)


def test_batches_of_many_tensors_use_up_no_descriptors() -> None:
    """Neither while they travel nor while they are kept."""
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, hard))
    try:
        kept = loaded(
            Samples(lambda i, _: i, 400),
            lambda step: lambda rows: [torch.full((i % 5 + 20_000,), i) for i in rows for _ in range(4)],
            data_workers=2,
            num_steps=8,
            use=lambda batch: batch,
            batch_size=40,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(kept) == 16
    assert all(batch[5][0] == batch[5][-1] for batch in kept)


def test_a_lack_of_descriptors_is_an_error_not_a_hang() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def at(index: int, in_worker: bool) -> Any:
        if in_worker:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        return torch.zeros(100_000)

    with pytest.raises(OSError, match="Too many open files"):
        loaded(Samples(at), data_workers=1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_large_requests_and_large_answers_do_not_wait_for_each_other() -> None:
    """Texts, which are pickled, and more sample numbers than a socket's buffer holds."""
    data = Samples(lambda i, _: "x" * 40 + str(i), 70_000)
    inline, workers = (loaded(data, data_workers=n, batch_size=60_000, num_steps=3, use=hash_of) for n in (0, 2))
    assert inline == workers


def hash_of(batch: Any) -> int:
    return hash(tuple(batch))


# ---- files and connections


def record(i: int) -> bytes:
    return (str(i) * RECORD)[:RECORD].encode()


class File:
    """Reads records from something that was opened once, and partly read, in the training process."""

    def __init__(self, file: Any, read: Callable[[Any, int], Any]) -> None:
        self.file, self.read = file, read

    def __len__(self) -> int:
        return 3000

    def __getitem__(self, index: int) -> Any:
        return self.read(self.file, index)


def seek_and_read(file: Any, index: int) -> Any:
    file.seek(index * RECORD)
    return file.read(RECORD)


def by_number(file: Any, index: int) -> Any:
    os.lseek(file, index * RECORD, os.SEEK_SET)
    return os.read(file, RECORD)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    path.write_bytes(b"".join(record(i) for i in range(3000)))
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3000):
            archive.writestr(str(i), record(i))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(path, "records")
    return path


def deleted(path: Path) -> Any:
    file = tempfile.TemporaryFile()
    file.write(path.read_bytes())
    file.flush()
    return file


def partly_read(file: Any) -> Any:
    file.read(100)
    return file


OPEN: dict[str, tuple[Callable[[Path], Any], Callable[[Any, int], Any]]] = {
    "buffered": (lambda p: partly_read(open(p, "rb")), seek_and_read),
    "unbuffered": (lambda p: open(p, "rb", buffering=0), seek_and_read),
    "text": (lambda p: partly_read(open(p)), seek_and_read),
    "read and write": (lambda p: partly_read(open(p, "r+b")), seek_and_read),
    "append": (lambda p: open(p, "a+b"), seek_and_read),
    "number": (lambda p: os.open(p, os.O_RDONLY), by_number),
    "deleted": (deleted, seek_and_read),
    "memory map": (lambda p: np.memmap(p, np.uint8, "r"), lambda m, i: bytes(m[i * RECORD : (i + 1) * RECORD])),
    "zip": (lambda p: zipfile.ZipFile(p.parent / "z.zip"), lambda z, i: z.read(str(i))),
    "tar": (lambda p: tarfile.open(p.parent / "t.tar"), lambda t, i: seek_and_read(t.extractfile("records"), i)),
}  # fmt: skip


def offsets(folder: Path) -> dict[int, int]:
    """Where this process is in each file of this folder that it has open."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            inside = os.readlink(f"/proc/self/fd/{number}").startswith(str(folder))
            if inside and stat.S_ISREG(os.fstat(number).st_mode):
                found[number] = os.lseek(number, 0, os.SEEK_CUR)
        except OSError:
            continue  # the listing's own
    return found


@pytest.mark.parametrize("kind", OPEN)
def test_workers_have_offsets_of_their_own(kind: str, path: Path) -> None:
    make, read = OPEN[kind]
    file = make(path)
    data = File(file, read)
    right, places = [record(i) for i in range(3000)], offsets(path.parent)

    def use(batch: Any) -> Any:
        return [b.encode() if isinstance(b, str) else b for b in batch]

    try:
        for data_workers in (0, 3):
            got = loaded(data, lambda step: list, data_workers=data_workers, batch_size=200, num_steps=8, use=use)
            wanted = loaded(
                Samples(lambda i, _: i, 3000), lambda step: list, data_workers=0, batch_size=200, num_steps=8, use=list
            )
            assert [[right[i] for i in part] for part in wanted] == got
            if data_workers:
                assert offsets(path.parent) == places, "a worker moved the trainer's own place"
            places = offsets(path.parent)
    finally:
        os.close(file) if isinstance(file, int) else getattr(file, "close", lambda: None)()


def test_the_trainer_keeps_its_own_place_in_a_file(path: Path) -> None:
    with open(path, "rb") as file:
        seek_and_read(file, 7)
        at = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        loaded(File(file, seek_and_read), lambda step: len, data_workers=2, use=int)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == at
        assert file.read(RECORD) == record(8)


def test_logs_are_shared_and_keep_all_lines(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", buffering=1) as log:

        def at(index: int, in_worker: bool) -> Any:
            log.write(f"{index}\n")
            return index

        loaded(Samples(at), data_workers=2, num_steps=5)
    assert set((tmp_path / "log").read_text().split()) == {str(i) for i in range(40)}


class Client:
    """A library's object that holds a connection somewhere within."""

    def __init__(self, held: Any) -> None:
        self.pool: queue.LifoQueue[Any] = queue.LifoQueue()
        self.pool.put(held)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[dict[str, Any]]:
    one, other = socket.socketpair()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    database = sqlite3.connect(tmp_path / "db")
    yield {"socket": one, "pipe": child, "database": database, "cursor": database.cursor()}
    child.communicate(b"\n")
    for thing in (one, other, database):
        thing.close()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("socket", "a connection (socket.socket)"),
        ("pipe", "a pipe (_io.BufferedReader)"),
        ("database", "an SQLite connection (sqlite3.Connection)"),
        ("cursor", "an SQLite connection (sqlite3.Cursor)"),
    ],
)
def test_connections_are_refused_by_name(kind: str, words: str, connections: dict[str, Any]) -> None:
    data = Samples(lambda i, _: i)
    data.client = Client(connections[kind])  # type: ignore[attr-defined]
    with pytest.raises(ContractError) as caught:
        loaded(data, data_workers=1)
    said = str(caught.value)
    assert said.startswith("here.py:1: the dataset.client.pool.queue[0]"), said
    assert words in said
    assert "in __getitem__" in said
    assert len(loaded(data, data_workers=0)) == 6


def test_a_connection_in_a_closure_of_collate_is_refused(connections: dict[str, Any]) -> None:
    one = connections["socket"]
    with pytest.raises(ContractError, match=r"collate \(variable 0 of its closure\) is a connection"):
        loaded(Samples(lambda i, _: i), lambda step: lambda rows: one.fileno(), data_workers=1)


# ---- what workers are


def test_workers_know_what_they_are() -> None:
    def at(index: int, in_worker: bool) -> Any:
        info = torch.utils.data.get_worker_info()
        return (info.id, info.num_workers, len(info.dataset), torch.get_num_threads()) if info else ()

    seen = loaded(Samples(at), lambda step: list, data_workers=2, use=list, num_steps=5)
    assert {row for part in seen for row in part} <= {(0, 2, 40, 1), (1, 2, 40, 1)}


def test_workers_end_with_their_source() -> None:
    numbers: set[int] = set()
    loaded(Samples(lambda i, _: os.getpid()), lambda step: list, data_workers=3, use=numbers.update)
    assert numbers
    assert not any(os.path.exists(f"/proc/{n}") for n in numbers - {os.getpid()})
