"""Trials share a cache, as trainers of one node do: what is done once a node is done by one of them, while the others wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from surefoot_actors.check.pins import UserCode
from surefoot_actors.check.probe import Probe, Rehearsal, Seen
from surefoot_actors.check.watch import Watch


def test_what_is_done_once_a_node_is_done_by_one_trial_while_others_wait(tmp_path: Path) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[str]()

    def prepare() -> None:
        done.append("begun")
        begun.set()
        assert go_on.wait(60)
        done.append("ended")

    def trial() -> None:
        rehearsal = Rehearsal(2, Probe(name="one"), Watch(UserCode(tmp_path)), Seen(), tmp_path, tmp_path / "once")
        rehearsal.node_once("node_once train.py:3 #1", prepare)
        done.append("on")

    trials = [threading.Thread(target=trial) for _ in range(2)]
    for thread in trials:
        thread.start()
    assert begun.wait(60)
    go_on.set()
    for thread in trials:
        thread.join(60)
    assert done == ["begun", "ended", "on", "on"]


def test_a_trial_whose_code_raises_leaves_it_to_the_next(tmp_path: Path) -> None:
    made: list[int] = []

    def fails() -> None:
        raise ValueError("no disk")

    for prepare in (fails, lambda: made.append(1), lambda: made.append(2)):
        rehearsal = Rehearsal(2, Probe(name="one"), Watch(UserCode(tmp_path)), Seen(), tmp_path, tmp_path / "once")
        if prepare is fails:
            with pytest.raises(ValueError, match="no disk"):
                rehearsal.node_once("key", prepare)
        else:
            rehearsal.node_once("key", prepare)
    assert made == [1]
