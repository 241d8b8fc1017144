"""What the Dockerfiles do, done without docker: what they copy, the wheel that is made of it, and its install into a clean environment."""

from __future__ import annotations

import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .chart import ROOT, pods, run

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as both images make it: of what they copy alone."""
    folder = tmp_path_factory.mktemp("wheel")
    (source := folder / "src").mkdir()
    for name in copied("control-plane"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", source)
    [made] = (folder / "dist").iterdir()
    return made


PIP = (sys.executable, "-m", "pip")


def install(env: Path, image: str, wheel: Path, *options: str) -> str:
    """What pip says that installs the wheel with the image's extras."""
    [extras] = re.findall(r"\*\.whl\)(\[[\w,]+\])", dockerfile(image))
    command = [*PIP, "--python", env / "bin" / "python", "install", "--no-compile", *options]
    return run(*command, "--constraint", ROOT / "constraints.txt", f"{wheel}{extras}").stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_control_plane_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Neither ray nor torch, and what its container and the chart's Jobs run starts."""
    env = tmp_path / "opt"
    run(sys.executable, "-m", "venv", "--without-pip", env)
    install(env, "control-plane", wheel, "--quiet")
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


@pytest.mark.slow
def test_the_ray_node_in_an_environment_with_its_wheel(wheel: Path, tmp_path: Path) -> None:
    """The wheel in an environment of its own; ray, torch and the rest are this one's, which pip finds to be all that is asked for.

    So neither gigabytes are fetched nor anything of this checkout is in it; what is simulated is that they are beside the wheel.
    """
    env = tmp_path / "opt"
    run(sys.executable, "-m", "venv", "--without-pip", env)
    [packages] = env.glob("lib/python*/site-packages")
    # a folder named so is looked into, its own .pth files are not: the checkout stays out
    (packages / "others.pth").write_text("\n".join(dict.fromkeys(map(str, others()))) + "\n")
    run(*PIP, "--python", env / "bin" / "python", "install", "--quiet", "--no-compile", "--no-deps", wheel)
    # nothing is left to install, and nothing of it against the constraints
    assert "Would install" not in install(env, "ray-node", wheel, "--no-index", "--dry-run")
    (env / "bin" / "ray").write_text(f"#!{env}/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
    (env / "bin" / "ray").chmod(0o755)
    clean = {"PATH": f"{env / 'bin'}:{os.defpath}:/usr/bin", "HOME": str(tmp_path)}

    # what the chart's containers run, and what the control plane has Ray run in them
    [container] = [one for pod in pods("production") if pod.name == "gpu" for one in pod.containers]
    command = [*container["command"], *container["args"]]
    said = run(*command, env={**clean, "KUBERAY_GEN_RAY_START_CMD": "ray start --help"}).stdout
    assert "--num-cpus" in said
    places = run(env / "bin" / "python", "-c", IMPORTS, env=clean).stdout.splitlines()
    assert [Path(path).is_relative_to(env) for path in places] == [True, True]
    done = run(env / "bin" / "python", "-P", "-m", "surefoot_actors.launch.launcher", env=clean, check=False)
    assert done.returncode != 0
    assert "SUREFOOT_" in done.stderr


IMPORTS = """
import s3fs, ray, torch, surefoot, surefoot_actors.launch.supervisor_actor, surefoot_actors.cluster.ray.trainer_actor
print(surefoot.__file__)
print(surefoot_actors.__file__)
"""


def others() -> list[Path]:
    """Where this environment's packages are, but for the checkout itself."""
    return [Path(path) for path in sys.path if path.endswith("site-packages")]
