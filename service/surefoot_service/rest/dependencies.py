"""What the routes share: one value made at start-up, and the dependencies that hand it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from surefoot_service.keys import Keys
from surefoot_service.packages.archive import PackageStore
from surefoot_service.rest.readiness import Readiness
from surefoot_service.rest.tokens import KnownTokens, bearer, check_attempt, check_user
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database
from surefoot_service.waiting import Waiting
from surefoot_service.wakeups import Bells

__all__ = ["GUARDS", "AttemptToken", "ClusterSight", "Guard", "Service", "ServiceDep", "User", "service_of", "utc_now"]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class ClusterSight:
    """What this process has seen of its cluster; found anew after a restart."""

    # whether it answered when last asked
    reachable: bool | None = None
    # when each attempt's supervisor last called
    heard: dict[str, datetime] = field(default_factory=dict)
    # whether this process takes ended attempts off a cluster
    watched: bool = False
    # whether there is to be one: an app without serves what it has stored, and its jobs wait
    expected: bool = False
    # asks the cluster whether it is there, raising RayError where not; None: it is still starting
    ask: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of the control plane."""

    settings: Settings
    database: Database
    packages: PackageStore
    keys: Keys
    bells: Bells = field(default_factory=Bells)
    cluster: ClusterSight = field(default_factory=ClusterSight)
    tokens: KnownTokens = field(default_factory=KnownTokens)
    # what it needs, looked at; the probes are given once all of it is made
    readiness: Readiness = field(default_factory=Readiness)
    waiting: Waiting = field(default_factory=Waiting)
    now: Callable[[], datetime] = utc_now


def service_of(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


async def _service(request: Request) -> Service:
    """As `service_of`: a coroutine only so that no thread is asked for it."""
    return service_of(request)


ServiceDep = Annotated[Service, Depends(_service)]

# These declare in the OpenAPI document which token a route takes; the guards below are what checks it.
_user_scheme = HTTPBearer(auto_error=False, scheme_name="user", description="The token in <data folder>/token.")
_attempt_scheme = HTTPBearer(
    auto_error=False, scheme_name="attempt", description="What a launcher got for its claim code."
)


async def _user(request: Request, service: ServiceDep, _: Annotated[Any, Depends(_user_scheme)]) -> None:
    check_user(request.headers, service.keys)


async def _attempt_token(request: Request, _: Annotated[Any, Depends(_attempt_scheme)]) -> str:
    """Return the bearer token; what it may do is the store's to say, inside the transaction that it is used in."""
    return bearer(request.headers, "the attempt's token")


# a route that only the service's user may call
User = Depends(_user)
# a route that only an attempt may call: the token that it brought
AttemptToken = Annotated[str, Depends(_attempt_token)]

Guard = Callable[[Request, Service], Awaitable[None]]


async def _guard_user(request: Request, service: Service) -> None:
    check_user(request.headers, service.keys)


async def _guard_attempt(request: Request, service: Service) -> None:
    await check_attempt(request.headers, request.path_params["attempt"], service.tokens, service.database)


# What is checked before anything of a request's body is read, by the dependency that a route declares.
GUARDS: Mapping[Callable[..., Any], Guard] = {_user: _guard_user, _attempt_token: _guard_attempt}
