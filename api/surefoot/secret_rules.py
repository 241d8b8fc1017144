"""What secrets may be called, and be. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from surefoot._given import texts
from surefoot.errors import SpecError

__all__ = [
    "MAX_SECRETS",
    "MAX_SECRET_BYTES",
    "SECRET_PATTERN",
    "STORED",
    "by_variable",
    "check_value",
    "check_variables",
    "shown",
]

# a secret is called as the environment variable is that it is usually read from
SECRET_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
MAX_SECRETS = 32
MAX_SECRET_BYTES = 16_384
# pydantic's context of what is read from where it was stored, perhaps before today's rules
STORED = "stored"
_MASK = "***"
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


# Of a query or a fragment: what lets in whoever has it, by the names that storages and services have for it.
_LETS_IN = re.compile(
    r".*(?:signature|token|secret|password|passwd|credentials?|authorization|api[-_]?key|access[-_]?key(?:[-_]?id)?|account[-_]?key)"
    r"|(?:.*[-_.])?(?:sig|sas|pwd|auth|jwt)",
    re.IGNORECASE,
)
# between the links of a chain ("zip://x::s3://b"), but not within the address of a host ("[::1]"); and before a URL in a longer text
_LINKS = re.compile(r"(::(?![^/]*\])|\s+(?=\S*://))")
# of a query or a fragment: up to its value, and its name
_PARAMETER = re.compile(r"([?&;#]([^?&;#=]*)=)[^?&;#]+")
_INSTEAD = "hand it over as a secret, in the variable that the storage reads (`--secret AWS_SECRET_ACCESS_KEY`)"


def shown(url: str, context: object = None, instead: str = _INSTEAD) -> str:
    """Return a URL, or a text with URLs, as whoever may see jobs sees it.

    Raises ValueError, which has nothing of it, where a password, a token or a signature is in it, in whichever link of a chain; what is
    STORED with one is masked, so that it would be refused again.
    """
    links = _LINKS.split(url)
    for at, link in enumerate(links):
        scheme, is_url, rest = link.partition("://")
        if not is_url:
            continue
        password, name = _has_password(scheme.lower(), rest), _signature(rest)
        if context == STORED:
            links[at] = f"{scheme}://{_masked(rest, password=password)}"
        elif password or name:
            what = "the password" if password else f"{name}=..."
            raise ValueError(f"leave {what} out of the URL, which is shown to whoever may see jobs: {instead}")
    return "".join(links)


def _masked(rest: str, *, password: bool) -> str:
    if password:  # it may have an "@" or a slash that nobody has escaped
        rest = f"{_MASK}:{_MASK}@{rest.rpartition('@')[2]}"
    return _PARAMETER.sub(lambda found: f"{found[1]}{_MASK}" if _lets_in(found[2]) else found[0], rest)


def _has_password(scheme: str, rest: str) -> bool:
    """Whether a password or token stands before the host; Azure's container before its account is neither, nor GitHub's "org:repo@"."""
    user, at, _ = re.sub(r"^\[[^]]*\]", "host", rest).partition("@")
    if not at or "?" in user or "#" in user or scheme == "github":
        return False
    name, colon, password = user.partition(":")
    if "/" in name:
        return False  # the "@" is of a path
    if colon:
        # "host:8020/a@b" is a path behind a port; a password may have a slash that nobody has escaped
        return not re.match(r"\d*/", password)
    return scheme in ("http", "https", "git+http", "git+https")


def _signature(rest: str) -> str:
    """The name of what in a query or a fragment lets in whoever has it; empty: nothing does."""
    return next((unquote(name)[:50] for _, name in _PARAMETER.findall(rest) if _lets_in(name)), "")


def _lets_in(name: str) -> bool:
    return _LETS_IN.fullmatch(unquote(name)) is not None


def by_variable(secrets: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Read what a job is to be given, as variable -> name: such a mapping, or "NAME" and "NAME=VARIABLE" one by one.

    Raises SpecError for a variable that is named twice.
    """
    if isinstance(secrets, Mapping):
        return dict(secrets)
    found: dict[str, str] = {}
    for each in texts(secrets, "secrets", '["WANDB_API_KEY"]'):
        name, _, variable = each.partition("=")
        if (variable or name) in found:
            raise SpecError(
                f"two secrets are to be the variable {variable or name}: name another one, as in {name}=MY_VARIABLE"
            )
        found[variable or name] = name
    return found
