"""What the routes share: one value made at start-up, and the dependencies that hand it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from surefoot_service.bells import Bells
from surefoot_service.keys import Keys
from surefoot_service.packages import PackageStore
from surefoot_service.problems import ProblemError
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database
from surefoot_service.waiting import Waiting

__all__ = ["AttemptToken", "ClusterSight", "Service", "ServiceDep", "User", "utc_now"]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class ClusterSight:
    """What this process has seen of its cluster; found anew after a restart."""

    # whether it answered when last asked
    reachable: bool | None = None
    # when each attempt's supervisor last called
    heard: dict[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of the control plane."""

    settings: Settings
    database: Database
    packages: PackageStore
    keys: Keys
    bells: Bells = field(default_factory=Bells)
    cluster: ClusterSight = field(default_factory=ClusterSight)
    waiting: Waiting = field(default_factory=Waiting)
    now: Callable[[], datetime] = utc_now


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceDep = Annotated[Service, Depends(_service)]

_user_scheme = HTTPBearer(auto_error=False, scheme_name="user", description="The token in <data folder>/token.")
_attempt_scheme = HTTPBearer(
    auto_error=False, scheme_name="attempt", description="What a launcher got for its claim code."
)

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


async def _user(
    service: ServiceDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_user_scheme)]
) -> None:
    if given is None or not service.keys.is_user(given.credentials):
        raise ProblemError(
            401, "the Authorization header must carry the service's token (see <data folder>/token)", headers=_CHALLENGE
        )


# a route that only the service's user may call
User = Depends(_user)


async def _attempt_token(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_attempt_scheme)]) -> str:
    """Return the bearer token; what it may do is the store's to say, inside the transaction that it is used in."""
    if given is None:
        raise ProblemError(401, "the Authorization header must carry the attempt's token", headers=_CHALLENGE)
    return given.credentials


AttemptToken = Annotated[str, Depends(_attempt_token)]
