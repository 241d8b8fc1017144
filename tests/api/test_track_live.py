"""A live job brought to a tracker, from the real control plane, which is restarted meanwhile."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import httpx
import pytest
from tests.api.test_against_service import Attempt, begin, serving
from tests.api.test_track import points

from surefoot import Client
from surefoot.spec import JobState
from surefoot.trackers.tensorboard import TensorBoard
from surefoot.trackers.tracking import Tracked, track

pytestmark = pytest.mark.process


class Follower(threading.Thread):
    """`surefoot track`, beside the test, which is told how many steps are there after each flush."""

    def __init__(self, job: str, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(daemon=True)
        self.seen: queue.Queue[list[int]] = queue.Queue()
        self.tracked: Tracked | None = None
        self._job, self._to = job, to
        flush = TensorBoard.flush

        def told(tracker: TensorBoard) -> None:
            flush(tracker)
            self.seen.put([step for step, _ in points(to)])

        monkeypatch.setattr(TensorBoard, "flush", told)

    def run(self) -> None:
        with Client() as client:
            self.tracked = track(client.job(self._job), f"tensorboard:{self._to}")

    def wait_for(self, steps: list[int]) -> None:
        while self.seen.get(timeout=60) != steps:
            pass


def test_a_live_job_over_a_restart_of_the_service(tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "data"))
    with serving(tmp_path / "data") as first:
        with Client() as client:
            job = client.submit("train:train", folder=code, batch_size=64, trainers=2).id
        attempt = first.attempt(job)
        begin(attempt)
        follower = Follower(job, tmp_path / "board", monkeypatch)
        follower.start()
        follower.wait_for([0, 1, 2])
        port = httpx.URL(first.url).port
    assert port is not None
    with serving(tmp_path / "data", port):
        attempt.tell(3)
        follower.wait_for([0, 1, 2, 3])
        # some steps again, as an attempt tells them that goes on from a checkpoint
        attempt.tell(2, 3, 4)
        follower.wait_for([0, 1, 2, 3, 4])
        end(attempt)
        follower.join(60)
    assert follower.tracked is not None
    assert (follower.tracked.written, follower.tracked.last_step) == (7, 6)
    assert [step for step, _ in points(tmp_path / "board")] == list(range(7))
    with serving(tmp_path / "data"), Client() as client:
        assert client.job(job).state is JobState.SUCCEEDED
        # a clone is another job, with curves of its own
        with pytest.raises(ValueError, match=f"holds the curves of job {job}"):
            track(client.submit_from(job), f"tensorboard:{tmp_path / 'board'}", follow=False)


def end(attempt: Attempt) -> None:
    attempt.tell(5, 6, finished={"steps": 7, "digest": "d" * 32}, state={"state": "succeeded", "reason": ""})
