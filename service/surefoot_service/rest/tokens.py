"""Bearer tokens, looked at before anything of a request's body is read."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from surefoot_service.keys import Keys, digest, same
from surefoot_service.rest.problems import ProblemError
from surefoot_service.store import attempts
from surefoot_service.store.database import Database

__all__ = ["ATTEMPT_NAME", "KnownTokens", "bearer", "check_attempt", "check_user"]

ATTEMPT_NAME = r"^[a-z0-9-]{1,60}$"

_CHALLENGE = {"WWW-Authenticate": "Bearer"}
# tokens of attempts that are remembered as seen
_KNOWN = 10_000
# lookups of unknown tokens at a time: they are strangers', and the database's threads are everybody's
_LOOKUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTokens:
    """Hashes of attempts' tokens that were right when they were looked up: they need not be looked up before every body.

    It only decides whether a body is worth reading. Whether the attempt may still speak is decided where its words are stored.
    """

    hashes: OrderedDict[str, str] = field(default_factory=OrderedDict)
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LOOKUPS))

    def knows(self, attempt: str, token_hash: str) -> bool:
        return same(self.hashes.get(attempt, ""), token_hash)

    def add(self, attempt: str, token_hash: str) -> None:
        self.hashes[attempt] = token_hash
        self.hashes.move_to_end(attempt)
        if len(self.hashes) > _KNOWN:
            self.hashes.popitem(last=False)


def bearer(headers: Headers, which: str) -> str:
    """Return the request's one bearer token. Raises a 401 problem where there is none, or more than one header."""
    given = headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise _refused(f"the Authorization header must carry {which}")
    return token.strip()


def check_user(headers: Headers, keys: Keys) -> None:
    """Raise a 401 problem unless the request brings the user's token."""
    which = "the service's token (see <data folder>/token)"
    if not keys.is_user(bearer(headers, which)):
        raise _refused(f"the Authorization header must carry {which}")


async def check_attempt(headers: Headers, attempt: str, known: KnownTokens, database: Database) -> None:
    """Raise a 401 problem unless the request brings the attempt's token, or 410 where the attempt is over."""
    token = bearer(headers, "the attempt's token")
    if not re.fullmatch(ATTEMPT_NAME[1:-1], attempt):
        raise _refused("this is not the attempt's token")
    token_hash = digest(token)
    if known.knows(attempt, token_hash):
        return
    async with known.lookups:
        await database.read(attempts.authorize, attempt, token)
    known.add(attempt, token_hash)


def _refused(detail: str) -> ProblemError:
    return ProblemError(401, detail, headers=_CHALLENGE)
