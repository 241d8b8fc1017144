"""The SDK's secrets: `client.secrets`, of both clients. Values go in, and never come out."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from surefoot._given import a_text, any_text
from surefoot._requests import Call, Flow, ask, model_of
from surefoot.errors import SpecError
from surefoot.secret_rules import SECRET_PATTERN, check_value
from surefoot.secrets import KeyRotated, SecretList, SecretView

__all__ = ["AsyncSecrets", "Secrets"]

T = TypeVar("T")
_JSON = {"content-type": "application/json"}


class Runs(Protocol):
    """What carries a flow: `Client`."""

    def _run(self, flow: Flow[T]) -> T: ...


class AsyncRuns(Protocol):
    """What carries a flow: `AsyncClient`."""

    def _run(self, flow: Flow[T]) -> Awaitable[T]: ...


def _path(name: str) -> str:
    if not re.fullmatch(SECRET_PATTERN, a_text(name, "name", "WANDB_API_KEY")):
        raise SpecError(f"{name[:100]!r} is no name of a secret: letters, digits and _, at most 64, no digit first")
    return f"/v1/secrets/{name}"


def _value(value: str) -> bytes:
    text = any_text(value, "value", "...")
    try:
        return json.dumps({"value": check_value(text)}).encode()
    except ValueError as error:
        raise SpecError(f"{error}") from None


def _list() -> Call[SecretList]:
    return Call(method="GET", path="/v1/secrets", parse=model_of(SecretList))


def _set(name: str, value: str) -> Call[SecretView]:
    return Call(method="PUT", path=_path(name), parse=model_of(SecretView), headers=_JSON, body=_value(value))


def _rotate(name: str, value: str) -> Call[SecretView]:
    path = f"{_path(name)}/rotate"
    return Call(method="POST", path=path, parse=model_of(SecretView), headers=_JSON, body=_value(value))


def _remove(name: str) -> Call[None]:
    return Call(method="DELETE", path=_path(name), parse=lambda _answer: None)


def _rotate_key() -> Call[KeyRotated]:
    return Call(method="POST", path="/v1/secrets/keys/new", parse=model_of(KeyRotated))


class Secrets:
    """The control plane's secrets. A job names them (`submit(..., secrets=["WANDB_API_KEY"])`), and its code finds them in os.environ."""

    def __init__(self, client: Runs) -> None:
        self._client = client

    def list(self) -> tuple[SecretView, ...]:
        """Return all secrets, by name, without their values."""
        return self._client._run(ask(_list())).secrets

    def set(self, name: str, value: str) -> SecretView:
        """Set a secret; again with the same value changes nothing. Raises ConflictError where it has another value: `rotate` it."""
        return self._client._run(ask(_set(name, value)))

    def rotate(self, name: str, value: str) -> SecretView:
        """Give a secret another value, which trainers that start from then on find. Raises NotFoundError."""
        return self._client._run(ask(_rotate(name, value)))

    def remove(self, name: str) -> None:
        """Remove a secret. Raises ConflictError while a job that has not ended names it, NotFoundError for one that never was."""
        self._client._run(ask(_remove(name)))

    def rotate_key(self) -> KeyRotated:
        """Have all secrets encrypted with a new key."""
        return self._client._run(ask(_rotate_key()))


class AsyncSecrets:
    """The same for asyncio."""

    def __init__(self, client: AsyncRuns) -> None:
        self._client = client

    async def list(self) -> tuple[SecretView, ...]:
        """As `Secrets.list`."""
        return (await self._client._run(ask(_list()))).secrets

    async def set(self, name: str, value: str) -> SecretView:
        """As `Secrets.set`."""
        return await self._client._run(ask(_set(name, value)))

    async def rotate(self, name: str, value: str) -> SecretView:
        """As `Secrets.rotate`."""
        return await self._client._run(ask(_rotate(name, value)))

    async def remove(self, name: str) -> None:
        """As `Secrets.remove`."""
        await self._client._run(ask(_remove(name)))

    async def rotate_key(self) -> KeyRotated:
        """As `Secrets.rotate_key`."""
        return await self._client._run(ask(_rotate_key()))
