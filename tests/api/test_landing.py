"""Files of a job on the disk of whoever fetches them: what that cannot hold under its name is refused by name."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot import _files
from surefoot._files import targets, windows_fault
from surefoot.errors import UserError
from surefoot.output import FileList, FileView

pytestmark = pytest.mark.unit


def listed(*paths: str) -> FileList:
    at = datetime.now(timezone.utc)
    return FileList(files=tuple(FileView(path=path, bytes=1, modified=at) for path in paths))


def fetch(found: FileList, to: Path) -> None:
    for file, target in targets(found, "", to):
        target.write_text(file.path)


@pytest.mark.parametrize(
    "path", ["C:x", "a/b:c", "a.", "a./b", "a ", "nul", "NUL.txt", "b/com1.log", "what?", 'a"b', "COM\u00b9"]
)
def test_what_windows_would_write_elsewhere_is_refused(path: str) -> None:
    assert windows_fault(path)


@pytest.mark.parametrize("path", ["a", "a.b/c d.txt", "console.txt", "\u00e9/nullable", "a.nul.txt"])
def test_ordinary_names_are_not(path: str) -> None:
    assert not windows_fault(path)


def test_it_is_refused_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(listed("10:30.log"), tmp_path)
    monkeypatch.setattr(_files, "_WINDOWS", True)
    with pytest.raises(UserError, match="cannot be written here"):
        fetch(listed("10:30.log"), tmp_path)


@pytest.mark.parametrize("names", [("A", "a"), ("\u00e9", "e\u0301"), ("d/Stra\u00dfe", "d/STRASSE")])
def test_names_that_a_disk_does_not_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """Else the second would be the only one, without a word."""
    fetch(listed(*names), tmp_path)
    assert [(tmp_path / name).read_text() for name in names] == list(names)
    monkeypatch.setattr(os.path, "samefile", lambda one, other: True)
    with pytest.raises(UserError, match="are one file on this disk"):
        fetch(listed(*names), tmp_path)


@given(st.text(max_size=20))
def test_no_name_without_fault_is_read_as_another_by_windows(path: str) -> None:
    from pathlib import PureWindowsPath

    from surefoot.output import path_fault

    if not path_fault(path) and not windows_fault(path):
        assert (PureWindowsPath("C:/to") / path).as_posix() == f"C:/to/{path}"
