"""What the Dockerfiles do, done without docker: what they copy, the wheel that is made of it, and its install into a clean environment."""

from __future__ import annotations

import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .chart import ROOT, run

IMAGES = ("control-plane", "ray-node")


def dockerfile(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text().replace("\\\n", " ")


def copied(image: str) -> list[str]:
    """What it takes from the checkout."""
    lines = [line.split()[1:-1] for line in dockerfile(image).splitlines() if line.startswith("COPY ")]
    return [word for words in lines for word in words if not words[0].startswith("--from")]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_let_through_and_nothing_else(image: str) -> None:
    let = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert set(copied(image)) == set(let)
    assert all((ROOT / name).exists() for name in let)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_not_root_and_tells_what_it_is(image: str) -> None:
    last = dockerfile(image).rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert {"title", "version", "revision", "licenses"} <= set(re.findall(r"image\.(\w+)=", last))
    bases = re.findall(r"^FROM (\S+)", dockerfile(image), re.MULTILINE)
    assert [base for base in bases if base.startswith("$")], "the base is an argument, to be pinned by its digest"
    assert "http" not in last


def test_ray_and_torch_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [torch] = re.findall(r"torch==[\d.]+", dockerfile("ray-node"))
    assert f'"{torch}"' in project
    [ray] = re.findall(r'"ray\[default\]==([\d.]+)"', project)
    assert f"version: {ray}" in (ROOT / "helm" / "surefoot" / "values.yaml").read_text()
    assert ray in (ROOT / "images" / "README.md").read_text()
    version = re.search(r'^version = "(.*)"', project, re.MULTILINE)
    chart = (ROOT / "helm" / "surefoot" / "Chart.yaml").read_text()
    assert version is not None
    assert f"appVersion: {version[1]}\n" in chart


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_control_plane_in_a_clean_environment(tmp_path: Path) -> None:
    """Neither ray nor torch, and what its container and the chart's Jobs run starts."""
    source, env = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for name in copied("control-plane"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", source)
    [wheel] = (tmp_path / "dist").iterdir()
    [extras] = re.findall(r"\*\.whl\)(\[[\w,]+\])", dockerfile("control-plane"))
    run(sys.executable, "-m", "venv", "--without-pip", env)
    install = [*pip, "--python", env / "bin" / "python", "install", "--quiet", "--no-compile"]
    run(*install, "--constraint", source / "constraints.txt", f"{wheel}{extras}")
    packages = {path.name.partition("-")[0].lower() for path in env.glob("lib/python*/site-packages/*.dist-info")}
    assert {"surefoot", "fastapi", "psycopg", "s3fs"} <= packages
    assert not [
        name for name in packages if fnmatch(name, "ray") or fnmatch(name, "torch*") or fnmatch(name, "nvidia*")
    ]
    clean = {"PATH": f"{env / 'bin'}:{os.defpath}", "HOME": str(tmp_path)}
    run(
        env / "bin" / "python",
        "-m",
        "surefoot_service.migrations",
        env={**clean, "SUREFOOT_DATABASE_URL": f"sqlite:///{tmp_path}/a.db"},
    )
    help_text = run(env / "bin" / "surefoot", "up", "--help", env=clean).stdout
    assert "--ray-address" in help_text
