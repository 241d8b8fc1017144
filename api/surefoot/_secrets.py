"""The SDK's secrets: `client.secrets`, of both clients. Values go in, and never come out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from surefoot._requests import Answer, Call, Flow, ask, check_secret_name, model_of
from surefoot.errors import SpecError
from surefoot.secret_rules import check_value
from surefoot.secrets import KeyRotated, SecretList, SecretRequest, SecretView

__all__ = ["AsyncSecrets", "Secrets"]

T = TypeVar("T")


def _body(value: str) -> bytes:
    try:
        return SecretRequest.model_validate({"value": check_value(value)}).model_dump_json().encode()
    except (ValidationError, ValueError) as error:
        raise SpecError(f"this value cannot be a secret's: {error}") from None
