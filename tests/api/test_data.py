"""Data as a person names it, and as training code is given it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import surefoot
from surefoot.data import Data, DataSource, DataUrl, by_name, in_words, size_words, sources_of
from surefoot.errors import ContractError, SpecError
from surefoot.job_file import read_job
from surefoot.spec import JobSpec
from surefoot.submission import changes_of, prepare

SPEC = {"entrypoint": "train:train", "package": "0" * 64, "batch_size": 8}
_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", fullmatch=True)
_URLS = st.from_regex(r"(/|s3://)[a-z0-9=:,_./-]{1,40}", fullmatch=True)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(_NAMES, st.tuples(st.sampled_from(["", ":copy", ":in-place"]), _URLS), max_size=5))
def test_what_is_named_is_what_the_job_has(given_: dict[str, tuple[str, str]]) -> None:
    """By the command line, by a spec, and read back from JSON."""
    spec = JobSpec.model_validate(SPEC | {"data": by_name(f"{name}{way}={url}" for name, (way, url) in given_.items())})
    assert {name: source.url for name, source in spec.data.items()} == {name: url for name, (_, url) in given_.items()}
    for name, (way, url) in given_.items():
        assert spec.data[name].copies == (way == ":copy" if way else url.startswith("s3:"))
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    again = by_name(in_words(spec.data).split())
    assert {n: DataSource.model_validate(s).copies for n, s in again.items()} == {
        n: s.copies for n, s in spec.data.items()
    }


@pytest.mark.parametrize("text", ["train", "=s3://b", "train=", "train:now=s3://b/x", "train:=x"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="must look like NAME=URL"):
        by_name([text])
    with pytest.raises(SpecError, match="twice"):
        by_name(["a=/x", "a:copy=/y"])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"1st": "/x"}, "no name of data"),
        ({"a b": "/x"}, "no name of data"),
        ({"a": ""}, "at least 1 character"),
        ({"a": "/x\n"}, "control characters"),
        ({"a": "s3://key:secret123@bucket/x"}, "leave the password out"),
        ({"a": {"url": "/x", "digest": "abc"}}, "match pattern"),
        ({"a": {"url": "/x", "copied": True}}, "Extra inputs"),
        ({f"n{n}": "/x" for n in range(33)}, "at most 32"),
    ],
)
def test_a_spec_takes_no_odd_data(data: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        JobSpec.model_validate(SPEC | {"data": data})


def test_paths_of_this_machine_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = sources_of({"a": "x/y", "b": "~/z", "c": DataSource(url="s3://b/x"), "d": Path("x")})
    assert [source.url for source in found.values()] == [
        str(tmp_path / "x/y"),
        "/home/me/z",
        "s3://b/x",
        str(tmp_path / "x"),
    ]
    with pytest.raises(SpecError, match="no name of data"):
        sources_of({"a b": "x"})
    with pytest.raises(SpecError, match="data: "):
        sources_of({"a": 3})


def test_what_lies_on_this_machine_may_be_named_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text("def train(run):\n    pass\n")
    (tmp_path / "job" / "job.json").write_text(
        '{"entrypoint": "train:train", "batch_size": 8, "data": {"a": "../data", "b": "s3://b/x"}}'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = str(tmp_path / "data")
    given_ = {**by_name(["a=./data", "b:copy=data", "c=~/data"]), "d": DataSource(url="data"), "e": Path("data")}
    made = prepare("train:train", batch_size=8, folder="job", data=given_)
    assert {name: source.url for name, source in made.spec.data.items()} == dict.fromkeys("abcde", here)
    assert made.spec.data["b"].copies
    assert changes_of({"data": {"a": "data"}})["data"] == {"a": here}
    assert read_job(Path("job/job.json"))[1]["data"] == {"a": here, "b": "s3://b/x"}
    # of a path that is not here, only the control plane can say whether it is anywhere
    assert changes_of({"data": {"a": "elsewhere/data"}})["data"] == {"a": "elsewhere/data"}


def test_data_of_another_name_is_told_with_those_that_there_are() -> None:
    data = Data({"train": Path("/data/train"), "val": DataUrl("s3://bucket/val")})
    assert (dict(data), "train" in data, "x" in data, data.get("x")) == ({**data}, True, False, None)
    with pytest.raises(ContractError, match=r"did you mean 'train'\?.*--data trian=URL.*run_local"):
        data["trian"]
    with pytest.raises(ContractError, match="there are train, val"):
        data["zzz"]
    with pytest.raises(ContractError, match="it has none"):
        Data()["zzz"]


def test_a_url_is_text_that_can_be_extended_and_opened(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    place = DataUrl(f"file://{tmp_path}/") / "a.txt"
    assert place == f"file://{tmp_path}/a.txt"
    with place.open() as file:
        assert file.read() == "hello"
    with place.open("rb") as file:
        assert file.read() == b"hello"


def test_changes_of_a_job_name_its_data() -> None:
    changes = changes_of({"data": {"a": DataSource(url="/x", copy=True), "b": "s3://b"}})
    assert changes == {"data": {"a": {"url": "/x", "copy": True, "digest": None}, "b": "s3://b"}}


def test_sizes_are_told_in_words() -> None:
    assert [size_words(n) for n in (0, 999, 1200, 3.456e9, 2e12)] == [
        "0 bytes",
        "999 bytes",
        "1.2 kB",
        "3.46 GB",
        "2 TB",
    ]


def test_run_local_refuses_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(surefoot.SurefootError, match="there is nothing at"):
        surefoot.run_local(lambda run: None, batch_size=8, data={"train": {"url": str(tmp_path / "x"), "copy": True}})
