"""What lies at a URL, and in what two lists differ."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import DataError
from surefoot_actors.node_data.listing import Item, Listing, differences, digest_of, list_place

_PATHS = st.text("ab/.", min_size=1, max_size=5)
_FILES = st.dictionaries(_PATHS, st.tuples(st.integers(0, 3), st.sampled_from("xy")), max_size=5)


@settings(deadline=None, max_examples=60)
@given(one=_FILES, other=_FILES)
def test_two_lists_have_one_digest_where_they_are_the_same_and_only_there(
    one: dict[str, tuple[int, str]], other: dict[str, tuple[int, str]]
) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)
    assert digest_of(dict(reversed(one.items()))) == digest_of(one)


@settings(deadline=None, max_examples=60)
@given(agreed=_FILES, here=_FILES)
def test_what_differs_is_named(agreed: dict[str, tuple[int, str]], here: dict[str, tuple[int, str]]) -> None:
    told = differences(agreed, here)
    wrong = [path for path in sorted(agreed.keys() | here.keys()) if agreed.get(path) != here.get(path)]
    assert bool(told) == bool(wrong)
    assert all(f"{path} " in told for path in wrong[:3])
    assert (f"and {len(wrong) - 3} more" in told) == (len(wrong) > 3)


def test_a_folder_is_listed_with_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "b").write_text("bb")
    (tmp_path / "elsewhere").write_text("aaa")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    found = list_place(str(tmp_path / "data"))
    assert found is not None
    assert [(item.path, item.bytes) for item in found.items] == [("a", 3), ("deep/b", 2)]
    assert (found.bytes, found.marked, found.is_file) == (5, True, False)
    assert list_place(f"file://{tmp_path}/data") == found
    assert list_place(str(tmp_path / "data"), most=1) is None
    alone = list_place(str(tmp_path / "elsewhere"))
    assert alone is not None
    assert (alone.is_file, [item.path for item in alone.items]) == (True, ["elsewhere"])
    before = found.digest()
    os.utime(tmp_path / "elsewhere", ns=(1, 1))
    again = list_place(str(tmp_path / "data"))
    assert again is not None
    assert again.digest() != before
    os.mkfifo(tmp_path / "data" / "fifo")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        list_place(str(tmp_path / "data"))


def test_a_store_is_listed() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/data/a": b"1", "/bucket/data/deep/b": b"22", "/bucket/database": b"3"})
    try:
        found = list_place("memory://bucket/data")
        assert found is not None
        assert [(item.path, item.bytes) for item in found.items] == [("a", 1), ("deep/b", 2)]
        alone = list_place("memory://bucket/data/deep/b")
        assert alone is not None
        assert (alone.is_file, alone.items[0].path) == (True, "b")
        with pytest.raises(FileNotFoundError):
            list_place("memory://bucket/nothing")
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("names", "what"),
    [(("a", "a/b"), "as a file and as a folder"), (("x/../../y",), "no folder can hold"), (("a//b",), "no folder")],
)
def test_names_that_no_folder_can_hold_are_refused(
    names: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        def find(self, root: str, detail: bool) -> dict[str, dict[str, int]]:
            return {f"{root}/{name}": {"size": 1} for name in names}

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (Odd(), "bucket"))
    with pytest.raises(DataError, match=what):
        list_place("s3://bucket")


def test_a_file_without_a_mark_may_change_unseen() -> None:
    assert Listing((Item("a", 1, "etag"),)).marked
    assert not Listing((Item("a", 1, "etag"), Item("b", 1))).marked
