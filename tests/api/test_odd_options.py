"""Whatever stands behind an option or in an argument of a command: it is taken, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import typer.main
from tests.api.conftest import JOB
from typer.testing import CliRunner

from surefoot import _transport
from surefoot.cli.app import app
from surefoot.cli.session import Session

# made once: typer's `invoke` makes it anew for each command line
COMMAND = typer.main.get_command(app)
ODD_NUMBERS = ("", "-1", "0", "1.5", "nan", "inf", "1e400", "9" * 400)
ODD_TEXTS = (
    *(
        "",
        "-1",
        "nan",
        "9" * 5000 + "h",
        "99999999999d",
        "\0",
        "a\nb",
        "../../x",
        "~nobody-at-all/x",
        "=b",
        "a=b",
        "a=[1",
        "a>=nan",
    ),
    *("http://[", "s3://u:p@b", "0001-01-01T00:00", "\x1b]52;c;QQ==\x07", "x" * 3000),
)


def _commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in COMMAND.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from (((name, inner), each) for inner, each in command.commands.items())
        else:
            yield (name,), command


COMMANDS = dict(_commands())
# what a command needs, to come as far as to look at another option
NEEDS = {
    ("submit",): ["train:train", "-b", "64", "-f", "CODE", "--detach"],
    ("check",): ["train:train", "-b", "64", "-f", "CODE"],
    ("ls",): [],
    ("up",): [],
    ("schema",): [],
    ("version",): [],
    ("secret", "list"): [],
    ("secret", "rotate-key"): [],
    ("secret", "set"): ["A_KEY"],
    ("secret", "rotate"): ["A_KEY"],
    ("secret", "rm"): ["A_KEY"],
    ("resize",): [JOB, "2"],
    ("diff",): [JOB, JOB],
    ("track",): [JOB, "--to", "tensorboard:TMP/board", "--once"],
    ("budget",): [JOB, "--max-cost", "3"],
    ("model",): [JOB, "-o", "TMP/model"],
    ("chaos",): [JOB, "--for", "0s"],
}


def _uses(command: tuple[str, ...], tmp: Path, code: Path) -> Iterator[list[str]]:
    """The command with each of its options, and each of its arguments, as something odd."""
    needs = [word.replace("TMP", str(tmp)).replace("CODE", str(code)) for word in NEEDS.get(command, [JOB])]
    arguments = [p for p in COMMANDS[command].params if p.param_type_name == "argument"]
    for odd in ODD_TEXTS:
        for n in range(min(len(arguments), len([w for w in needs if not w.startswith("-")]))):
            yield [*needs[:n], odd, *needs[n + 1 :]]
        if len(arguments) and command in (("files",), ("rm",)):
            yield [*needs, odd]
            yield [*needs, "get", odd]
    for param in COMMANDS[command].params:
        if param.param_type_name == "option" and not param.is_flag:
            is_number = any(kind in str(param.type_descriptor.annotation) for kind in ("int", "float"))
            for odd in ODD_NUMBERS if is_number else ODD_TEXTS:
                yield [*needs, f"{max(param.opts, key=len)}={odd}"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_option_is_too_odd(
    command: tuple[str, ...],
    transport: httpx.MockTransport,
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)
    monkeypatch.setattr(
        "surefoot.cli.local.load", lambda name: lambda **options: SimpleNamespace(ok=True, render=lambda: ["same"])
    )
    (inside := tmp_path / "inside").mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setattr("typer.testing._get_command", lambda given: given)
    wrong = []
    for words in _uses(command, tmp_path, code):
        result = CliRunner().invoke(
            COMMAND,  # type: ignore[arg-type]
            [*command, *words],
            obj=Session(transport=transport, url="http://x", token="t"),
            input="a secret value\n",
        )
        said = f"{result.stdout}{result.stderr}"
        ours = "mistake of surefoot's own" in said or "Traceback" in said
        if result.exit_code not in (0, 1, 2) or ours or (result.exit_code and not result.stderr.strip()):
            wrong.append((words[-1][:60], result.exit_code, said[-300:]))
    assert wrong == []
