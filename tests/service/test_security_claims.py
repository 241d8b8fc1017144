"""SECURITY.md says what is so: each of its claims has tests, they exist, and its tables and bounds are the code's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fastapi import FastAPI

import surefoot_service
from surefoot_service.checkpoints.places import PROTOCOLS
from surefoot_service.rest import server
from surefoot_service.rest.body import BodyKind
from surefoot_service.settings import KIB, MIB, Settings
from surefoot_service.store import attempts

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
# sections whose every point is a claim of what is so
CLAIMED = (
    "What an attempt can do",
    "What the control plane opens and runs",
    "What stands against strangers",
    "What stands between the parts",
)
_NUMBER = re.compile(r"\[(\d+)\]")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def points(title: str) -> list[str]:
    return re.findall(r"^- (.*?)(?=^- |\Z)", section(title), re.MULTILINE | re.DOTALL)


def shown_by() -> dict[int, list[str]]:
    """The tests of each claim."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section("Which tests show it"), re.MULTILINE)
    numbers = [int(number) for number, _ in rows]
    assert numbers == list(range(1, len(rows) + 1)), "each claim has one row, in order"
    return {int(number): re.findall(r"`([^`]+)`", tests) for number, tests in rows}


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of a file's tests, those in classes included. It is read, not run."""
    tree = ast.parse((ROOT / file).read_text())
    found = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


def test_every_claim_has_a_row_and_every_row_a_claim() -> None:
    before = TEXT.partition("## Which tests show it")[0]
    assert {int(n) for n in _NUMBER.findall(before)} == shown_by().keys()


@pytest.mark.parametrize("title", CLAIMED)
def test_every_point_names_its_claim(title: str) -> None:
    found = points(title)
    assert found
    assert [point for point in found if not _NUMBER.search(point)] == []


@pytest.mark.parametrize("number", shown_by())
def test_the_tests_of_a_claim_exist(number: int) -> None:
    tests = shown_by()[number]
    assert tests, "a claim without a test"
    for test in tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), file
        assert name in names_in(file), test


def test_a_test_that_is_not_there_would_be_found() -> None:
    assert "test_no_such_test" not in names_in("tests/service/test_security_claims.py")
    assert "test_a_test_that_is_not_there_would_be_found" in names_in("tests/service/test_security_claims.py")


# ---- the table of routes


def documented_routes() -> Iterator[tuple[str, str, list[str]]]:
    for line in section("What a token opens").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for method, path in re.findall(r"`([A-Z]+) ([^`]+)`", cells[0]):
                yield method, path, cells[1:]


def test_the_table_of_routes_is_the_api(app: FastAPI) -> None:
    user = ["no", "yes", "no"]
    opens = {"user": user, "metrics": user, "attempt": ["no", "no", "its own"]}
    claim = ["with the claim code"] * 3
    actual = {}
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            schemes = [name for way in operation.get("security", []) for name in way]
            free = claim if path.endswith("/claim") else ["yes"] * 3
            actual[method.upper(), path] = opens[schemes[0]] if schemes else free
    assert {(method, path): cells for method, path, cells in documented_routes()} == actual


# ---- what it says of numbers


def test_the_bounds_that_are_told_are_the_defaults(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    strangers = section("What stands against strangers")
    assert (BodyKind.COMMAND.max_bytes(settings), "4 KiB" in strangers) == (4 * KIB, True)
    assert (settings.request_s, "`SUREFOOT_REQUEST_S` (15 s)" in strangers) == (15, True)
    assert (settings.body_grace_s, settings.body_bytes_per_s) == (10, 8 * KIB)
    assert "a body has 10 s and as long as it takes at 8 KiB/s" in strangers
    assert (settings.unread_s, "`SUREFOOT_UNREAD_S` (30 s)" in strangers) == (30, True)
    assert (settings.max_connections, "`SUREFOOT_MAX_CONNECTIONS` (1,000)" in strangers) == (1000, True)
    assert (server._KEPT, "64 more for health and attempts" in strangers) == (64, True)
    assert settings.max_told_bytes == 16 * 1024 * MIB
    assert "`SUREFOOT_MAX_TOLD_BYTES` (16 GiB)" in section("What an attempt can do")
    assert f"`SUREFOOT_STORAGE_PROTOCOLS`: `{','.join(PROTOCOLS)}`" in TEXT
    assert (attempts._LAST_WORDS.total_seconds(), "two hours after any other end" in TEXT) == (7200, True)
    assert settings.host == "127.0.0.1"


# ---- nothing of a user is run or unpickled


# what unpickles or runs what it is given, and what brings that along
_RUNNING = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code", "importlib", "torch", "numpy",
            "ray", "yaml"}  # fmt: skip
_CALLS = {"eval", "exec", "compile", "__import__"}
# of the standard library's importlib only what looks, and runs nothing
_LOOKING = {"importlib.metadata", "importlib.resources"}


def _runs(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            found.append(f"{path.name}:{node.lineno}: {node.func.id}()")
        bad = [name for name in names if name not in _LOOKING and name.partition(".")[0] in _RUNNING]
        found += [f"{path.name}:{getattr(node, 'lineno', 0)}: {name}" for name in bad]
    return found


def test_the_control_plane_has_nothing_that_runs_or_unpickles() -> None:
    files = sorted(Path(surefoot_service.__file__).parent.rglob("*.py"))
    assert len(files) > 40
    assert [line for file in files for line in _runs(file)] == []


def test_what_runs_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "import pickle\nfrom ray import get\nfrom importlib import import_module\neval('1')\n"
    )
    assert len(_runs(tmp_path / "x.py")) == 4
