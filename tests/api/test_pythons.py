"""The base package on every Python that it is promised for: its wheel, installed into a fresh environment, as a user's machine has it.

Which those are is told by the classifiers in pyproject.toml. An interpreter that this machine lacks is stood in for by what can be known
without it: that pip finds wheels for it, and that the source uses no syntax or name which is newer (ruff, vermin).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from surefoot.plugins import refused_python

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "api" / "surefoot"
_CLASSIFIER = re.compile(r'"Programming Language :: Python :: (3\.\d+)"')
PROMISED = _CLASSIFIER.findall((ROOT / "pyproject.toml").read_text())

# Needs no server, no extra, and a second or two: what depends on the Python most (syntax, dates, files, the ast, the event loop).
QUICK = [
    f"tests/api/test_{name}.py"
    for name in ("chaos", "clients", "entrypoint", "format", "ledger", "requests", "spec", "sse", "timeline", "where")
]
_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")

_IMPORT_ALL = """
import importlib, pkgutil, sys, surefoot
for module in pkgutil.walk_packages(surefoot.__path__, "surefoot."):
    importlib.import_module(module.name)
assert not {"torch", "ray", "numpy", "surefoot_actors", "surefoot_service"} & set(sys.modules)
for name in surefoot.__all__:
    getattr(surefoot, name)
"""


@cache
def interpreter(version: str) -> Path | None:
    """Find a Python of this version: the running one, on PATH, or among pyenv's (whose shims on PATH may stand for nothing)."""
    if version == "{}.{}".format(*sys.version_info):
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))):
        asked = "import sys, venv; print('{}.{}'.format(*sys.version_info))"
        if (
            candidate
            and subprocess.run([candidate, "-c", asked], capture_output=True, text=True).stdout.strip() == version
        ):
            return Path(candidate)
    return None


FOUND = [version for version in PROMISED if interpreter(version)]
# The tests run on both ends; what is between them has the imports and the command line.
TESTED = {FOUND[0], FOUND[-1]} if FOUND else set()


def run(*command: str | Path, folder: Path = ROOT) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SUREFOOT", "PYTEST"))
    }
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("surefoot-*.whl")
    return built


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", PROMISED)
def test_the_base_package_works_on_every_python_that_is_promised(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        _stand_in(version, wheel, tmp_path)
        return
    run(python, "-m", "venv", "--without-pip", tmp_path / "env")
    scripts = tmp_path / "env" / "bin"
    tools = _TOOLS if version in TESTED else ()
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel, *tools)

    run(scripts / "python", "-I", "-c", _IMPORT_ALL, folder=tmp_path)
    assert "surefoot up" in run(scripts / "surefoot", "--help", folder=tmp_path)
    _check_that_extras_are_named(scripts / "surefoot", tmp_path)
    if tools:
        # the newest dependencies that an older Python can have may warn of things that ours do not
        told = run(
            scripts / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *QUICK
        )
        assert re.search(r"\d{2,} passed", told), told


def _check_that_extras_are_named(surefoot: Path, folder: Path) -> None:
    """`surefoot up` of a base install says what is missing, and where the extras do not run, that they do not."""
    done = subprocess.run([surefoot, "up"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    version = run(surefoot.with_name("python"), "-c", "import sys; print(*sys.version_info[:2])", folder=folder).split()
    expected = refused_python((int(version[0]), int(version[1]))) or "pip install 'surefoot[service]'"
    assert expected in " ".join(done.stderr.split())


def _stand_in(version: str, wheel: Path, folder: Path) -> None:
    resolved = ("--dry-run", "--quiet", "--only-binary=:all:", "--python-version", version, "--target", folder)
    run(sys.executable, "-m", "pip", "install", *resolved, wheel)
    _check_names(version)
    target = f"py{version.replace('.', '')}"
    run(sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9", "--target-version", target, PACKAGE)


def _check_names(oldest: str) -> None:
    vermin = ("-c", "import vermin; vermin.main()", "--no-tips", "--eval-annotations")
    run(sys.executable, *vermin, f"--target={oldest}-", PACKAGE)


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    required = re.search(r'requires-python = ">=(\d\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert required is not None
    assert required[1] == PROMISED[0]
    _check_names(PROMISED[0])


def test_extras_are_refused_where_they_do_not_run() -> None:
    refused = {version: refused_python((3, int(version.partition(".")[2]))) for version in PROMISED}
    assert [version for version, reason in refused.items() if reason is None] == ["3.11", "3.12", "3.13"]
    assert "needs Python 3.11 to 3.13, and this is 3.14" in str(refused["3.14"])
