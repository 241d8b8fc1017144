"""`run.output_dir` under losses: whoever is elected next has the files, as of a step, and nothing that is trained again is there twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.output.elected import kept

from surefoot.events import Command, CommandKind, Event, EventKind
from surefoot.spec import JobState
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage
from .test_matrix import told

pytestmark = [pytest.mark.process, pytest.mark.slow]

STEPS = 30


def rows(place: Path) -> list[int]:
    return [int(line) for line in kept(place)["rows.csv"].splitlines()]


def first_elected(events: Sequence[Event]) -> str:
    trainers = next(e.data["trainers"] for e in events if e.kind is EventKind.GENERATION)
    return str(trainers[0])  # type: ignore[index]


def pids_of(events: Sequence[Event], trainer: str = "") -> list[int]:
    ready = (e for e in events if e.kind is EventKind.TRAINER_READY)
    return [int(str(e.data["pid"])) for e in ready if not trainer or e.data["trainer"] == trainer]


def checkpointed_at_20(uplink: MemoryUplink) -> Callable[[], bool]:
    return lambda: any(e.kind is EventKind.CHECKPOINT and e.data["step"] == 20 for e in uplink.events)


def test_whoever_is_elected_next_has_them(stage: Stage, tmp_path: Path) -> None:
    """The elected one is killed: what it had not synchronised is gone, everything else is there, in order and once."""
    story = stage.run(
        entrypoint="keeps_files:train",
        trainers=3,
        min_trainers=3,
        checkpoints=tmp_path / "job",
        checkpoint={"every_steps": 5, "every_s": None},
        config={"steps": STEPS, "dies": [17, str(tmp_path / "dead"), str(tmp_path / "job" / "files" / "manifests")]},
        env={"SYNC_S": "0"},
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    [lost] = story.of(EventKind.TRAINER_LOST)
    assert lost.data["trainer"] == first_elected(story.events)
    pid, kept_at = map(int, (tmp_path / "dead").read_text().split())
    assert pids_of(story.events, str(lost.data["trainer"])) == [pid]
    found = rows(tmp_path / "job")
    assert found == sorted(set(found))
    assert set(range(kept_at)) | set(range(17, STEPS)) <= set(found)
    files = kept(tmp_path / "job")
    assert files["end"] == files["rows.csv"]
    assert json.loads(files["deep/state.json"])["step"] == STEPS - 1
    assert json.loads(files["deep/state.json"])["pid"] != pid


def test_every_trainer_at_once(stage: Stage, tmp_path: Path) -> None:
    """The run goes back to its newest checkpoint, and so do the files, whatever was synchronised after it."""
    gate = tmp_path / "gate"

    async def kill_all(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 22 in uplink.ledger and checkpointed_at_20(uplink)())
        for pid in pids_of(uplink.events):
            os.kill(pid, signal.SIGKILL)
        gate.touch()

    story = stage.run(
        entrypoint="keeps_files:train",
        trainers=2,
        min_trainers=2,
        drive=kill_all,
        checkpoints=tmp_path / "job",
        checkpoint={"every_steps": 10, "every_s": None},
        in_turn=True,
        config={"steps": STEPS, "gate": [24, str(gate)]},
        env={"SYNC_S": "0"},
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    assert story.last(EventKind.RESTORED).data["step"] == 20
    assert rows(tmp_path / "job") == list(range(STEPS))


def _pause(uplink: MemoryUplink) -> None:
    uplink.command(Command(n=1, kind=CommandKind.PAUSE))


def test_paused_and_resumed(stage: Stage, tmp_path: Path) -> None:
    place, gate = tmp_path / "job", tmp_path / "gate"
    config = {"steps": STEPS, "gate": [6, str(gate)]}

    async def pause(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        _pause(uplink)
        await told(uplink, lambda: any(e.data.get("state") == JobState.PAUSING for e in uplink.events))
        gate.touch()

    first = stage.run(
        entrypoint="keeps_files:train", trainers=2, min_trainers=2, drive=pause, checkpoints=place, config=config
    )
    assert first.outcome.state is JobState.PAUSED, first.outcome
    assert rows(place) == list(range(len(first.rows)))
    # both attempts have the same name here, and so do not come one after the other
    shutil.rmtree(place / "files" / "writers")
    second = stage.run(
        entrypoint="keeps_files:train", trainers=1, checkpoints=place, stored_below=len(first.rows), config=config
    )
    assert second.outcome.state is JobState.SUCCEEDED, second.outcome
    assert rows(place) == list(range(STEPS))


def test_given_notice_the_elected_one_leaves_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def notice(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        os.kill(pids_of(uplink.events, first_elected(uplink.events))[0], signal.SIGTERM)
        gate.touch()
        await told(uplink, lambda: any(e.kind is EventKind.TRAINER_LEFT for e in uplink.events))

    story = stage.run(
        entrypoint="keeps_files:train",
        trainers=2,
        min_trainers=1,
        drive=notice,
        checkpoints=tmp_path / "job",
        checkpoint={"every_s": None},
        config={"steps": 200, "gate": [7, str(gate)]},
    )
    assert story.outcome.state is JobState.SUCCEEDED, story.outcome
    [pid] = pids_of(story.events, first_elected(story.events))
    assert json.loads(kept(tmp_path / "job")["deep/state.json"])["pid"] != pid
    assert rows(tmp_path / "job") == list(range(200))
