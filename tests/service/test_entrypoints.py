"""Whether a package holds the entrypoint's function, without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.errors import EntrypointError
from surefoot_service.entrypoints import check_entrypoint

from .helpers import make_zip

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
}


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
