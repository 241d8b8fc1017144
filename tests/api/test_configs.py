"""Configs and jobs as files, names by --set that the code reads, and JSON from every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import httpx
import pytest
import typer.main
from jsonschema_rs import Draft202012Validator
from tests.api.conftest import FakeService, make_view
from tests.api.test_cli import Cli, cli  # noqa: F401  a fixture

from surefoot.cli.app import app
from surefoot.config import Config
from surefoot.config_files import read_file
from surefoot.config_reads import reads_of
from surefoot.errors import UserError
from surefoot.job_file import job_schema
from surefoot.spec import JobState

YAML = "lr: 1e-3\nname: yes\nday: 2026-01-02\nratio: 1:30\ndeep:\n  widths: [1, 2.5]\n  on: true\nnone: ~\n"
TOML = 'lr = 1e-3\nname = "yes"\nday = "2026-01-02"\nratio = "1:30"\n[deep]\nwidths = [1, 2.5]\non = true\n'
SAID = {"lr": 1e-3, "name": "yes", "day": "2026-01-02", "ratio": "1:30", "deep": {"widths": [1, 2.5], "on": True}}


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "a.toml", "a.json", "a.conf"])
def test_a_config_is_read_by_what_its_name_ends_with(tmp_path: Path, name: str) -> None:
    text = YAML if name.endswith("ml") and "t" not in name else TOML if name.endswith("toml") else json.dumps(SAID)
    (tmp_path / name).write_text(text)
    found = read_file(tmp_path / name, "--config")
    assert {key: value for key, value in found.items() if key != "none"} == SAID
    assert type(found["lr"]) is float


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: 1\na: 2\n"),
        ("a.yaml", "a: [1\n"),
        ("a.yaml", "- 1\n"),
        ("a.yaml", "1: x\n"),
        ("a.yaml", "a: !!python/object/apply:os.system [true]\n"),
        ("a.toml", "a = \n"),
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", "x" * 2_000_000),
    ],
)
def test_what_cannot_be_read_is_told_with_its_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_file(tmp_path / name, "--config")
    assert len(str(error.value)) < 500


def test_a_python_that_reads_no_toml_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(UserError, match=r"Python 3\.11 or newer; write YAML or JSON"):
        read_file(tmp_path / "a.toml", "--config")


def test_a_config_is_read_before_anything_is_printed(cli: Cli, fake: FakeService, code: Path) -> None:  # noqa: F811
    for command in (("submit",), ("check",)):
        result = cli(*command, "train:train", "-f", str(code), "-b", "64", "--config", str(code / "none.yaml"))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("surefoot: --config")
    assert fake.log == []


# ---- a job's file

JOB = """
entrypoint: train:train
batch_size: 64
trainers: 2
config: {lr: 0.1, width: 8}
checkpoint: {every_steps: 5}
secrets: [WANDB_API_KEY]
data: {train: "s3://bucket/a", val: {url: /shared/val, copy: true}}
cpus: 2
"""


def test_a_job_is_a_file_and_options_go_over_it(cli: Cli, fake: FakeService, code: Path) -> None:  # noqa: F811
    (code / "job.yaml").write_text(JOB)
    (code / "train.py").write_text("def train(run):\n    run.config.lr, run.config['width']\n")
    result = cli(
        "submit", str(code / "job.yaml"), "--detach", "--set", "lr=0.5", "-n", "3", "--keep", "4", "--secret", "K=V",
        "--data", "train=/shared/train",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    spec = fake.jobs["job0"].spec
    assert (spec.trainers, spec.batch_size, spec.resources.cpus) == (3, 64, 2)
    assert spec.config == {"lr": 0.5, "width": 8}
    assert (spec.checkpoint.every_steps, spec.checkpoint.keep, spec.checkpoint.every_s) == (5, 4, 300)
    assert spec.secrets == {"WANDB_API_KEY": "WANDB_API_KEY", "V": "K"}
    assert {name: (s.url, s.copies) for name, s in spec.data.items()} == {
        "train": ("/shared/train", False),
        "val": ("/shared/val", True),
    }
    assert "train:in-place=/shared/train val:copy=/shared/val" in " ".join(cli("show", "job0").stdout.split())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("entrypoint: train:train\n", "batch_size is missing"),
        ("batch_size: 8\n", "entrypoint is missing"),
        (JOB + "trainer: 3\n", "did you mean 'trainers'?"),
        (JOB + "sub_tasks: 7\n", "is not a multiple of sub_tasks"),
    ],
)
def test_a_file_that_is_no_job(cli: Cli, code: Path, text: str, told: str) -> None:  # noqa: F811
    (code / "job.yaml").write_text(text)
    result = cli("submit", str(code / "job.yaml"), "--detach")
    assert (result.exit_code, told in result.stderr) == (2, True), result.output


def test_a_job_is_checked_by_its_file(cli: Cli, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As it is submitted: nobody writes it all down twice."""
    given: dict[str, Any] = {}

    def check(**options: Any) -> Any:
        given.update(options)
        return SimpleNamespace(ok=True, render=lambda: ["same"])

    monkeypatch.setattr("surefoot.cli.local.load", lambda name: check)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (code / "data").mkdir()
    (code / "job.yaml").write_text(
        "entrypoint: train:train\nbatch_size: 30\nsub_tasks: 5\ntrainers: 2\nconfig: {lr: 1, width: 8}\n"
        "data: {points: data}\nsecrets: [WANDB_API_KEY]\ncheckpoint: {keep: 4}\nseed: 3\n"
    )
    result = cli("check", str(code / "job.yaml"), "--set", "lr=0.5", "--seed", "4", "--steps", "6")
    assert (result.exit_code, result.stdout) == (0, "same\n"), result.output
    assert (given["entrypoint"], given["folder"], given["batch_size"]) == ("train:train", code, 30)
    assert (given["sub_tasks"], given["config"], given["seed"], given["steps"]) == (5, {"lr": 0.5, "width": 8}, 4, 6)
    assert given["data"] == {"points": str(code / "data")}
    assert "secrets are not handed to trials: code that needs WANDB_API_KEY" in result.stderr

    (code / "job.yaml").write_text("entrypoint: train:train\nbatch_size: 30\n")
    wrong = cli("check", str(code / "job.yaml"))
    assert (wrong.exit_code, "try batch_size 24 or 32" in wrong.stderr) == (2, True)
    assert "--batch-size is missing" in cli("check", "train:train", "-f", str(code)).stderr


def test_what_is_missing_is_told(cli: Cli, code: Path) -> None:  # noqa: F811
    assert "name the train function" in cli("submit").stderr
    assert "--batch-size is missing" in cli("submit", "train:train", "-f", str(code)).stderr


def test_the_schema_is_one_and_describes_every_field(cli: Cli) -> None:  # noqa: F811
    schema = json.loads(cli("schema").stdout)
    assert schema == job_schema()
    check = Draft202012Validator(schema)
    yaml = pytest.importorskip("yaml")
    assert check.is_valid(yaml.safe_load(JOB))
    assert not check.is_valid(yaml.safe_load(JOB + "trainer: 3\n"))
    assert not check.is_valid({"entrypoint": "train:train"})
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


# ---- names that the code reads

CODE = """
import helper
from part import deep

def train(run):
    cfg = run.config
    cfg["width"], cfg.depth, cfg.get("mode", 1)
    if "flag" in run.config:
        run.config.seed
"""


@pytest.fixture
def reading(code: Path) -> Path:
    (code / "train.py").write_text(CODE)
    (code / "helper.py").write_text("def use(run):\n    return run.config['lr']\n")
    (code / "part").mkdir()
    (code / "part/__init__.py").write_text("")
    (code / "part/deep.py").write_text("def f(run):\n    return run.config.deep_one\n")
    return code


def test_what_code_reads_is_found_through_its_imports(reading: Path) -> None:
    found = reads_of(reading / "train.py", reading)
    assert found.names == {"width", "depth", "mode", "flag", "seed", "lr", "deep_one"}
    assert not found.whole


@pytest.mark.parametrize("line", ["dict(run.config)", "run.config[name]", "f(**run.config)", "run.config.items()", "run.config.get(n)",
                                  "for k in run.config: pass", "vars(run.config)"])  # fmt: skip
def test_a_config_that_is_handed_on_may_be_read_by_any_name(reading: Path, line: str) -> None:
    (reading / "train.py").write_text(f"def train(run):\n    run.config['lr']\n    {line}\n")
    found = reads_of(reading / "train.py", reading)
    assert (found.whole, "lr" in found.names) == (True, True)


def test_a_typo_is_told_with_what_was_meant(cli: Cli, fake: FakeService, reading: Path) -> None:  # noqa: F811
    submit = ("submit", "train:train", "-f", str(reading), "-b", "64", "--detach")
    wrong = cli(*submit, "--set", "widht=3")
    assert (wrong.exit_code, "did you mean 'width'?" in wrong.stderr) == (2, True)
    assert fake.jobs == {}
    assert cli(*submit, "--set", "width=3", "--set", "lr=1").exit_code == 0
    (reading / "train.py").write_text("def train(run):\n    run.config['lr'], dict(run.config)\n")
    warned = cli(*submit, "--set", "lrr=3", "--set", "other=1")
    assert (warned.exit_code, warned.stderr.count("did you mean 'lr'?")) == (0, 1)


def test_a_clone_s_typo_is_told_too(cli: Cli, fake: FakeService) -> None:  # noqa: F811
    """Its code is not here: it may read a name that nobody has set before."""
    view = fake.add(
        make_view("abc2345678", spec=make_view().spec.model_copy(update={"config": {"lr": 0.1, "width": 3}}))
    )
    fake.faults = [("/v1/jobs", lambda request: httpx.Response(201, content=view.model_dump_json()))] * 3
    submit = ("submit", "--from", view.id, "--detach")
    told = cli(*submit, "--set", "lrr=3")
    assert (told.exit_code, "that job's config has no 'lrr'; did you mean 'lr'?" in told.stderr) == (0, True), (
        told.output
    )
    for name in ("lr", "momentum"):
        assert "--set" not in cli(*submit, "--set", f"{name}=3").stderr


def test_a_config_is_a_mapping_and_a_namespace() -> None:
    config = Config({"lr": 0.1, "deep": {"width": 3}, "items": [1]})
    assert (config.lr, config["lr"], config.get("no", 7), config.deep.width) == (0.1, 0.1, 7, 3)
    assert json.loads(json.dumps(config)) == dict(config) == {"lr": 0.1, "deep": {"width": 3}, "items": [1]}
    assert (getattr(config, "no", 5), hasattr(config, "no"), "lr" in config) == (5, False, True)
    with pytest.raises(AttributeError, match="did you mean 'lr'"):
        config.lrr  # noqa: B018
    with pytest.raises(KeyError, match="did you mean 'lr'"):
        config["lrr"]
    config.lr = 0.5
    assert config["lr"] == 0.5


# ---- JSON from every command


def commands(group: Any = None, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_speaks_json(path: tuple[str, ...]) -> None:
    command = dict(commands())[path]
    assert "--json" in [option for parameter in command.params for option in parameter.opts], path


# what the fake service can answer; the others are told with their own tests, and by the one above
DONE: dict[str, tuple[str, ...]] = {
    "ls": (),
    "show": ("abc2345678",),
    "watch": ("abc2345678",),
    "resize": ("abc2345678", "1"),
    "cancel": ("abc2345678", "--no-wait"),
    "ledger": ("abc2345678",),
    "diff": ("abc2345678", "abc2345678"),
    "rm": ("abc2345678",),
    "version": (),
    "schema": (),
    "submit": ("train:train", "-b", "64", "--detach", "-f"),
}


@pytest.mark.parametrize("command", DONE)
def test_what_they_say_is_json(cli: Cli, fake: FakeService, code: Path, command: str) -> None:  # noqa: F811
    ended = command not in ("resize", "cancel")
    fake.add(make_view(state=JobState.SUCCEEDED if ended else JobState.RUNNING))
    more = (str(code),) if command == "submit" else ()
    result = cli(command, *DONE[command], *more, "--json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines() if command in ("watch", "rm") else [result.stdout]
    assert lines
    for line in lines:
        json.loads(line)
