"""Modules of the user's that are named as others: the user's code gets its own, all other code what it means."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from surefoot.spec import refused_module
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.coordinator import LocalCoordinator

from .child import calling, in_child, lay

# importing them does something, or they are not there on every build
_NOT_TRIED = {"antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "lib2to3"}
STANDARD = sorted(
    name
    for name in sys.stdlib_module_names
    if not name.startswith("_")
    and name not in _NOT_TRIED
    and refused_module(name) is None
    and importlib.util.find_spec(name)
)
INSTALLED = ["httpx", "pydantic", "yaml", "click", "packaging"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_name_of_the_standard_library_is_the_users_for_the_user_alone(tmp_path: Path) -> None:
    names = [*STANDARD, *INSTALLED]
    lay(tmp_path, {f"{name}.py": f"VALUE = {name!r}" for name in names})
    own = "\n".join(f"import {name}\nassert {name}.VALUE == {name!r}, {name}" for name in names)
    lay(tmp_path, {"train.py": f"{own}\ndef train(run):\n    return {len(names)}\n"})

    def others_get_theirs(train: Any) -> None:
        assert train(None) == len(names)
        for name in names:
            module = importlib.import_module(name)
            assert not hasattr(module, "VALUE"), name
            file = getattr(module, "__file__", None)
            assert file is None or not file.startswith(str(tmp_path)), name

    calling(tmp_path, then=others_get_theirs)


FORMS = {
    "import": "import {name}\nvalue = {name}.VALUE",
    "import as": "import {name} as it\nvalue = it.VALUE",
    "from": "from {name} import VALUE as value",
    "star": "from {name} import *\nvalue = VALUE",
    "import_module": "import importlib\nvalue = importlib.import_module('{name}').VALUE",
    "imported import_module": "from importlib import import_module\nvalue = import_module('{name}').VALUE",
    "__import__": "value = __import__('{name}').VALUE",
    "exec": "space = {{}}\nexec('import {name}', space)\nvalue = space['{name}'].VALUE",
    "reload": "import importlib, {name}\nvalue = importlib.reload({name}).VALUE",
    "submodule": "import {name}.deep.inner\nvalue = {name}.deep.inner.VALUE",
    "submodule as": "import {name}.deep.inner as it\nvalue = it.VALUE",
    "from submodule": "from {name}.deep import inner\nvalue = inner.VALUE",
    "relatively": "from {name}.deep.up import value",
    "absolutely from within": "from {name}.deep.down import value",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("late", [False, True], ids=["at the top", "inside the function"])
@pytest.mark.parametrize("name", ["wave", "queue", "httpx"])
def test_every_form_of_import(tmp_path: Path, form: str, late: bool, name: str) -> None:
    lay(
        tmp_path,
        {
            f"{name}/__init__.py": "VALUE = 7",
            f"{name}/deep/__init__.py": "",
            f"{name}/deep/inner.py": "VALUE = 7",
            f"{name}/deep/up.py": "from .. import VALUE as value\nfrom .inner import VALUE\n",
            f"{name}/deep/down.py": f"from {name}.deep.inner import VALUE as value",
        },
    )
    text = FORMS[form].format(name=name)
    late = late and form != "star"  # Python has no star import in functions
    body = (
        "def train(run):\n" + "".join(f"    {line}\n" for line in [*text.splitlines(), "return value"])
        if late
        else f"{text}\ndef train(run):\n    return value\n"
    )
    lay(tmp_path, {"train.py": body})
    assert calling(tmp_path) == 7


@pytest.mark.parametrize("name", ["queue", "random", "types", "httpx", "test"])
def test_as_the_entrypoint(tmp_path: Path, name: str) -> None:
    lay(
        tmp_path,
        {
            f"{name}.py": f"import helper\ndef train(run):\n    import {name}\n    return {name}.train is train, helper.VALUE\n"
        },
    )
    lay(tmp_path, {"helper.py": "VALUE = 1"})
    assert calling(tmp_path, f"{name}:train") == (True, 1)


def test_a_folder_without_init_gives_way_as_it_does_in_python(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"httpx/data.txt": "", "train.py": "import httpx\ndef train(run):\n    return hasattr(httpx, 'Client')\n"},
    )
    assert calling(tmp_path) is True


def test_where_no_name_is_anothers_nothing_of_pythons_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test's
    lay(tmp_path, {"helper.py": "", "train.py": "import helper\ndef train(run): ...\n"})
    real = __import__, importlib.import_module
    assert calling(tmp_path, then=lambda train: (__import__, importlib.import_module) == real)


def test_what_is_missing_in_such_a_package_is_told_by_the_users_name(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "queue/__init__.py": "",
            "train.py": "def train(run):\n    try:\n        import queue.gone\n    except ImportError as error:\n"
            "        return error.name, str(error)\n",
        },
    )
    assert calling(tmp_path) == ("queue.gone", "No module named 'queue.gone'")


TYPES = """
from __future__ import annotations
import dataclasses, pickle, typing

@dataclasses.dataclass
class Sample:
    kind: typing.ClassVar[int] = 1
    other: Sample | None = None

class Numbers:
    def __len__(self): return 64
    def __getitem__(self, i): return Sample(), i

def pickled():
    return pickle.dumps(Sample(Sample()))
"""


def test_classes_of_such_a_module_are_whole(tmp_path: Path) -> None:
    lay(tmp_path, {"queue.py": TYPES})
    lay(
        tmp_path,
        {
            "train.py": "import dataclasses, pickle, typing, queue\ndef train(run):\n"
            "    assert [f.name for f in dataclasses.fields(queue.Sample)] == ['other']\n"
            "    assert typing.get_type_hints(queue.Sample)['other'] == queue.Sample | None\n"
            "    assert type(pickle.loads(queue.pickled())) is queue.Sample\n"
            "    return queue.pickled(), __import__('os').environ['SUREFOOT_CODE']\n"
        },
    )
    data, folders = calling(tmp_path)
    # a process that begins afresh, as a data worker may
    code = (
        "import pickle, sys, queue; print(type(pickle.loads(sys.stdin.buffer.read())).__name__, queue.Queue.__name__)"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=data,
        env={**os.environ, "SUREFOOT_CODE": folders},
        capture_output=True,
        check=True,
    ).stdout
    assert told.split() == [b"Sample", b"Queue"]
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        pickle.loads(data)


TRAINING = """
import torch, queue, random, calendar
from surefoot import Run

def train(run: Run):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(3):
        for batch in step.batches(queue.Numbers(), collate=queue.collate):
            loss = model(batch + queue.NOISE).square().mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
"""
DATA = """
import torch
NOISE = torch.randn(1)
class Numbers:
    def __len__(self): return 64
    def __getitem__(self, i): return torch.tensor([float(i)]) + torch.randn(1)
def collate(items): return torch.stack(items)
"""


def test_training_with_such_modules_has_one_result_with_data_workers_and_without(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"train.py": TRAINING, "queue.py": DATA, "random.py": "", "calendar.py": "", "types.py": "", "copy.py": ""},
    )

    def digest(workers: int) -> Any:
        options = RunOptions(batch_size=8, sub_tasks=2, data_workers=workers)
        coordinator = LocalCoordinator(2)
        return lambda train: (run_training(train, options, coordinator), coordinator.digest)[1]

    first = calling(tmp_path, then=digest(0))
    assert len(first) == 16
    assert first == calling(tmp_path, then=digest(1))


COMPILED = """
import torch, queue

@torch.compile(backend="eager")
def f(x):
    import calendar
    import wave as w
    from sched import VALUE
    return x * queue.VALUE * calendar.VALUE * w.VALUE * VALUE

def train(run):
    return f(torch.ones(2)).tolist(), f(torch.ones(3)).tolist()
"""


@pytest.mark.filterwarnings("ignore")
def test_code_that_torch_compiles(tmp_path: Path) -> None:
    lay(tmp_path, {f"{name}.py": f"VALUE = {n}" for n, name in enumerate(("queue", "calendar", "wave", "sched"), 2)})
    lay(tmp_path, {"train.py": COMPILED})
    assert calling(tmp_path) == ([120.0] * 2, [120.0] * 3)


@pytest.mark.parametrize("name", ["sys", "time", "os"])
def test_what_python_has_before_any_other_is_refused_as_the_entrypoint(tmp_path: Path, name: str) -> None:
    lay(
        tmp_path,
        {
            f"{name}.py": "def train(run): ...",
            "train.py": f"import {name}\ndef train(run):\n    return hasattr({name}, 'train')",
        },
    )
    assert calling(tmp_path) is False

    with pytest.raises(AssertionError, match="there before any of yours"):
        calling(tmp_path, f"{name}:train")


def test_torch_is_whole_in_the_child(tmp_path: Path) -> None:
    """The kit itself: a forked process computes as this one does."""
    assert in_child(lambda: torch.ones(3).sum().item()) == 3.0
