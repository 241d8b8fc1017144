"""Slow libraries are imported once for all trials, with what is asked of them by name: so a check of code that uses them is bearable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from surefoot_actors.check import check
from surefoot_actors.check.libraries import libraries

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_what_is_taken_by_name_is_found_in_fellows_too(tmp_path: Path) -> None:
    train = "import os, scipy.linalg as la\nfrom transformers import Trainer, GPT2Config as C\nimport models.big\n"
    fellow = "from transformers.models.gpt2 import *\nfrom . import other\nfrom surefoot.integrations import peft\n"
    (tmp_path / "train.py").write_text(train)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "big.py").write_text(fellow)
    assert set(libraries(tmp_path, "train:train")) == {
        "scipy.linalg", "transformers", "transformers:Trainer", "transformers:GPT2Config", "transformers.models.gpt2",
        "surefoot.integrations", "surefoot.integrations:peft",
    }  # fmt: skip


def test_the_users_own_module_of_that_name_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("from transformers import Trainer\nimport accelerate\n")
    (tmp_path / "transformers.py").write_text("")
    assert libraries(tmp_path, "train:train") == ["accelerate"]


def test_a_lazy_library_s_modules_are_there_after_it() -> None:
    """In a process of its own, as the trials' is: a name brings its module, one that is not there harms nobody, and no thread is left."""
    code = """if True:
        import os, sys, torch
        from surefoot_actors.check.libraries import import_all
        asked = ["transformers:TrainingArguments", "transformers:NoSuchThing", "surefoot.integrations:huggingface", "no.such.library",
                 "scipy.linalg", "peft", "lightning.pytorch"]
        print(import_all(asked))
        print(len(os.listdir("/proc/self/task")), "transformers.training_args" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": "1"}
    )
    imported, rest = done.stdout.splitlines()
    assert imported == str(
        ["transformers.training_args", "surefoot.integrations.huggingface", "scipy.linalg", "peft", "lightning.pytorch"]
    )
    assert rest == "1 True", "a fork would leave threads behind"


@pytest.mark.slow
def test_check_passes_on_the_example_of_transformers() -> None:
    config = {"eval_every": 3, "width": 16, "layers": 1}
    report = check(
        entrypoint="train:train", folder=EXAMPLES / "huggingface", batch_size=8, sub_tasks=4, steps=6, config=config
    )
    assert report.ok, report.render()
    assert len(report.scenarios) == 14
