"""The copy of the user's folder that trials run in."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot_actors.check import mirror
from surefoot_actors.check.mirror import Mirror


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for name in ("train.py", "data/small.bin", "data/large.bin", ".git/config", "pkg/__pycache__/x.pyc", "pkg/a.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(2 << 20 if "large" in name else 10))
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "nowhere").symlink_to(tmp_path / "gone")
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_it_has_what_the_folder_has_but_for_compiled_files(folder: Path, tmp_path: Path) -> None:
    place = Mirror(folder, tmp_path / "copy").place
    for name in ("train.py", "data/small.bin", "data/large.bin", ".git/config", "pkg/a.py"):
        assert (place / name).read_bytes() == (folder / name).read_bytes()
    assert (place / "data/large.bin").is_symlink()
    assert not (place / "train.py").is_symlink()
    assert (place / "elsewhere").resolve() == tmp_path
    assert not (place / "pkg/__pycache__").exists()


def test_what_is_written_is_told_and_leaves_the_folder_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = everything(folder)
    copy = Mirror(folder, tmp_path / "copy")
    assert copy.written() == []
    (copy.place / "runs/1").mkdir(parents=True)
    (copy.place / "runs/1/log.txt").write_text("new")
    (copy.place / "train.py").write_text("changed")
    (copy.place / "data/small.bin").unlink()
    (copy.place / "pkg/made.bin").write_text("")
    (copy.place / "pkg/__pycache__").mkdir()
    assert copy.written() == ["data/small.bin", "pkg/made.bin", "runs", "train.py"]
    assert everything(folder) == before


def test_a_folder_of_many_files_is_linked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_MOST_FILES", 3)
    place = Mirror(folder, tmp_path / "copy").place
    assert (place / "train.py").is_symlink()
    assert everything(place)["train.py"] == bytes(10)
