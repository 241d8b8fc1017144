"""Secrets by SDK and command line, against the real control plane. A value is never an argument, and is never printed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from tests.api.test_against_service import Running, running  # noqa: F401  a fixture
from typer.testing import CliRunner, Result

from surefoot import AsyncClient, Client
from surefoot._secrets import AsyncSecrets, Secrets
from surefoot.cli.app import app
from surefoot.errors import ConflictError, NotFoundError, SpecError

VALUE, OTHER = "secret123-of-mine", "another-secret-456"


def cli(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert VALUE not in result.output
    assert OTHER not in result.output
    return result


def last(result: Result) -> str:
    """The command's own words: the control plane logs in the same process."""
    return result.stdout.splitlines()[-1]


def test_the_sdk(running: Running, code: Path) -> None:  # noqa: F811
    with Client() as client:
        with pytest.raises(SpecError, match="no secret KEY: set it first, with `surefoot secret set KEY`"):
            client.submit("train:train", folder=code, batch_size=64, secrets=["KEY"])
        assert client.secrets.set("KEY", VALUE) == client.secrets.set("KEY", VALUE)
        with pytest.raises(ConflictError):
            client.secrets.set("KEY", OTHER)
        assert client.secrets.rotate("KEY", OTHER).version == 2
        job = client.submit("train:train", folder=code, batch_size=64, secrets=["KEY", "KEY=MINE"])
        assert job.spec.secrets == {"KEY": "KEY", "MINE": "KEY"}
        with pytest.raises(ConflictError, match=f"job {job.id} has not ended"):
            client.secrets.remove("KEY")
        assert client.secrets.rotate_key().model_dump() == {"secrets": 1, "made": True}
        job.cancel()
        client.secrets.remove("KEY")
        assert client.secrets.list() == ()
        with pytest.raises(NotFoundError):
            client.secrets.remove("NEVER")
        for name, value in (("A-B", VALUE), ("A/../B", VALUE), ("A", "x"), ("A", "\ud800" * 9)):
            with pytest.raises(SpecError):
                client.secrets.set(name, value)


async def test_the_sdk_for_asyncio(running: Running) -> None:  # noqa: F811
    async with AsyncClient() as client:
        await client.secrets.set("KEY", VALUE)
        assert (await client.secrets.rotate("KEY", OTHER)).version == 2
        assert [view.name for view in await client.secrets.list()] == ["KEY"]
        assert (await client.secrets.rotate_key()).secrets == 1
        await client.secrets.remove("KEY")


def test_both_are_twins() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {n: list(inspect.signature(m).parameters) for n, m in vars(kind).items() if not n.startswith("_")}

    assert surface(Secrets) == surface(AsyncSecrets)


def test_the_command_line(running: Running, code: Path, tmp_path: Path) -> None:  # noqa: F811
    assert last(cli("secret", "list")) == "no secrets"
    assert last(cli("secret", "set", "KEY", stdin=f"{VALUE}\n")) == "set KEY (version 1)"
    (tmp_path / "value").write_text(OTHER)
    rotated = cli("secret", "rotate", "KEY", "--from-file", str(tmp_path / "value"), "--json")
    assert json.loads(last(rotated))["version"] == 2
    # the newline at the end is none of the value's
    assert cli("secret", "set", "KEY", stdin=f"{OTHER}\r\n").exit_code == 0
    assert CliRunner().invoke(app, ["secret", "set", "KEY", VALUE]).exit_code == 2, "arguments are no place for values"
    assert [each["name"] for each in json.loads(last(cli("secret", "list", "--json")))] == ["KEY"]
    assert "the user" in cli("secret", "list").stdout
    submit = ("submit", "train:train", "-f", str(code), "-b", "64", "--detach")
    job = last(cli(*submit, "--secret", "KEY=MINE"))
    assert "MINE=KEY" not in cli("show", job).stdout
    assert "KEY=MINE" in cli("show", job).stdout
    twice = cli(*submit, "--secret", "KEY", "--secret", "OTHER=KEY")
    assert (twice.exit_code, "two secrets are to be the variable KEY" in twice.stderr) == (2, True)
    assert last(cli("secret", "rotate-key")) == "1 secrets are encrypted with a new key"
    assert cli("cancel", job, "--no-wait").exit_code == 0
    assert last(cli("secret", "rm", "KEY")) == "removed KEY"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 9)
    assert "is no text" in cli("secret", "set", "KEY", "--from-file", str(tmp_path / "binary")).stderr
