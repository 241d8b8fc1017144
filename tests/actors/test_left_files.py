"""Files that training code writes into its working folder are lost with the trainer's node: it is told, once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.events import EventKind
from surefoot_actors.user_code import left_files
from surefoot_actors.user_code.left_files import WorkingFolder, advice

from .harness import Stage, Story
from .test_matrix import assert_same


@pytest.mark.process
@pytest.mark.slow
def test_what_was_written_is_told_once_at_the_end(stage: Stage, undisturbed: Story, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("as it was")
    (tmp_path / "read").write_text("alone")
    story = stage.run(entrypoint="writing:train", env={"WORK": str(tmp_path)}, trainers=2)
    assert_same(story, undisturbed)
    [message] = [str(e.data["message"]) for e in story.events if e.kind is EventKind.WARNING]
    assert "runs/events" in message
    assert "old" in message
    assert "model.pt" in message
    assert "read" not in message


_NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(before=_NAMES, changed=_NAMES, gone=_NAMES, new=_NAMES)
def test_what_is_new_or_other_is_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], changed: list[str], gone: list[str], new: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for name in before:
        (folder / name).write_text("1")
    working = WorkingFolder(folder)
    for name in {*changed} & {*before}:
        (folder / name).write_text("22")
    for name in {*gone} & {*before} - {*changed}:
        (folder / name).unlink()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    for name in new:
        (folder / "deep" / name).parent.mkdir(exist_ok=True)
        (folder / "deep" / name).write_text("3")
    assert working.left() == tuple(sorted([*({*changed} & {*before}), *(f"deep{os.sep}{name}" for name in new)]))


def test_a_folder_of_too_many_files_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_files, "_MOST_FILES", 3)
    working = WorkingFolder(tmp_path)
    for n in range(3):
        (tmp_path / str(n)).write_text("")
    assert working.left() == ()


def test_of_many_files_some_are_named() -> None:
    told = advice(tuple(f"f{n}" for n in range(9)))
    assert "f4 and 4 more;" in told
    assert "f5" not in told
    assert "run.output_dir" in told
