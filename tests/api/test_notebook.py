"""A train function from a notebook is submitted as a file; what no file can be made of is refused by name. And the SDK's own errors."""

from __future__ import annotations

import io
import linecache
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from surefoot import Client
from surefoot.errors import EntrypointError, JobFailedError, SurefootError, UserError
from surefoot.submission import prepare

CELLS = """
import math
import os.path as osp
from collections import OrderedDict as Ordered
from json import dumps

import helper

WIDTH = 8
NAMES = ["a", ("b", 1.5)]
opened = open(os_devnull)
pi = math.pi

class Base:
    width = WIDTH

class Net(Base):
    def forward(self, n):
        return rows(n) if n else []

def rows(n):
    return Net().forward(n - 1), dumps(NAMES), osp.join("a", "b")

def train(run):
    return Ordered(x=rows(2)), helper.value, pi, len(NAMES)

def reads_a_file(run):
    return opened.read()

def asks(run):
    return [rows(n) for n in range(3)]
"""


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module as an interactive session has it: no file, and its source known to linecache."""
    (tmp_path / "helper.py").write_text("value = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = ModuleType("notebook_session")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    name = "<ipython-input-1>"
    monkeypatch.setitem(linecache.cache, name, (len(CELLS), None, CELLS.splitlines(keepends=True), name))
    module.__dict__["os_devnull"] = "/dev/null"
    exec(compile(CELLS, name, "exec"), module.__dict__)  # noqa: S102  the test's own text
    yield module
    module.__dict__["opened"].close()
    sys.modules.pop("helper", None)


def unpacked(train: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    made = prepare(train, batch_size=8)
    with zipfile.ZipFile(io.BytesIO(made.package.data)) as archive:
        return made.spec.entrypoint, {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_notebooks_function_is_packed_with_what_it_uses(notebook: ModuleType) -> None:
    entrypoint, files = unpacked(notebook.train)
    assert (entrypoint, sorted(files)) == ("surefoot_notebook:train", ["helper.py", "surefoot_notebook.py"])
    source = files["surefoot_notebook.py"]
    assert "opened" not in source
    assert "def asks" not in source
    scope: dict[str, Any] = {"__name__": "surefoot_notebook"}
    exec(compile(source, "surefoot_notebook.py", "exec"), scope)  # noqa: S102  what was made of the test's own text
    assert scope["train"](None) == notebook.train(None)
    assert unpacked(notebook.train)[1] == files, "the same bytes again"


def test_what_no_file_can_be_made_of_is_named(notebook: ModuleType) -> None:
    with pytest.raises(
        EntrypointError, match="'opened' is a TextIOWrapper of this notebook that no file can be made of"
    ):
        prepare(notebook.reads_a_file, batch_size=8)


def test_without_a_source_the_clear_refusal_stands(notebook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(linecache.cache, "<ipython-input-1>")
    with pytest.raises(EntrypointError, match=r"put the function into a \.py file"):
        prepare(notebook.train, batch_size=8)


# ---- errors


def test_a_failed_jobs_error_carries_its_traceback() -> None:
    error = JobFailedError("j1", "failed", "boom", "Traceback\nValueError: boom\n")
    again = pickle.loads(pickle.dumps(error))
    for each in (error, again):
        assert (each.reason, each.traceback) == ("boom", "Traceback\nValueError: boom\n")
        assert str(each) == "job j1 failed: boom\n\nTraceback\nValueError: boom\n"
    assert JobFailedError("j1", "cancelled", "asked for").traceback is None


def _client() -> Client:
    return Client("http://127.0.0.1:9", "token")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Client("localhost:8470"),
        lambda: Client("http://[bad"),
        lambda: _client().submit("train:train", folder="/none/such", batch_size=8),
        lambda: _client().submit("train:train", folder="\0", batch_size=8),
        lambda: _client().submit("train:train", batch_size="many"),  # type: ignore[arg-type]
        lambda: _client().secrets.set("A", "x"),
    ],
)
def test_what_is_wrong_with_files_and_urls_is_surefoots_own(wrong: Callable[[], object]) -> None:
    with pytest.raises(SurefootError):
        wrong()


def test_words_are_taken_where_enums_are() -> None:
    with pytest.raises(UserError, match="'runing' is none of queued, starting, running"):
        _client().jobs(state="runing")  # type: ignore[arg-type]
