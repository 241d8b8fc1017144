"""`surefoot secret`: values come by standard input, by a prompt or from a file, never as arguments, which others see."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from surefoot.cli.format import ago
from surefoot.cli.references import AsJson, tell
from surefoot.cli.session import Session, say, say_words
from surefoot.cli.tables import print_table
from surefoot.errors import UserError
from surefoot.secrets import SecretView

__all__ = ["secret"]

secret = typer.Typer(
    name="secret", no_args_is_help=True, help="Set, list, rotate and remove secrets, which jobs name by --secret."
)

Name = Annotated[str, typer.Argument(help="The secret's name: letters, digits and _.", metavar="NAME")]
FromFile = Annotated[
    Path | None, typer.Option("--from-file", help="A file with the value. (default: a prompt, or standard input)")
]


@secret.command("set")
def set_(context: typer.Context, name: Name, from_file: FromFile = None, as_json: AsJson = False) -> None:
    """Set a secret. Its value comes by a prompt, by standard input or from a file, without the newline at its end.

    Example: surefoot secret set WANDB_API_KEY --from-file key.txt
    """
    value = _value(name, from_file)
    with Session.of(context).client() as client:
        _told(client.secrets.set(name, value), "set", as_json)


@secret.command("rotate")
def rotate(context: typer.Context, name: Name, from_file: FromFile = None, as_json: AsJson = False) -> None:
    """Give a secret another value. Trainers that start from then on find it; running ones keep the one that they have.

    Example: surefoot secret rotate WANDB_API_KEY
    """
    value = _value(name, from_file)
    with Session.of(context).client() as client:
        _told(client.secrets.rotate(name, value), "rotated", as_json)


@secret.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List secrets by name. Their values are shown nowhere.

    Example: surefoot secret list
    """
    with Session.of(context).client() as client:
        found = client.secrets.list()
    if as_json:
        say("[" + ",\n ".join(map(BaseModel.model_dump_json, found)) + "]")
    elif found:
        _print(found)
    else:
        say("no secrets")


@secret.command("rm")
def remove(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="The secrets' names.", metavar="NAME...")],
    as_json: AsJson = False,
) -> None:
    """Remove secrets that no job names which has not ended.

    Example: surefoot secret rm WANDB_API_KEY
    """
    with Session.of(context).client() as client:
        for name in names:
            client.secrets.remove(name)
            say(json.dumps({"removed": name})) if as_json else say_words(f"removed {name}")


@secret.command("rotate-key")
def rotate_key(context: typer.Context, as_json: AsJson = False) -> None:
    """Encrypt all secrets with a new key; where the control plane is given its keys, with the first of them.

    Example: surefoot secret rotate-key
    """
    with Session.of(context).client() as client:
        found = client.secrets.rotate_key()
    which = "a new key" if found.made else "the first of the keys that the control plane is given"
    tell(found, f"{found.secrets} secrets are encrypted with {which}", as_json)


def _told(view: SecretView, what: str, as_json: bool) -> None:
    tell(view, f"{what} {view.name} (version {view.version})", as_json)


def _value(name: str, file: Path | None) -> str:
    if file is not None:
        text = _read(file)
    elif sys.stdin.isatty():
        text = typer.prompt(f"Value of {name}", hide_input=True, err=True)
    else:
        text = sys.stdin.read()
    return text.removesuffix("\n").removesuffix("\r")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeError:
        raise UserError(f"{file} is no text: encode it first, in base64 say") from None


def _print(found: tuple[SecretView, ...]) -> None:
    now = datetime.now(timezone.utc)
    rows = [(each.name, str(each.version), each.owner, ago(each.rotated_at or each.created_at, now)) for each in found]
    print_table(("NAME", "VERSION", "OWNER", "SET"), rows)
