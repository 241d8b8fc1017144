"""Which checkpoints an attempt makes and keeps, on a real folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surefoot.errors import CheckpointError
from surefoot.spec import JobSpec
from surefoot_actors.checkpoint.capture import Facts, HostMemory, Place, capture
from surefoot_actors.checkpoint.catalogue import Catalogue, Made
from surefoot_actors.checkpoint.manifest import Point
from surefoot_actors.checkpoint.store import MANIFEST, CheckpointStore
from surefoot_actors.checkpoint.write import write_share
from surefoot_actors.protocol.messages import Saved

from .kit import CPU, DIGEST, FINGERPRINT, tracked

OWNER = tracked(1, width=4, vocabulary=9)
NAN = float("nan")


def catalogue(
    folder: Path, may_commit: Callable[[], bool] = lambda: True, attempt: int = 1, **policy: Any
) -> Catalogue:
    spec = JobSpec(entrypoint="job:train", package="0" * 64, batch_size=32, checkpoint=policy)
    return Catalogue(spec, str(folder), may_commit, attempt)


def written(folder: Path, step: int, **values: float) -> Saved:
    """Write a state's only share; `values` are what the step before logged."""
    place = Place(generation=1, round=step, step=step, share=0, of=1)
    facts = Facts(
        fingerprint=FINGERPRINT, num_steps=50, last=Point(step=step - 1, digest=DIGEST, values=values), rows=()
    )
    entry = write_share(
        CheckpointStore(str(folder)).storage, "t0", capture(OWNER.survey(), place, facts, HostMemory(CPU)), {}
    )
    return Saved(trainer="t0", generation=1, round=step, step=step, share=0, of=1, entry=entry.model_dump_json())


def make(own: Catalogue, folder: Path, step: int, **values: float) -> Made:
    """Commit a checkpoint and remove what need not be kept, as the keeper does."""
    made = own.commit([written(folder, step, **values)], "a test")
    own.retain(made.url)
    return made


def steps(folder: Path) -> list[int]:
    return [found.step for found in CheckpointStore(str(folder)).found()]


@pytest.mark.parametrize(("mode", "best"), [("min", 4), ("max", 3)])
def test_the_best_is_kept_beside_the_newest(tmp_path: Path, mode: str, best: int) -> None:
    """Not a number is never the best: neither first, when there is nothing to compare it to, nor later."""
    own = catalogue(tmp_path, keep=1, best="loss", best_mode=mode)
    make(own, tmp_path, 1, loss=NAN)
    make(own, tmp_path, 2, loss=2.0)
    assert steps(tmp_path) == [2], "what is not a number was kept as the best"
    for step, loss in [(3, 3.0), (4, 1.0), (5, 2.5), (6, NAN), (7, 2.5)]:
        make(own, tmp_path, step, loss=loss)
    make(own, tmp_path, 8, accuracy=0.0)  # a step that did not log it
    assert steps(tmp_path) == [8, best]


def test_of_equals_the_first_is_the_best(tmp_path: Path) -> None:
    own = catalogue(tmp_path, keep=1, best="loss")
    for step in (1, 2, 3):
        make(own, tmp_path, step, loss=1.0)
    assert steps(tmp_path) == [3, 1]


def test_the_best_of_an_earlier_attempt_is_kept_until_there_is_a_better(tmp_path: Path) -> None:
    earlier = catalogue(tmp_path, keep=1, best="loss")
    for step, loss in [(1, NAN), (2, 1.0), (3, 2.0)]:
        make(earlier, tmp_path, step, loss=loss)
    assert steps(tmp_path) == [3, 2]
    own = catalogue(tmp_path, keep=1, best="loss")
    own.find()
    for step in (4, 5):
        make(own, tmp_path, step, loss=1.5)
        assert steps(tmp_path) == [step, 2]
    make(own, tmp_path, 6, loss=0.5)
    assert steps(tmp_path) == [6]


def test_an_earlier_one_that_cannot_be_read_is_not_the_best(tmp_path: Path) -> None:
    earlier = catalogue(tmp_path, keep=10, best="loss")
    damaged = make(earlier, tmp_path, 1, loss=0.1)
    make(earlier, tmp_path, 2, loss=1.0)
    Path(damaged.url, MANIFEST).write_bytes(b"{}")
    own = catalogue(tmp_path, keep=1, best="loss")
    own.find()
    make(own, tmp_path, 3, loss=2.0)
    assert steps(tmp_path) == [3, 2]


def test_without_a_best_the_newest_are_kept(tmp_path: Path) -> None:
    own = catalogue(tmp_path, keep=2)
    for step in (1, 2, 3, 10):
        make(own, tmp_path, step, loss=1.0 / step)
    assert steps(tmp_path) == [10, 3]


def test_what_is_made_is_told(tmp_path: Path) -> None:
    saved = written(tmp_path, 4)
    made = catalogue(tmp_path).commit([saved], "a test")
    assert (made.url, made.step, made.model) == (f"{tmp_path}/step-000000004", 4, "")
    files = [path for path in Path(made.url).iterdir() if path.name != MANIFEST]
    assert made.bytes == sum(path.stat().st_size for path in files)


def test_who_has_been_replaced_commits_nothing(tmp_path: Path) -> None:
    """The fence is looked at when it is about to commit, and not when it began."""
    may = True
    own = catalogue(tmp_path, lambda: may, keep=2)
    first = make(own, tmp_path, 1)
    saved = written(tmp_path, 2)
    may = False
    with pytest.raises(CheckpointError, match="another supervisor has taken over"):
        own.commit([saved], "a test")
    assert [manifest.parent for manifest in tmp_path.rglob(MANIFEST)] == [Path(first.url)]
    # the other supervisor's own shares of that step make the checkpoint
    make(catalogue(tmp_path), tmp_path, 2)
    assert steps(tmp_path) == [2, 1]


def test_an_older_attempt_that_still_runs_somewhere_changes_nothing(tmp_path: Path) -> None:
    older = catalogue(tmp_path, attempt=2, keep=1)
    older.find()
    first = make(older, tmp_path, 1)
    own = catalogue(tmp_path, attempt=3, keep=1)
    assert own.find() == (first.url,)
    second = own.commit([written(tmp_path, 2)], "a test")
    refusal = "attempt 3 of the job has taken over from attempt 2"
    with pytest.raises(CheckpointError, match=refusal):
        older.commit([written(tmp_path, 3)], "a test")
    with pytest.raises(CheckpointError, match=refusal):
        older.retain(second.url)
    older.find()  # as its supervisor would that was restarted
    with pytest.raises(CheckpointError, match=refusal):
        older.retain(second.url)
    assert steps(tmp_path) == [2, 1]
    own.retain(second.url)
    assert steps(tmp_path) == [2]
