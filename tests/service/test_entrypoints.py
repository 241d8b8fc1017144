"""Whether a package holds the entrypoint's function, without importing it."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import EntrypointError
from surefoot_service.packages import entrypoints
from surefoot_service.packages.entrypoints import check_entrypoint
from surefoot_service.waiting import BusyError

from .asgi import ask
from .helpers import JSON, ZIP, make_zip

SOURCES = {
    "plain": "def train(run): ...",
    "assigned": "train = make()",
    "unpacked": "train, other = make()",
    "annotated": "train: object = make()",
    "imported": "from other import real as train",
    "star": "from other import *",
    "under if": "if True:\n    def train(run): ...",
    "under except": "try:\n    import x\nexcept ImportError:\n    def train(run): ...",
    "under with": "with x:\n    def train(run): ...",
}
BAD = {
    "other names": ("def fit(run): ...\ndef evaluate(run): ...", "there are evaluate, fit"),
    "none": ("x = 1", "there are no functions"),
    "nested": ("def make():\n    def train(run): ...", "has no function 'train'"),
    "async": ("async def train(run): ...", "async function"),
    "a generator": ("def train(run):\n    yield 1", "has a yield"),
    "a class": ("class train: ...", "is a class"),
    "only annotated": ("train: object", "has no function"),
    "no Python": ("def train(:", "line 1 is not Python"),
    "null": ("x = '\0'", "not Python"),
    "too deep": ("x = " + "(" * 100_000, "not Python|nested too deeply"),
    "too long": ("x = 1\n" * 500_000, "too long"),
    "many signs": ("x = " + "-" * 500_000 + "1", "nested too deeply"),
    "many names": ("x = a" + ".a" * 400_000, "nested too deeply"),
    "many sums": ("x = " + "1+" * 300_000 + "1", "nested too deeply"),
    "many lambdas": ("x = " + "lambda:" * 100_000 + "1", "nested too deeply"),
}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoints, "_known", entrypoints._Known())


def package(tmp_path: Path, files: dict[str, str | bytes]) -> Path:
    path = tmp_path / "p.zip"
    path.write_bytes(make_zip(files))
    return path


@pytest.mark.parametrize("case", SOURCES)
def test_a_bound_name_is_found(case: str, tmp_path: Path) -> None:
    check_entrypoint(package(tmp_path, {"train.py": SOURCES[case]}), "train:train", may_be_installed=False)


@pytest.mark.parametrize("name", ["a.py", "a/__init__.py"])
def test_a_module_or_a_package(name: str, tmp_path: Path) -> None:
    check_entrypoint(package(tmp_path, {name: SOURCES["plain"]}), "a:train", may_be_installed=False)


def test_a_module_in_a_package(tmp_path: Path) -> None:
    check_entrypoint(package(tmp_path, {"a/b.py": SOURCES["plain"]}), "a.b:train", may_be_installed=False)


def test_a_script(tmp_path: Path) -> None:
    path = package(tmp_path, {"scripts/train.py": SOURCES["plain"], "train.py": ""})
    check_entrypoint(path, "scripts/train.py:train", may_be_installed=False)
    with pytest.raises(EntrypointError, match=r"file 'scripts/other\.py' is not in the package"):
        check_entrypoint(path, "scripts/other.py:train", may_be_installed=True)


@pytest.mark.parametrize("name", ["sys", "time", "os"])
def test_a_module_that_python_has_before_any_other(name: str, tmp_path: Path) -> None:
    path = package(tmp_path, {f"{name}.py": SOURCES["plain"]})
    with pytest.raises(EntrypointError, match="rename it"):
        check_entrypoint(path, f"{name}:train", may_be_installed=False)


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    source, message = BAD[case]
    with pytest.raises(EntrypointError, match=message):
        check_entrypoint(package(tmp_path, {"train.py": source}), "train:train", may_be_installed=False)


def refusal(path: Path) -> str:
    """Why the package's train function is refused; empty where it is not. Anything else that is raised is a mistake of ours."""
    try:
        check_entrypoint(path, "train:train", may_be_installed=False)
    except EntrypointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("height", [100, 500, 900, 950, 990, 1100, 2000, 3000, 30_000, 80_000])
def test_a_tower_of_elif_is_read_or_refused(height: int, tmp_path: Path) -> None:
    """At some heights the parser could, and what walked through its tree could not."""
    source = "if x: pass\n" + "elif x: pass\n" * height + "def train(run): ..."
    found = refusal(package(tmp_path, {"train.py": source}))
    assert not found if height <= 500 else (not found or "nested too deeply" in found)


PARTS = (
    "if x:",
    "elif x:",
    "else:",
    "try:",
    "(",
    "[",
    "{",
    "lambda:",
    "-",
    "not ",
    "f'{",
    "x",
    "\n",
    "\n ",
    "def train(run):",
    "\0",
    "é",
)


@given(st.lists(st.sampled_from(PARTS), max_size=30), st.sampled_from([1, 10, 3000]))
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_no_source_does_anything_but_be_refused(parts: list[str], times: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert len(refusal(package(Path(folder), {"train.py": "".join(parts) * times}))) < 2000


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("import time; time.sleep(60)", "takes too long"),
        ("import os; os.kill(os.getpid(), 11)", "nested too deeply, or too large"),
        ("import os; os._exit(0)", "nested too deeply, or too large"),
    ],
)
def test_a_reader_that_hangs_or_dies(
    reader: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "reader.py"
    program.write_text(reader)
    monkeypatch.setattr(entrypoints, "_READER", program)
    monkeypatch.setattr(entrypoints, "_WALL_S", 1.0)
    with pytest.raises(EntrypointError, match=message):
        check_entrypoint(package(tmp_path, {"train.py": "def train(run): ..."}), "train:train", may_be_installed=False)


def test_the_reader_s_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoints, "_MEMORY_BYTES", 64 * 1024 * 1024)
    assert "too large" in refusal(package(tmp_path, {"train.py": "x = [" + "{}," * 340_000 + "]"}))
    assert refusal(package(tmp_path, {"train.py": "def train(run): ..."})) == ""


@pytest.mark.parametrize("source", ["def train(run): ...", "def fit(run): ..."])
def test_the_same_source_is_read_once(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package(tmp_path, {"train.py": source, "other.py": source})
    first = refusal(path)
    monkeypatch.setattr(entrypoints, "_READER", tmp_path / "none.py")
    assert refusal(path) == first
    with pytest.raises(EntrypointError, match="nested too deeply"):  # it is not known under another name
        check_entrypoint(path, "other:train", may_be_installed=False)


def test_what_is_kept_of_a_source_is_short(tmp_path: Path) -> None:
    found = refusal(package(tmp_path, {"train.py": f"def {'a' * 900_000}(run): ..."}))
    assert "has no function 'train'; there are aaa" in found
    assert len(found) <= 2000


def test_what_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package(tmp_path, {"train.py": "def train(run): ..."})
    with monkeypatch.context() as away:
        away.setattr(entrypoints, "_READER", tmp_path / "none.py")
        assert refusal(path)
    assert not refusal(path)


def test_where_too_many_are_read_nothing_is_said_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoints, "_readers", threading.BoundedSemaphore(1))
    monkeypatch.setattr(entrypoints, "_PLACE_S", 0.1)
    entrypoints._readers.acquire()
    with pytest.raises(BusyError):
        check_entrypoint(package(tmp_path, {"train.py": "def train(run): ..."}), "train:train", may_be_installed=False)


async def test_the_loop_goes_on_while_a_source_is_read(
    app: FastAPI, client: httpx.AsyncClient, spec: dict[str, Any]
) -> None:
    source = "x = [" + "1," * 200_000 + "]"
    answer = await client.post("/v1/packages", content=make_zip({"train.py": source}), headers=ZIP)
    body = json.dumps(spec | {"package": answer.json()["package"]}).encode()
    found = await ask(
        app, "POST", "/v1/jobs", body, [*JSON.items(), ("authorization", client.headers["authorization"])]
    )
    assert found.status == 422
    assert found.loop_s <= 0.1


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    path = package(tmp_path, {"train.py": "", "lib/net.py": ""})
    with pytest.raises(EntrypointError, match=r"'model' is not in the package; it has lib\.net, train"):
        check_entrypoint(path, "model:train", may_be_installed=False)
    check_entrypoint(path, "model:train", may_be_installed=True)


def test_the_code_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    source = f"open({str(trap)!r}, 'w').close()\ndef train(run): ..."
    check_entrypoint(package(tmp_path, {"train.py": source}), "train:train", may_be_installed=False)
    assert not trap.exists()
