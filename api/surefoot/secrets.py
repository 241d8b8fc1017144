"""Secrets as users and attempts speak of them: requests and answers. No answer to a user has a value in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from surefoot.moments import Moment
from surefoot.secret_rules import check_value
from surefoot.views import View

__all__ = ["HandedSecrets", "KeyRotated", "SecretList", "SecretRequest", "SecretView"]


def _is_a_secret(value: SecretStr) -> SecretStr:
    check_value(value.get_secret_value())
    return value


class SecretRequest(BaseModel):
    """The value of a secret, on its way in. It never comes out but to the attempts of jobs that name it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    value: Annotated[SecretStr, AfterValidator(_is_a_secret)]
    """The value: text of at least 6 characters and at most 16,384 bytes, without NUL."""


class SecretView(View):
    """A secret, as whoever may list them sees it: without its value."""

    name: str
    """What specs call it."""
    version: Annotated[int, Field(ge=1)] = 1
    """Counts its values, from 1."""
    owner: str = ""
    """Who set it."""
    created_at: Moment
    """When it was first set."""
    rotated_at: Moment | None = None
    """When it got its present value, if that is not its first."""


class SecretList(View):
    """All secrets, by name."""

    secrets: tuple[SecretView, ...] = ()
    """The secrets, without their values."""


class KeyRotated(View):
    """What the rotation of the key that secrets are stored with came to."""

    secrets: int
    """How many secrets are encrypted with the newest key now."""
    made: bool
    """Whether a new key was made; false where the keys are given by a setting or a mounted file: its first one is the newest."""


class HandedSecrets(View):
    """What an attempt's supervisor gets for its token, for the trainers that it starts."""

    values: dict[str, str] = Field(default_factory=dict, repr=False)
    """Environment variable -> value."""
