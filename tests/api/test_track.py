"""What a job has logged, told and brought to a tracker: after ten kills every step is there once, in order."""

from __future__ import annotations

import io
import json
import math
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from surefoot import Client
from surefoot.cli.app import app
from surefoot.cli.printing import PlainConsole
from surefoot.cli.progress import Progress, line
from surefoot.cli.session import Session
from surefoot.cli.watch import _display, _follow
from surefoot.errors import MissingExtraError, SurefootError, UserError
from surefoot.events import LedgerRow
from surefoot.spec import JobState
from surefoot.trackers.about import about
from surefoot.trackers.follow import Brought, bring
from surefoot.trackers.tensorboard import TensorBoard, records
from surefoot.trackers.tracking import open_tracker, track

from .conftest import FakeService, make_row, make_view
from .wandb_server import Server

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


JOB = about(make_view())


class Dying(TensorBoard):
    """Killed at a step, as the machine would leave it."""

    def __init__(self, folder: Path, kill_after: int, cut: int) -> None:
        super().__init__(folder, JOB)
        self._kill_after, self._cut = kill_after, cut

    def write(self, row: LedgerRow) -> bool:
        new = super().write(row)
        if row.result.step == self._kill_after:
            if self._cut:  # flushed, and in the midst of a record
                self.flush()
                newest = max(self.folder.iterdir())
                os.truncate(newest, max(0, newest.stat().st_size - self._cut))
            os.kill(os.getpid(), signal.SIGKILL)
        return new


def _train_and_die(folder: Path, kill_after: int, cut: int) -> None:
    """In a process of its own: bring rows, and be killed after so many."""
    bring((make_row(n, loss=n / 2, accuracy=n / STEPS) for n in range(STEPS)), Dying(folder, kill_after, cut))


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
    assert found[7][0] == 7
    assert found[7][1] == pytest.approx({"loss": 3.5, "accuracy": 7 / STEPS})


def put(rows: list[LedgerRow], folder: Path) -> int:
    with closing(TensorBoard(folder, JOB)) as tracker:
        return bring(rows, tracker).written


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
    return fake.add(make_view(ended_at="2026-01-02T04:00:00Z", state=JobState.SUCCEEDED)).id


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
    found = json.loads(run("metrics", board_job, "--json", "--show", "accuracy"))
    assert list(found) == ["accuracy"]
    assert (found["accuracy"]["max_step"], type(found["accuracy"]["max"])) == (4, float)
    for more in ((), ("--csv",), ("--json",)):
        assert "did you mean 'accuracy'?" in run("metrics", board_job, "--show", "acuracy", *more, code=2)


@pytest.mark.parametrize("to", ["tensorboard", "tensorboard:", "elsewhere:x", ""])
def test_a_tracker_that_is_none_is_refused(run: Callable[..., str], board_job: str, to: str) -> None:
    told = run("track", board_job, "--to", to, code=2)
    assert "tensorboard:FOLDER, mlflow:EXPERIMENT, wandb:[ENTITY/]PROJECT, trackio:PROJECT" in told


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("tensorboard", "tensorboardX.event_file_writer"),
        ("mlflow", "mlflow"),
        ("wandb", "wandb"),
        ("trackio", "trackio"),
    ],
)
def test_the_extra_is_named_where_it_is_missing(
    kind: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"surefoot\[{kind}\]"):
        open_tracker(f"{kind}:{tmp_path / 'x'}", JOB)


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    put([make_row(0)], tmp_path)
    with pytest.raises(UserError, match="holds the curves of job abc2345678: give job zzz2345678 another folder"):
        TensorBoard(tmp_path, about(make_view("zzz2345678")))


# ---- rows as they come


class Counting:
    """A tracker that does nothing but count, and takes as long for a flush as the test wants."""

    where, renamed = "", {}  # type: ignore[var-annotated]

    def __init__(self, *, busy: bool = False) -> None:
        self.steps: list[int] = []
        self.flushed: queue.Queue[int] = queue.Queue()
        self.may_go_on = threading.Event()
        if not busy:
            self.may_go_on.set()

    def last_step(self) -> int:
        return self.steps[-1] if self.steps else -1

    def write(self, row: LedgerRow) -> bool:
        self.steps.append(row.result.step)
        return True

    def flush(self) -> None:
        self.flushed.put(len(self.steps))
        assert self.may_go_on.wait(10)

    def close(self, outcome: object = None) -> None:
        pass


def test_a_slow_tracker_gets_more_rows_at_once() -> None:
    tracker = Counting(busy=True)

    def rows() -> Iterator[LedgerRow]:
        yield make_row(0)
        assert tracker.flushed.get(timeout=60) == 1  # it is busy with the first
        yield from (make_row(n) for n in range(1, 50))
        tracker.may_go_on.set()

    assert bring(rows(), tracker) == Brought(written=50, last_step=49)
    assert tracker.steps == list(range(50))
    assert tracker.flushed.qsize() < 10
    assert list(tracker.flushed.queue)[-1] == 50


def test_what_has_come_is_flushed_while_the_job_is_quiet() -> None:
    tracker, more = Counting(), threading.Event()

    def rows() -> Iterator[LedgerRow]:
        yield make_row(0)
        yield make_row(1)
        assert more.wait(10)

    follower = threading.Thread(target=bring, args=(rows(), tracker))
    follower.start()
    while tracker.flushed.get(timeout=60) < 2:
        pass
    more.set()
    follower.join(10)
    assert not follower.is_alive()


def test_an_error_of_the_ledger_is_raised_after_what_came_before_it() -> None:
    def rows() -> Iterator[LedgerRow]:
        yield from (make_row(n) for n in range(5))
        raise SurefootError("away")

    tracker = Counting()
    with pytest.raises(SurefootError, match="away"):
        bring(rows(), tracker)
    assert tracker.steps == [0, 1, 2, 3, 4]
    assert list(tracker.flushed.queue)[-1] == 5


def test_nobody_reads_on_when_the_tracker_has_failed() -> None:
    read, ended = [], threading.Event()

    def rows() -> Iterator[LedgerRow]:
        try:
            for n in range(100_000):
                read.append(n)
                yield make_row(n)
        finally:
            ended.set()

    tracker = Counting()
    tracker.write = lambda row: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    with pytest.raises(ZeroDivisionError):
        bring(rows(), tracker)
    assert ended.wait(10)
    assert len(read) < 5000


def test_a_job_that_ends_while_it_is_read_is_brought_whole(fake: FakeService, tmp_path: Path) -> None:
    """Whether it has ended is asked before the rows are."""
    fake.rows = [make_row(n) for n in range(3)]
    job = fake.add(make_view(state=JobState.RUNNING)).id
    page = fake._ledger

    def ends_after(request: httpx.Request) -> httpx.Response:
        answer = page(request)
        fake.rows = [make_row(n) for n in range(6)]
        fake.add(make_view(state=JobState.SUCCEEDED, ended_at="2026-01-02T04:00:00Z", steps_done=6))
        return answer

    fake._ledger = ends_after  # type: ignore[method-assign]
    with Client("http://x", "t", transport=fake.transport) as client:
        tracked = track(client.job(job), f"tensorboard:{tmp_path}")
    assert (tracked.written, tracked.last_step) == (6, 5)
    assert [step for step, _ in points(tmp_path)] == [0, 1, 2, 3, 4, 5]


# ---- the trackers of others, each in a process of its own, which has its library


LIBRARIES = Path(sys.prefix, "libraries")
N = 60
CONFIG = {"lr": 0.1, "model": {"dim": 3, "names": ["a", "b"]}, "what @ll": "x" * 7000}
FACTS = {
    "job": "abc2345678",
    "name": "digits",
    "entrypoint": "train:train",
    "package": "a" * 64,
    "seed": 7,
    "batch_size": 64,
    "sub_tasks": 8,
    "target": "loss<=0.0",
}


def brought(kind: str, tmp_path: Path, **more: str) -> dict[str, Any]:
    """What the library reads after ten kills, and after the job was brought again."""
    home = {name: str(tmp_path) for name in ("HOME", "WANDB_DIR", "TRACKIO_DIR")}
    quiet = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "tests.api.bringing", kind, str(LIBRARIES)]
    environment = {**os.environ, **home, **quiet, **more}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_whole(there: dict[str, Any], names: dict[str, str], infinity: float = math.inf) -> None:
    """Every step of every value once, in order, with its number; `names`: how those are called that may not be called as they are."""
    assert there["runs"] == 1
    points = {name: [tuple(point[:2]) for point in of] for name, of in there["points"].items()}
    called = [names.get(name, name) for name in ("loss", "accuracy", "top@5", "top#5", "step", "_x", "../y")]
    loss, accuracy, at, hash_, *others = called
    assert sorted(points) == sorted(called)
    assert points[accuracy] == [(n, n / N) for n in range(0, N, 5)]
    assert points[at] == [(n, n) for n in range(N)]
    assert points[hash_] == [(n, -n) for n in range(N)]
    assert [[n for n, _ in points[name]] for name in (loss, *others)] == [list(range(N))] * 4
    assert math.isnan(points[loss][7][1])
    assert points[loss][8:10] == [(8, infinity), (9, -infinity)]
    assert [v for n, v in points[loss] if not 7 <= n <= 9] == [n / 2 for n in range(N) if not 7 <= n <= 9]
    times = [point[2] for point in there["points"][loss]]
    assert times == sorted(set(times))


@pytest.mark.process
def test_mlflow_has_every_step_once_after_ten_kills(tmp_path: Path) -> None:
    found = brought("mlflow", tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/m.db")
    names = found["renamed"]
    assert set(names) == {"top@5", "top#5", "../y", "what @ll"}
    for there in (found["first"], found["again"]):
        # MLflow's databases have no infinity
        check_whole(there, names, sys.float_info.max)
        text = {"lr": "0.1", "model.dim": "3", "model.names": '["a", "b"]', names["what @ll"]: "x" * 6000}
        assert there["params"] == text
        assert (
            FACTS.items()
            <= {
                name.removeprefix("surefoot."): int(value) if value.isdecimal() else value
                for name, value in there["tags"].items()
            }.items()
        )
        assert (there["status"], there["name"]) == ("FINISHED", "digits-abc2345678")
    assert found["where"].startswith(f"sqlite:///{tmp_path}/m.db, run ")
    assert found["last_step"] == N - 2, "the last step may have been cut short: it is looked at again"


@pytest.mark.process
def test_wandb_has_every_step_once_after_ten_kills(tmp_path: Path) -> None:
    found = brought("wandb", tmp_path)
    names = found["renamed"]
    assert set(names) == {"_x"}
    for there in (found["first"], found["again"]):
        check_whole(there, names)
        assert there["config"] == {"_wandb": {}, **CONFIG, "surefoot": FACTS}
        assert (there["tags"], there["name"]) == (["surefoot"], "digits-abc2345678")
    assert found["where"].startswith(f"wandb sync {tmp_path}/wandb/offline-run-")
    assert found["last_step"] == -1, "offline, a run is begun anew"


@pytest.mark.process
def test_wandb_online_goes_on_after_the_last_step_that_the_server_has(tmp_path: Path) -> None:
    with Server() as server:
        environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40}
        found = brought("wandb", tmp_path, **environment)
        history = server.history("abc2345678")
        assert [line["_step"] for line in history] == list(range(N))
        assert [line["top@5"] for line in history] == list(range(N))
        assert [line["_timestamp"] for line in history] == [1e9 + n for n in range(N)]
        assert len({offset for offset in server.offsets if 0 < offset < N}) >= 5, "it has gone on in the midst"
        assert json.loads(server.told["abc2345678"]["config"])["surefoot"]["value"] == FACTS
        assert (found["where"], found["last_step"]) == (f"{server.url}/me/here/runs/abc2345678", N - 1)


@pytest.mark.process
def test_trackio_has_every_step_once_after_ten_kills(tmp_path: Path) -> None:
    found = brought("trackio", tmp_path)
    assert set(found["renamed"]) == {"step"}
    for there in (found["first"], found["again"]):
        check_whole(there, found["renamed"])
        assert there["config"] == {**CONFIG, "surefoot": FACTS}
    assert (found["where"], found["last_step"]) == ("trackio show --project here", N - 1)


def test_show_tells_every_value_as_it_was_logged_last(run: Callable[..., str], fake: FakeService) -> None:
    fake.rows = [
        make_row(n, lr=0.1, loss=1.0 / (n + 1), many={"accuracy": n / 10} if n % 3 == 0 else {}) for n in range(5)
    ]
    fake.rows[4].result.values["norm"] = math.nan
    job = fake.add(make_view(steps_done=5)).id
    [line_] = [text for text in run("show", job).splitlines() if text.startswith("values")]
    assert line_.split(maxsplit=1)[1] == "loss 0.2, lr 0.1, accuracy 0.3 (step 3), norm nan"
    assert json.loads(run("show", job, "--json"))["values"] == {
        "lr": {"value": 0.1, "step": 4},
        "loss": {"value": 0.2, "step": 4},
        "accuracy": {"value": 0.3, "step": 3},
        "norm": {"value": "nan", "step": 4},
    }


def test_show_counts_values_beyond_what_it_tells(run: Callable[..., str], fake: FakeService) -> None:
    fake.rows = [make_row(0, many={f"layer{n}/norm": float(n) for n in range(50)})]
    told = run("show", fake.add(make_view(steps_done=1)).id)
    assert "and 20 more: see `surefoot metrics`" in " ".join(told.split())


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_a_terminal_line_of_watch_is_no_wider_than_the_terminal(columns: int, fake: FakeService) -> None:
    fake.rows = [make_row(n, many={f"layer{k}/norm": k / 3 for k in range(30)}, loss=0.25) for n in range(50)]
    view = make_view(ended_at="2026-01-02T04:00:00Z", state=JobState.SUCCEEDED, steps_done=50, num_steps=50)
    fake.add(view)
    out = PlainConsole(width=columns, force_terminal=True, file=io.StringIO(), highlight=False, markup=False)
    with Client("http://x", "t", transport=fake.transport) as client, _display(out) as display:
        _follow(client.job(view.id), Progress(total=50), display)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())  # type: ignore[attr-defined]
    lines = re.split(r"[\r\n]+", text)
    assert any("step 50/50  loss 0.25" in line for line in lines)
    assert max(map(cell_len, lines)) <= columns


def test_watch_tells_the_values_that_are_asked_for() -> None:
    progress = Progress(show=("accuracy", "loss"))
    for row in (make_row(0, loss=0.5, accuracy=0.25), make_row(1, loss=0.4)):
        progress = progress.after(row)
    assert "accuracy 0.25  loss 0.4" in line(progress)
    assert "loss 0.4" in line(Progress().after(make_row(1, accuracy=1.0, loss=0.4)))
