"""What all commands share: the global options, the way to the control plane, and where text goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import typer

from surefoot.cli.printing import console, say, say_error, say_words
from surefoot.client import Client
from surefoot.config_files import read_file
from surefoot.errors import JobFailedError, ServiceError, SurefootError, UserError

__all__ = [
    "FAILED",
    "MISTAKE",
    "Session",
    "console",
    "failure_text",
    "pairs",
    "read_config",
    "say",
    "say_error",
    "say_words",
]

# Exit codes: a job that failed, or ledgers that differ; and whatever kept a command from doing its work.
FAILED, MISTAKE = 1, 2

_PHRASES = {status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The global options of one invocation."""

    url: str | None = None
    token: str | None = None
    debug: bool = False
    # in place of the network, in tests
    transport: httpx.BaseTransport | None = None

    @staticmethod
    def of(context: typer.Context) -> Session:
        assert isinstance(context.obj, Session)
        return context.obj

    def client(self) -> Client:
        return Client(self.url, self.token, transport=self.transport)


def failure_text(error: SurefootError) -> str:
    """Return what to tell about an error: the sentence, without the HTTP phrase that only repeats its kind."""
    if isinstance(error, ServiceError) and error.detail and error.title in _PHRASES:
        return error.detail
    return str(error)


def exit_code(error: SurefootError) -> int:
    return FAILED if isinstance(error, JobFailedError) else MISTAKE


def pairs(given: list[str], option: str) -> dict[str, str]:
    """Read KEY=VALUE options. Raises UserError naming the one that is none."""
    found = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"{option} {item!r} must look like KEY=VALUE")
        found[key] = value
    return found


def read_config(file: Path | None, settings: list[str]) -> dict[str, Any]:
    """Return the job's config: a file's (YAML, TOML, JSON), and over it the --set options (JSON, or else text)."""
    config = {} if file is None else read_file(file, "--config")
    return config | {key: _json_or_text(value) for key, value in pairs(settings, "--set").items()}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
