"""What commands fetch, where nobody has said, lies in a folder of its own, which is packaged with no code that it lies beside."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from surefoot.cli.app import app
from surefoot.cli.session import Session
from surefoot.package import pack
from surefoot.spec import JobState

from .conftest import FakeService, make_view, problem

JOB = "abc2345678"


def run(fake: FakeService, *command: str, there: bool = True) -> Result:
    fake.add(make_view(JOB, JobState.SUCCEEDED))
    file = {"path": "a/b", "bytes": 3, "modified": "2026-01-01T00:00:00Z"}

    def answer(request: httpx.Request) -> httpx.Response:
        end = request.url.path.rpartition("/")[2]
        if end in ("model", "content", "files") and not there:
            return problem(404, "it has saved no model yet")
        if end in ("model", "content"):
            return httpx.Response(200, content=b"abc", headers={"content-length": "3"})
        return httpx.Response(200, json={"files": [file], "version": "1"}) if end == "files" else fake.answer(request)

    return CliRunner().invoke(app, list(command), obj=Session(transport=httpx.MockTransport(answer)))


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("model", JOB), f"{JOB}-model/model.safetensors"),
        (("model", JOB, "--module", "../an odd/name"), f"{JOB}-model/_an_odd_name.safetensors"),
        (("files", JOB, "get"), f"{JOB}-files/a/b"),
    ],
)
def test_what_is_fetched_is_no_code(
    command: tuple[str, ...], file: str, fake: FakeService, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code)
    before = pack(code).sha256
    for _ in range(2):  # again, over what is there
        result = run(fake, *command)
        assert result.exit_code == 0, result.output
        assert (code / file).read_bytes() == b"abc"
        assert pack(code).sha256 == before


@pytest.mark.parametrize("command", [("model", JOB), ("files", JOB, "get")])
def test_where_nothing_is_fetched_no_folder_is_left(
    command: tuple[str, ...], fake: FakeService, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code)
    assert run(fake, *command, there=False).exit_code == 2
    assert [path.name for path in code.iterdir()] == ["train.py"]
    # what somebody else has put there stays
    (folder := code / f"{JOB}-{'model' if command[0] == 'model' else 'files'}").mkdir()
    (folder / "mine").write_text("x")
    assert run(fake, *command, there=False).exit_code == 2
    assert (folder / "mine").read_text() == "x"


def test_a_file_that_was_named_is_written_there_alone(
    fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(fake, "model", JOB, "-o", "m.safetensors").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
