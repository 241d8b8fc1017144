"""A program in a trainer finds what `python train.py` finds: each is run both ways, and says the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from surefoot.entrypoint import locate
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.user_code import places
from surefoot_actors.user_code.train_function import load

from .child import NO_RUN, in_child, lay, unpacked

# Each ends with `report`, what the program sees, as JSON values.
_MAIN = "\ndef train(run):\n    return report()\n\nif __name__ == '__main__':\n    import json\n    print(json.dumps(train(None)))\n"

NET = "NAME = 'net'"
PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "a module beside it": ("train.py", {"train.py": "import net\ndef report():\n    return net.NAME", "net.py": NET}),
    "the working directory": (
        "train.py",
        {"train.py": "def report():\n    return open('conf/a.yaml').read()", "conf/a.yaml": "lr: 1"},
    ),
    "its own file": (
        "train.py",
        {
            "train.py": "from pathlib import Path\nimport pkg.net\ndef report():\n"
            "    return (Path(__file__).parent / 'a.txt').read_text(), pkg.net.read()",
            "pkg/net.py": "from pathlib import Path\ndef read():\n    return Path(__file__).with_name('b.txt').read_text()",
            "a.txt": "a",
            "pkg/b.txt": "b",
        },
    ),
    "resources": (
        "train.py",
        {
            "train.py": "from importlib import resources\nimport pkg, space\ndef report():\n"
            "    return resources.files('pkg').joinpath('b.txt').read_text(), resources.files(space).joinpath('c.txt').read_text()",
            "pkg/__init__.py": "",
            "pkg/b.txt": "b",
            "space/c.txt": "c",
        },
    ),
    "packages without init": (
        "train.py",
        {"train.py": "from models.deep.net import NAME\ndef report():\n    return NAME", "models/deep/net.py": NET},
    ),
    "a script in a folder": (
        "scripts/train.py",
        {
            "scripts/train.py": "import utils\ndef report():\n    return utils.NAME, open('data.txt').read()",
            "scripts/utils.py": "NAME = 'beside it'",
            "utils.py": "NAME = 'above it'",
            "data.txt": "d",
        },
    ),
    "a script named as no module can be": (
        "scripts/train-v2.py",
        {"scripts/train-v2.py": "import utils\ndef report():\n    return utils.NAME", "scripts/utils.py": "NAME = 1"},
    ),
    "a folder on PYTHONPATH": (
        "train.py",
        {"train.py": "from pkg.net import NAME\ndef report():\n    return NAME", "src/pkg/net.py": NET},
    ),
    "a folder that it puts on the path itself": (
        "train.py",
        {
            "train.py": "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\nimport net\n"
            "def report():\n    return net.NAME",
            "lib/net.py": NET,
        },
    ),
    "a module named as the standard library's": (
        "train.py",
        {
            "train.py": "import queue, logging.handlers\ndef report():\n    return queue.NAME",
            "queue.py": "NAME = 'own'",
        },
    ),
    "the program's arguments": (
        "train.py",
        {
            "train.py": "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', type=float, default=0.1)\n"
            "options = parser.parse_args()\ndef report():\n    return options.lr, sys.argv, parser.prog",
        },
    ),
    "a script's arguments": (
        "scripts/train.py",
        {"scripts/train.py": "import sys\ndef report():\n    return sys.argv"},
    ),
    "links and empty folders": (
        "train.py",
        {
            "train.py": "import linked, os\ndef report():\n    open('out/x.txt', 'w').write('1')\n"
            "    return linked.NAME, open('shared/a.txt').read(), os.listdir('out')",
            "real/linked.py": "NAME = 'linked'",
        },
    ),
    "a folder named dist": (
        "train.py",
        {"train.py": "from dist.net import NAME\ndef report():\n    return NAME", "dist/net.py": NET, "dist/x.whl": ""},
    ),
    "a relative import in a package": (
        "train.py",
        {
            "train.py": "from pkg.sub.net import NAME\ndef report():\n    return NAME",
            "pkg/sub/net.py": "from ..base import NAME\nfrom . import other",
            "pkg/sub/other.py": "",
            "pkg/base.py": NET,
        },
    ),
    "another working directory": (
        "train.py",
        {
            "train.py": "import os\ndef report():\n    os.chdir('sub')\n    import late\n    return late.NAME, open('x.txt').read()",
            "late.py": "NAME = 'late'",
            "sub/x.txt": "x",
        },
    ),
    "a program that it starts": (
        "train.py",
        {
            "train.py": "import subprocess, sys\ndef report():\n"
            "    return subprocess.run(['./run.sh'], capture_output=True, text=True).stdout",
            "run.sh": "#!/bin/sh\necho started\n",
        },
    ),
}


def plain(folder: Path, script: str, env: dict[str, str]) -> Any:
    done = subprocess.run([sys.executable, script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_trainer_sees_what_python_sees(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, files = PROGRAMS[case]
    program = lay(tmp_path / "program", {**files, script: files[script] + _MAIN})
    if "linked.py" in str(files):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/a.txt").write_text("far")
        (program / "shared").symlink_to("../elsewhere")
        (program / "linked.py").symlink_to("real/linked.py")
        (program / "out").mkdir()
    for executable in program.glob("*.sh"):
        executable.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", "src")
    node, found = unpacked(program, tmp_path / "node"), locate(f"{script}:train", program)

    def in_trainer() -> Any:
        os.chdir(node)
        places.set_folders([])
        return load(found.name, Streams(1, torch.device("cpu")))(NO_RUN)

    seen = in_child(in_trainer)
    assert json.loads(json.dumps(seen)) == plain(program, script, {**os.environ})


def test_both_ways_of_naming_a_module_of_a_package(tmp_path: Path) -> None:
    lay(tmp_path, {"pkg/train.py": "from . import net\ndef train(run):\n    return net.NAME", "pkg/net.py": NET})
    for given in ("pkg.train:train", "pkg/train.py:train"):
        found = locate(given, tmp_path)

        def in_trainer(name: str = found.name) -> Any:
            os.chdir(tmp_path)
            places.set_folders([])
            return load(name, Streams(1, torch.device("cpu")))(NO_RUN)

        assert in_child(in_trainer) == "net"


def test_a_module_in_a_plain_folder_finds_what_lies_beside_it_too(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "scripts/train.py": "import utils, top\ndef train(run):\n    return utils.NAME",
            "scripts/utils.py": "NAME = 1",
        },
    )
    lay(tmp_path, {"top.py": ""})

    def in_trainer() -> Any:
        os.chdir(tmp_path)
        places.set_folders([])
        return load("scripts.train:train", Streams(1, torch.device("cpu")))(NO_RUN)

    assert in_child(in_trainer) == 1
