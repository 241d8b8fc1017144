"""What a job has logged, told and brought to a tracker: after ten kills every step is there once, in order."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surefoot.cli.app import app
from surefoot.cli.progress import Progress, line
from surefoot.cli.session import Session
from surefoot.errors import UserError
from surefoot.events import LedgerRow
from surefoot.trackers.follow import bring
from surefoot.trackers.tensorboard import TensorBoard, records

from .conftest import FakeService, make_row, make_view

STEPS = 300


def points(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """As TensorBoard reads them: file by file, until a record is broken."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        end = 0
        for record, end in records(data):  # noqa: B007
            event = event_pb2.Event.FromString(record)
            if event.HasField("summary"):
                found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
        assert end == len(data), f"{file} is cut short in the midst of a record"
    return found


def _train_and_die(folder: Path, kill_after: int, cut: int) -> None:
    """In a process of its own: bring rows, and be killed after so many, as the machine would leave it."""

    def rows() -> Iterator[LedgerRow]:
        for n in range(STEPS):
            yield make_row(n, loss=n / 2, accuracy=n / STEPS)
            if n == kill_after:
                if cut:  # flushed, and in the midst of a record
                    tracker.flush()
                    newest = max(folder.iterdir())
                    os.truncate(newest, max(0, newest.stat().st_size - cut))
                os.kill(os.getpid(), signal.SIGKILL)

    tracker = TensorBoard(folder)
    bring(rows(), tracker, flush_every=20)


@pytest.mark.process
def test_after_ten_kills_every_step_is_there_once_and_in_order(tmp_path: Path) -> None:
    import tensorboardX.event_file_writer  # noqa: F401  here, rather than in each child

    chance = random.Random(0)
    kills = sorted(chance.sample(range(10, STEPS), 10))
    for n, kill_after in enumerate([*kills, STEPS]):
        child = os.fork()
        if not child:
            try:
                _train_and_die(tmp_path, kill_after, chance.randrange(1, 30) if n % 2 else 0)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (0 if kill_after == STEPS else -signal.SIGKILL)
    found = points(tmp_path)
    assert [step for step, _ in found] == list(range(STEPS))
    assert found[7] == (7, pytest.approx({"loss": 3.5, "accuracy": 7 / STEPS}))


def put(rows: list[LedgerRow], folder: Path) -> int:
    with TensorBoard(folder) as tracker:
        return bring(rows, tracker)


def test_a_cut_at_any_byte_loses_no_step_and_doubles_none(tmp_path: Path) -> None:
    rows = [make_row(n, loss=float(n)) for n in range(4)]
    whole = tmp_path / "whole"
    put(rows, whole)
    [file] = whole.iterdir()
    data = file.read_bytes()
    for cut in range(len(data)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / file.name).write_bytes(data[:cut])
        put(rows, folder)
        assert [step for step, _ in points(folder)] == [0, 1, 2, 3], cut


def test_again_nothing_is_written(tmp_path: Path) -> None:
    rows = [make_row(n) for n in range(5)]
    assert put(rows, tmp_path) == 5
    assert put(rows, tmp_path) == 0
    assert len(points(tmp_path)) == 5


@pytest.fixture
def run(fake: FakeService) -> Callable[..., str]:
    def invoke(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(words), obj=Session(transport=fake.transport, url="http://x", token="t"))
        assert result.exit_code == code, result.output
        return result.output

    return invoke


@pytest.fixture
def board_job(fake: FakeService) -> str:
    fake.rows = [make_row(n, loss=1.0 - n / 10, accuracy=n / 10) for n in range(5)]
    return fake.add(make_view(ended_at="2026-01-02T04:00:00Z", state="succeeded")).id


def test_track_brings_an_ended_job(run: Callable[..., str], board_job: str, tmp_path: Path) -> None:
    told = run("track", board_job, "--to", f"tensorboard:{tmp_path / 'board'}")
    assert "5 steps written, up to step 4" in told
    assert [step for step, _ in points(tmp_path / "board")] == [0, 1, 2, 3, 4]


def test_metrics_tells_every_value(run: Callable[..., str], board_job: str) -> None:
    told = run("metrics", board_job)
    assert "loss" in told
    assert "0.6 at 4" in told
    assert "0.4 at 4" in told
    assert run("metrics", board_job, "--csv", "--show", "accuracy").splitlines() == [
        "step,accuracy", "0,0.0", "1,0.1", "2,0.2", "3,0.3", "4,0.4",
    ]  # fmt: skip
    assert '"max_step": 4' in run("metrics", board_job, "--json", "--show", "accuracy")


@pytest.mark.parametrize("to", ["tensorboard", "tensorboard:", "elsewhere:x", ""])
def test_a_tracker_that_is_none_is_refused(run: Callable[..., str], board_job: str, to: str) -> None:
    assert "must look like tensorboard:FOLDER" in run("track", board_job, "--to", to, code=2)


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(UserError, match=r"surefoot\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_watch_tells_the_values_that_are_asked_for() -> None:
    progress = Progress(show=("accuracy", "loss"))
    for row in (make_row(0, loss=0.5, accuracy=0.25), make_row(1, loss=0.4)):
        progress = progress.after(row)
    assert "accuracy 0.25  loss 0.4" in line(progress)
    assert "loss 0.4" in line(Progress().after(make_row(1, accuracy=1.0, loss=0.4)))
