"""What user code raises is told as the user knows it: package paths, no frames of Surefoot's, and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surefoot import Run
from surefoot.errors import ContractError
from surefoot.package import pack
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.local_run.run_local import run_local
from surefoot_actors.user_code import places, tracebacks
from surefoot_actors.user_code.advice import advice, with_advice
from surefoot_actors.user_code.train_function import load

from .child import in_child, lay, unpacked


def told(node: Path, left_out: dict[str, str] | None = None, entrypoint: str = "train:train") -> tuple[str, str]:
    """Run a program as a trainer does; return its message and traceback."""

    def call() -> tuple[str, str]:
        os.chdir(node)
        places.set_folders([])
        try:
            train = load(entrypoint, Streams(1, torch.device("cpu")))
            run_training(train, RunOptions(batch_size=8, sub_tasks=2), LocalCoordinator(2))
        except BaseException as error:  # noqa: BLE001  as a trainer's thread does
            return with_advice(error, left_out or {}), tracebacks.told(error)
        raise AssertionError("it raised nothing")

    told: tuple[str, str] = in_child(call)
    return told


# ---- code for other launchers

GROUP = "no process group of torch.distributed and no rank"
PLAIN = "track the plain model and leave DDP out"
CASES = {
    "DDP": ("import torch\nx = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))", PLAIN),
    "get_rank": ("import torch.distributed as dist\ndist.get_rank()", GROUP),
    "get_world_size": ("import torch.distributed as dist\ndist.get_world_size()", GROUP),
    "all_reduce": ("import torch, torch.distributed as dist\ndist.all_reduce(torch.ones(1))", GROUP),
    "init_process_group": ("import torch.distributed as dist\ndist.init_process_group('gloo')", GROUP),
    "device mesh": (
        "from torch.distributed.device_mesh import init_device_mesh\ninit_device_mesh('cpu', (1,))",
        GROUP,
    ),
    "fully_shard": (
        "import torch\nfrom torch.distributed.fsdp import fully_shard\nfully_shard(torch.nn.Linear(1, 1))",
        "leave FSDP out",
    ),
    "DistributedSampler": (
        "from torch.utils.data import DistributedSampler\nDistributedSampler(range(9))",
        "leave DistributedSampler out, and iterate over step.batches",
    ),
    "torchrun": ("import os\nrank = int(os.environ['LOCAL_RANK'])", "torchrun sets LOCAL_RANK"),
    "world size": ("import os\nn = os.environ['WORLD_SIZE']", "torchrun sets WORLD_SIZE"),
    "spawn": (
        "import torch.multiprocessing as mp\nfrom work import work\nmp.spawn(work, nprocs=1)",
        "without torch.multiprocessing.spawn",
    ),
    "required argument": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args()",
        "give every argument a default, and read what differs from run.config",
    ),
    "a launcher's library": ("import horovod\nhorovod.Runner()", "without Horovod"),
    "sys.exit": ("import sys\nsys.exit('no data')", "the program ended itself saying 'no data'"),
}
HELPERS = {
    "work.py": "def work(index): raise ValueError('in the process')",
    # another than what may be installed here: its file's place is what counts
    "site-packages/horovod/__init__.py": "class Runner:\n    def __init__(self): raise RuntimeError('no launcher')",
}


@pytest.mark.parametrize("where", ["at import", "in train"])
@pytest.mark.parametrize("case", CASES)
def test_code_for_another_launcher_gets_its_sentence(case: str, where: str, tmp_path: Path) -> None:
    text, sentence = CASES[case]
    body = "def train(run):\n" + "".join(f"    {line}\n" for line in text.splitlines())
    lay(tmp_path, {"train.py": body if where == "in train" else f"{text}\ndef train(run): ...", **HELPERS})
    message, traceback = told(_with_path(tmp_path))
    assert sentence in message
    assert 'File "train.py", line' in traceback


def _with_path(folder: Path) -> Path:
    file = folder / "train.py"
    file.write_text(f"import os, sys; sys.path.append(os.path.abspath('site-packages'))\n{file.read_text()}")
    return folder


@pytest.mark.parametrize("case", ["DDP", "get_rank", "required argument", "torchrun"])
def test_run_local_says_the_same_in_a_note(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, sentence = CASES[case]
    monkeypatch.setattr("sys.argv", ["train.py"])

    def train(run: Run) -> None:
        exec(text, {})  # noqa: S102  as a program of the user's

    with pytest.raises((Exception, SystemExit)) as caught:
        run_local(train, batch_size=8)
    told = [str(caught.value), *getattr(caught.value, "__notes__", ())]
    assert sentence in "\n".join(told)


@pytest.mark.parametrize(
    "text",
    [
        "raise ValueError('Default')",
        "raise KeyError('loss')",
        "import torch\ntorch.nn.Linear(2, 2)(torch.ones(3))",
        "open('nowhere.txt')",
    ],
)
def test_an_error_of_the_programs_own_gets_no_advice(text: str, tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": "def train(run):\n" + "".join(f"    {line}\n" for line in text.splitlines())})
    message, _ = told(tmp_path)
    assert "Surefoot" not in message
    assert "trainer" not in message


class _Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)


_Parallel.__module__, _Parallel.__name__ = "torch.nn.parallel.distributed", "DistributedDataParallel"


def test_a_wrapped_model_is_refused_where_it_is_tracked() -> None:
    def train(run: Run) -> None:
        run.track(model=_Parallel())  # MARK

    with pytest.raises(ContractError, match=r"model, tracked at test_advice\.py:\d+, is a DDP|leave DDP out"):
        run_local(train, batch_size=8)


def test_data_parallel_on_one_device_is_no_wrapper() -> None:
    class Stop(Exception):
        pass

    def train(run: Run) -> None:
        run.track(model=nn.DataParallel(nn.Linear(1, 1)))
        raise Stop

    with pytest.raises(Stop):
        run_local(train, batch_size=8)


@pytest.mark.parametrize("kind", ["generator", "coroutine", "class"])
def test_what_a_call_would_not_run_is_refused(kind: str) -> None:
    def generator(run: Run) -> Any:
        yield

    async def coroutine(run: Run) -> None: ...

    kinds: dict[str, Callable[..., Any]] = {"generator": generator, "coroutine": coroutine, "class": _Parallel}
    with pytest.raises(ValueError, match="a train function is a plain function"):
        run_local(kinds[kind], batch_size=8)


@pytest.mark.parametrize(
    "text",
    [
        "raise KeyError([1])",
        "raise KeyError",
        "raise FileNotFoundError(3)",
        "raise FileNotFoundError(2, 'no', b'x')",
        "raise ImportError(name=3)",
        "raise ModuleNotFoundError(name=None)",
        "class Odd(ValueError):\n    def __str__(self): raise RuntimeError\nraise Odd",
        "class Odd(ValueError):\n    def __str__(self): return 3\nraise Odd",
        "def deep(n):\n    try:\n        raise ValueError(n)\n    except ValueError as error:\n        last = error\n    return last\n"
        "error = None\nfor n in range(3000):\n    last = deep(n)\n    last.__context__ = error\n    error = last\nraise error",
        "def f(): f()\nf()",
        "raise ExceptionGroup('several', [ValueError('one'), KeyError('two')])",
        "import sys\nsys.exit([])",
        "raise BaseException",
    ],
)
def test_whatever_is_raised_is_told(text: str, tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": "def train(run):\n" + "".join(f"    {line}\n" for line in text.splitlines())})
    message, traceback = told(tmp_path, {"x": "by .gitignore line 1 (x)"})
    assert 'File "train.py", line' in traceback
    assert "surefoot_actors" not in traceback
    assert isinstance(message, str)


# ---- what was left out

LEFT = {
    "a file": ("open('config.yaml')", "config.yaml", "*.yaml", "config.yaml"),
    "by its full path": ("import os\nopen(os.path.abspath('config.yaml'))", "config.yaml", "*.yaml", "config.yaml"),
    "from another working directory": (
        "import os\nos.chdir('sub')\nopen('../config.yaml')",
        "config.yaml",
        "*.yaml",
        "config.yaml",
    ),
    "in a folder": ("open('data/deep/x.bin')", "data/deep/x.bin", "data/", "data/"),
    "listed": ("import os\nos.listdir('data')", "data/x.bin", "data/", "data/"),
    "by numpy": ("import numpy\nnumpy.load('x.npy')", "x.npy", "*.npy", "x.npy"),
    "by torch": ("import torch\ntorch.load('x.pt')", "x.pt", "*.pt", "x.pt"),
    "a module": ("import settings", "settings.py", "settings.py", "settings.py"),
    "a name of a package": ("from lib import settings", "lib/settings.py", "settings.py", "lib/settings.py"),
    "a package": ("import lib2.net", "lib2/net.py", "lib2/", "lib2/"),
    "a submodule": ("import lib.net", "lib/net.py", "lib/net.py", "lib/net.py"),
    "relatively": ("from lib.up import x", "lib/net.py", "lib/net.py", "lib/net.py"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_was_left_out_is_named_where_it_is_missed(case: str, tmp_path: Path) -> None:
    text, file, pattern, out = LEFT[case]
    files = {
        "sub/x": "",
        "lib/__init__.py": "",
        "lib/up.py": "from .net import x",
        file: "",
        ".gitignore": f"# mine\n{pattern}\n",
    }
    program = lay(tmp_path / "program", files)
    lay(program, {"train.py": "def train(run):\n" + "".join(f"    {line}\n" for line in text.splitlines())})
    left_out = {o.path: o.why for o in pack(program).left_out}
    message, _ = told(unpacked(program, tmp_path / "node"), left_out)
    assert message.endswith(
        f": {out} was left out of the package by .gitignore line 2 ({pattern}); add `!{out}` to .surefootignore"
    )
    # and the advice holds
    (program / ".surefootignore").write_text(f"!{out}\n")
    assert file in pack(program).files


def test_a_link_that_was_left_out_is_named(tmp_path: Path) -> None:
    program = lay(tmp_path / "program", {"train.py": "def train(run):\n    open('data')"})
    (program / "data").symlink_to("nowhere")
    left_out = {o.path: o.why for o in pack(program).left_out}
    message, _ = told(unpacked(program, tmp_path / "node"), left_out)
    assert "data was left out of the package since the link leads nowhere" in message


def test_a_file_elsewhere_and_a_library_are_told_apart(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": "def train(run):\n    open('/home/me/data.csv')"})
    assert "/home/me/data.csv is no file of the package" in told(tmp_path)[0]
    lay(tmp_path, {"train.py": "import not_there_at_all\ndef train(run): ..."})
    assert "name it in the job's pip requirements" in told(tmp_path)[0]


READS = """
import torch
from surefoot import Run

class Files:
    def __len__(self): return 64
    def __getitem__(self, i): return open('data/x.bin').read()

def train(run: Run):
    model = torch.nn.Linear(1, 1)
    run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for step in run.steps(3):
        for batch in step.batches(Files()):
            pass
"""


def test_a_file_that_a_data_worker_misses_is_named(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": READS})

    def call() -> str:
        os.chdir(tmp_path)
        places.set_folders([])
        train = load("train:train", Streams(1, torch.device("cpu")))
        with pytest.raises(FileNotFoundError) as caught:
            run_training(train, RunOptions(batch_size=8, sub_tasks=2, data_workers=1), LocalCoordinator(2))
        return advice(caught.value, {"data/": "by .gitignore line 1 (data/)"})

    assert "data/ was left out of the package" in in_child(call)


# ---- tracebacks

FAILS = {
    "train.py": """
import torch
from surefoot import Run
from models.net import Net

def train(run: Run):
    model = Net()
    run.track(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    data = torch.utils.data.TensorDataset(torch.zeros(64, 1))
    for step in run.steps(3):
        for (batch,) in step.batches(data):
            try:
                model(batch)
            except ZeroDivisionError as error:
                raise ValueError("forward failed") from error
""",
    "models/net.py": """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(1, 1)

    def forward(self, batch):
        return self.inner(batch) / self.nothing()

    def nothing(self):
        return 1 // 0
""",
}


def test_a_traceback_has_the_packages_paths_and_the_users_frames(tmp_path: Path) -> None:
    message, traceback = told(unpacked(lay(tmp_path / "p", FAILS), tmp_path / "node"))
    assert message == "forward failed"
    for line in ('File "train.py", line 15, in train', 'File "models/net.py", line 10, in forward', "return 1 // 0"):
        assert line in traceback
    assert "The above exception was the direct cause" in traceback
    assert "surefoot_actors" not in traceback
    assert str(tmp_path) not in traceback
    assert "frozen importlib" not in traceback


def test_a_broken_rule_ends_at_the_users_line_and_an_error_of_ours_shows_where(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": "def train(run):\n    run.steps(3)\n    run.track()\n    list(run.steps(-1))"})
    _, traceback = told(tmp_path)
    assert "surefoot_actors" not in traceback
    assert 'File "train.py", line' in traceback
    lay(tmp_path, {"train.py": "def train(run):\n    run.seed = 1\n    run.streams.start(None, 'x')"})
    _, traceback = told(tmp_path)
    assert "rng.py" in traceback


def test_lines_are_told_by_path_where_two_files_have_one_name(tmp_path: Path) -> None:
    rule = "import torch\ndef check(run):\n    run.track(m=torch.nn.Linear(1, 1))\n    run.track(m=torch.nn.Linear(1, 1))\n"
    lay(tmp_path, {"a/net.py": rule, "b/net.py": "", "alone.py": rule})
    lay(tmp_path, {"train.py": "import a.net, b.net\ndef train(run):\n    a.net.check(run)"})
    assert " at a/net.py:4" in told(tmp_path)[0]
    lay(tmp_path, {"train.py": "import alone\ndef train(run):\n    alone.check(run)"})
    assert " at alone.py:4" in told(tmp_path)[0]
