"""What secrets may be called, and be. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from surefoot.errors import SpecError

__all__ = [
    "MAX_SECRETS",
    "MAX_SECRET_BYTES",
    "SECRET_PATTERN",
    "by_variable",
    "check_value",
    "check_variables",
]

# a secret is called as the environment variable is that it is usually read from
SECRET_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
MAX_SECRETS = 32
MAX_SECRET_BYTES = 16_384
# what is shorter could not be taken out of a log without taking ordinary words out
MIN_SECRET_CHARS = 6

_NAME = re.compile(SECRET_PATTERN)
# the promise rests on these, or they are Surefoot's own
_TAKEN = re.compile(
    r"^(SUREFOOT_.*|RAY_.*|PYTHONHASHSEED|CUBLAS_WORKSPACE_CONFIG|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS)$"
)


def check_value(value: str) -> str:
    """Return the value of a secret; raises ValueError, which has nothing of it, for one that cannot be taken."""
    if len(value) < MIN_SECRET_CHARS:
        raise ValueError(
            f"a secret has at least {MIN_SECRET_CHARS} characters: a shorter one could not be masked in logs"
        )
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("a secret is text") from None
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"a secret has at most {MAX_SECRET_BYTES} bytes, and this one has {size}")
    if "\0" in value:
        raise ValueError("a secret has no NUL: no environment can hold it")
    return value


def check_variables(secrets: Mapping[str, str]) -> None:
    """Raise ValueError where a job cannot have these secrets: variable -> name."""
    for variable, name in secrets.items():
        for each in (variable, name):
            if not _NAME.fullmatch(each):
                raise ValueError(
                    f"{each[:100]!r} is no name of a secret: letters, digits and _, at most 64, no digit first"
                )
        if _TAKEN.fullmatch(variable):
            raise ValueError(f"the variable {variable} is Surefoot's own: name another one, as in {name}=MY_VARIABLE")


def by_variable(secrets: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Read what a job is to be given, as variable -> name: such a mapping, or "NAME" and "NAME=VARIABLE" one by one.

    Raises SpecError for a variable that is named twice.
    """
    if isinstance(secrets, Mapping):
        return dict(secrets)
    found: dict[str, str] = {}
    for each in [secrets] if isinstance(secrets, str) else secrets:
        name, _, variable = each.partition("=")
        if (variable or name) in found:
            raise SpecError(
                f"two secrets are to be the variable {variable or name}: name another one, as in {name}=MY_VARIABLE"
            )
        found[variable or name] = name
    return found
