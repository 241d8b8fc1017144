"""Bearer tokens, looked at before anything of a request's body is read."""

from __future__ import annotations

from starlette.datastructures import Headers

from surefoot.names import is_attempt
from surefoot_service.errors import TokenError
from surefoot_service.keys import Keys, KnownTokens, digest, same
from surefoot_service.store import attempts
from surefoot_service.store.database import Database

__all__ = ["bearer", "check_attempt", "check_metrics", "check_user"]


def bearer(headers: Headers, which: str) -> str:
    """Return the request's one bearer token. Raises TokenError where there is none, or more than one header."""
    given = headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenError(f"the Authorization header must carry {which}")
    return token.strip()


def check_user(headers: Headers, keys: Keys) -> None:
    """Raise TokenError unless the request brings the user's token."""
    which = "the service's token (see <data folder>/token)"
    if not keys.is_user(bearer(headers, which)):
        raise TokenError(f"the Authorization header must carry {which}")


def check_metrics(headers: Headers, keys: Keys, metrics_token: str | None) -> None:
    """Raise TokenError unless the request brings the token for metrics, or the user's."""
    which = "the service's token, or the one for metrics"
    token = bearer(headers, which)
    if not (keys.is_user(token) or (metrics_token and same(token, metrics_token))):
        raise TokenError(f"the Authorization header must carry {which}")


async def check_attempt(headers: Headers, attempt: str, known: KnownTokens, database: Database) -> None:
    """Raise TokenError unless the request brings the attempt's token. What it may do is said where its words are stored."""
    token = bearer(headers, "the attempt's token")
    if not is_attempt(attempt):
        raise TokenError("this is not the attempt's token")
    token_hash = digest(token)
    if known.knows(attempt, token_hash):
        return
    async with known.lookups:
        await database.read(attempts.of_token, attempt, token)
    known.add(attempt, token_hash)
