"""What the project says of itself beside its documents: dependencies, make's targets, hooks before commits, servers for developers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any

import pytest
import yaml
from pre_commit.clientlib import load_config

from .source import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
OURS = {"surefoot", "surefoot_actors", "surefoot_service"}

# What comes with a dependency, and is its public interface too.
COMES_WITH = {"pydantic_core": "pydantic", "starlette": "fastapi", "h11": "uvicorn"}

# Only where the user's code or an extra brings it, or where only a type checker sees it.
NOT_OURS_TO_ASK_FOR = {"torch", "sklearn", "fsspec", "mlflow", "wandb", "trackio"}

# Loaded by name, and not by an import: what loads it, and the word that has it loaded.
BY_NAME = {
    "s3fs": ("fsspec, for URLs", "s3://"),
    "psycopg": ("SQLAlchemy, for URLs", "postgresql"),
    "ray": ("the cluster: `ray start`", "ray"),
}


def _distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _imported(*folders: str) -> set[str]:
    """Return the top-level modules that the files below these folders import, wherever in them."""
    return {
        name
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        for name in _imports(ast.parse(file.read_text()))
    }


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def _modules() -> dict[str, set[str]]:
    """By distribution: its top-level modules."""
    found: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            found.setdefault(distribution.lower().replace("_", "-"), set()).add(module)
    return found


MODULES = _modules()
PARTS = {
    "the base package": (PROJECT["dependencies"], ("api",)),
    "ray": (EXTRAS["ray"], ("actors",)),
    "service": (EXTRAS["service"], ("service",)),
    "examples": (EXTRAS["examples"], ("examples",)),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_dependency_is_imported(part: str) -> None:
    requirements, folders = PARTS[part]
    imported = _imported(*folders)
    idle = [name for name in map(_distribution, requirements) if not MODULES[name] & imported]
    assert idle == [], "nothing imports these: take them out of pyproject.toml"


@pytest.mark.parametrize("part", ["the base package", "ray", "service"])
def test_every_import_is_a_dependency(part: str) -> None:
    requirements, folders = PARTS[part]
    declared = {
        module for name in map(_distribution, [*requirements, *PROJECT["dependencies"]]) for module in MODULES[name]
    }
    # imported where they are used, with a word on what to install
    declared |= {
        m
        for extra in ("yaml", "tensorboard", "otel")
        for name in map(_distribution, EXTRAS[extra])
        for m in MODULES[name]
    }
    declared |= {module for module, owner in COMES_WITH.items() if owner in declared}
    assert _imported(*folders) - set(sys.stdlib_module_names) - OURS - declared <= NOT_OURS_TO_ASK_FOR


def test_what_is_loaded_by_name_is_spoken_of() -> None:
    text = "".join(file.read_text() for folder in OURS for file in ROOT.glob(f"*/{folder}/**/*.py"))
    for extra in ("s3", "postgres"):
        for name in map(_distribution, EXTRAS[extra]):
            loader, word = BY_NAME[name]
            assert word in text, f"{name} is for {loader}, and nothing speaks of {word}"


def test_every_tool_for_developers_is_used() -> None:
    files = ("Makefile", "pyproject.toml", ".pre-commit-config.yaml", "tests/api/test_pythons.py")
    used = "".join((ROOT / file).read_text() for file in files)
    imported = _imported("tests", "benchmarks", "docs")
    told = [_distribution(requirement) for requirement in EXTRAS["dev"] if not requirement.startswith("surefoot")]
    # known by what they are told, where nothing imports or calls them by their names
    options = {"import-linter": "from importlinter.cli", "vermin": "import vermin"} | {
        "pytest-asyncio": "asyncio_mode",
        "pytest-timeout": "timeout = ",
        "pytest-xdist": "--dist loadgroup",
    }
    idle = [
        name
        for name in told
        if not MODULES[name] & imported
        and f"-m {name.replace('-', '_')}" not in used
        and options.get(name, "\0") not in used
    ]
    assert idle == []


def test_every_target_of_make_explains_itself() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE)
    assert sorted(explained) == sorted(phony.split())


def test_hooks_before_commits_are_the_linters_of_make_lint() -> None:
    hooks = load_config(str(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*?\n\n", MAKEFILE, re.MULTILINE | re.DOTALL)
    assert lint is not None
    for hook in hooks:
        assert hook["entry"].startswith(".venv/bin/python "), hook
        command = re.search(r"-m (ruff check|ruff format --check|mypy)|lint_imports_command", hook["entry"])
        assert command is not None, hook
        assert command[0] in lint[0]


def test_servers_for_developers_listen_on_this_machine_alone() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "redis", "s3"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "healthcheck" in service, name
        assert ":" in service["image"], f"{name} has no version"
    moto = re.search(r"^moto==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert moto is not None
    assert services["s3"]["image"] == f"motoserver/moto:{moto[1]}"


def test_ci_builds_the_documents_after_the_linters() -> None:
    steps = re.findall(r"^(?:step|beside) (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert steps.index("make docs") == steps.index("make lint") + 1
