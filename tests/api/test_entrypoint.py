"""Finding the train function, without importing anything."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from surefoot.entrypoint import locate
from surefoot.errors import EntrypointError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def imported(folder: Path, name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_string_is_looked_up_in_the_folder(tmp_path: Path) -> None:
    write(tmp_path, pkg__in__train="def train(run): ...")
    found = locate("pkg.train:train", tmp_path)
    assert (found.name, found.folder, found.file) == ("pkg.train:train", tmp_path, tmp_path / "pkg/train.py")


def test_nothing_is_imported(tmp_path: Path) -> None:
    write(tmp_path, train="raise SystemExit('imported!')\ndef train(run): ...")
    assert locate("train:train", tmp_path).name == "train:train"


@pytest.mark.parametrize(
    "text",
    [
        "train = make_it()",
        "from other import train",
        "from other import *",
        "if x:\n    def train(run): ...",
        "try:\n    import a\nexcept ImportError:\n    def train(run): ...",
        "@decorated\ndef train(): ...",
        "def train(run, extra=1, *, more=2): ...",
        "def train(*args): ...",
        "train: object = make_it()",
    ],
)
def test_every_way_to_bind_the_name_counts(tmp_path: Path, text: str) -> None:
    assert locate("train:train", write(tmp_path, train=text))


@pytest.mark.parametrize(
    ("entrypoint", "text", "told"),
    [
        ("train", "", "must look like"),
        ("train:a.b", "", "must look like"),
        ("trian:train", "def train(run): ...", "there is no module 'trian'.*did you mean 'train'"),
        ("train:trian", "def train(run): ...", "no function 'trian'.*did you mean 'train'"),
        ("train:x", "def train(run): ...\ndef main(): ...", "its functions: train, main"),
        ("train:train", "def train(run:", r"train.py:1 is no valid Python"),
        ("train:train", "class train: ...", "train.py:1 is a class"),
        ("train:train", "def train(run):\n    yield 1", "train.py:2 has a yield, so a call of it runs nothing"),
        ("train:train", "async def train(run): ...", "train.py:1 is async"),
        ("train:train", "def train(): ...", "must take one argument"),
        ("train:train", "def train(run, other): ...", "must take one argument"),
        ("train:train", "def train(run, *, other): ...", "must take one argument"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, entrypoint: str, text: str, told: str) -> None:
    with pytest.raises(EntrypointError, match=told):
        locate(entrypoint, write(tmp_path, train=text))


def test_functions_inside_may_yield(tmp_path: Path) -> None:
    assert locate("train:train", write(tmp_path, train="def train(run):\n    def batches():\n        yield 1"))


@pytest.mark.parametrize(
    ("given", "text", "name"),
    [
        ("train.py", "", "train"),
        ("./train.py", "", "train"),
        ("train-v2.py", "", "train-v2.py"),
        ("scripts/train.py", "import utils", "scripts/train.py"),
        ("pkg/sub/train.py", "from . import net", "pkg.sub.train"),
        ("pkg/train.py", "def f():\n    from .net import Net", "pkg.train"),
    ],
)
def test_a_script_is_named_by_its_path(tmp_path: Path, given: str, text: str, name: str) -> None:
    file = tmp_path / given
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\ndef train(run): ...")
    found = locate(f"{given}:train", tmp_path)
    assert (found.name, found.folder, found.file) == (f"{name}:train", tmp_path, file)


@pytest.mark.parametrize("given", ["../train.py:train", "a/../../train.py:train", "/train.py:train", "a//:train"])
def test_a_path_out_of_the_folder_is_none(tmp_path: Path, given: str) -> None:
    write(tmp_path, train="def train(run): ...")
    with pytest.raises(EntrypointError, match=r"must look like|there is no file"):
        locate(given, tmp_path / "..")


def test_a_module_below_src_is_pointed_at(tmp_path: Path) -> None:
    write(tmp_path, src__in__pkg__in__train="def train(run): ...")
    with pytest.raises(EntrypointError, match=r"it is in src: give src/pkg/train\.py"):
        locate("pkg.train:train", tmp_path)


@pytest.mark.parametrize("name", ["sys", "time", "os", "io", "builtins", "encodings"])
def test_a_module_that_python_has_before_any_other_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: "def train(run): ..."})
    for entrypoint in (f"{name}:train", f"{name}.py:train"):
        with pytest.raises(EntrypointError, match=r"there before any of yours.*rename it"):
            locate(entrypoint, tmp_path)


@pytest.mark.parametrize("name", ["queue", "calendar", "random", "types", "code", "test"])
def test_any_other_name_is_the_users(tmp_path: Path, name: str) -> None:
    assert locate(f"{name}:train", write(tmp_path, **{name: "def train(run): ..."}))


@pytest.mark.process
def test_a_script_in_a_folder_below_that_is_submitted_from_above(tmp_path: Path) -> None:
    write(
        tmp_path,
        scripts__in__go="from surefoot.entrypoint import locate\ndef train(run): ...\n"
        "if __name__ == '__main__':\n    found = locate(train, '.')\n    print(found.name, found.folder)\n",
    )
    told = subprocess.run(
        [sys.executable, "scripts/go.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert told.split() == ["scripts/go.py:train", str(tmp_path)]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(EntrypointError, match="there is no folder"):
        locate("train:train", tmp_path / "nowhere")


def test_a_function_brings_the_folder_its_module_is_importable_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, pkg__in__sub__in__train="def train(run): ...", pkg__in__sub____init__="")
    module = imported(tmp_path, "pkg.sub.train", "pkg/sub/train.py", monkeypatch)
    found = locate(module.train)
    assert (found.name, found.folder) == ("pkg.sub.train:train", tmp_path)


def test_a_function_of_a_package_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, sfpkg__in____init__="def train(run): ...")
    module = imported(tmp_path, "sfpkg", "sfpkg/__init__.py", monkeypatch)
    assert (locate(module.train).name, locate(module.train).folder) == ("sfpkg:train", tmp_path)


@pytest.mark.parametrize("arguments", [["script.py"], ["-m", "script"]])
@pytest.mark.process
def test_a_script_is_named_by_its_file(tmp_path: Path, arguments: list[str]) -> None:
    write(
        tmp_path,
        script="from surefoot.entrypoint import locate\ndef train(run): ...\n"
        "if __name__ == '__main__':\n    found = locate(train)\n    print(found.name, found.folder)\n",
    )
    told = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["script:train", str(tmp_path)]


def test_what_trainers_cannot_import_is_refused() -> None:
    def nested(run: object) -> None: ...

    with pytest.raises(EntrypointError, match="defined inside something else"):
        locate(nested)
    with pytest.raises(EntrypointError, match="defined inside something else"):
        locate(lambda run: None)
    with pytest.raises(EntrypointError, match="no function of a module"):
        locate(functools.partial(print))
    with pytest.raises(EntrypointError, match=r"no function of a module|is no file"):
        locate(len)


@pytest.mark.process
def test_a_function_of_an_interactive_session_is_refused() -> None:
    script = "from surefoot.entrypoint import locate\ndef train(run): ...\ntry:\n    locate(train)\nexcept ValueError as e:\n    print(e)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "put the function into a .py file" in told
