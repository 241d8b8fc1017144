"""What the routes share: one value made at start-up, and the dependencies that hand it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer

from surefoot_service.parts import Service
from surefoot_service.rest.tokens import bearer, check_attempt, check_metrics, check_user
from surefoot_service.tracing.context import Asked, read_traceparent

__all__ = ["GUARDS", "AttemptToken", "Guard", "Scraper", "ServiceDep", "Trace", "User", "service_of"]


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
_metrics_scheme = HTTPBearer(
    auto_error=False, scheme_name="metrics", description="SUREFOOT_METRICS_TOKEN, or the token in <data folder>/token."
)
_attempt_scheme = HTTPBearer(
    auto_error=False, scheme_name="attempt", description="What a launcher got for its claim code."
)


async def _user(request: Request, service: ServiceDep, _: Annotated[Any, Depends(_user_scheme)]) -> None:
    check_user(request.headers, service.keys)


async def _scraper(request: Request, _: Annotated[Any, Depends(_metrics_scheme)]) -> None:
    """What may be done with it is the guard's to say."""


async def _attempt_token(request: Request, _: Annotated[Any, Depends(_attempt_scheme)]) -> str:
    """Return the bearer token; what it may do is the store's to say, inside the transaction that it is used in."""
    return bearer(request.headers, "the attempt's token")


async def _trace(
    request: Request,
    service: ServiceDep,
    traceparent: Annotated[
        str | None,
        Header(
            description="The caller's trace, as W3C Trace Context has it: where the service exports traces, the job's spans are part "
            "of it. A malformed one is ignored, and so are two."
        ),
    ] = None,
) -> Asked | None:
    """Return what the trace of a submitted job needs to know of the request; None: no traces are exported."""
    if service.exporter is None:
        return None
    alone = len(request.headers.getlist("traceparent")) == 1
    return Asked(at=service.now(), context=read_traceparent(traceparent) if alone else None)


Trace = Annotated[Asked | None, Depends(_trace)]

# a route that only the service's user may call
User = Depends(_user)
# a route that whoever reads metrics may call
Scraper = Depends(_scraper)
# a route that only an attempt may call: the token that it brought
AttemptToken = Annotated[str, Depends(_attempt_token)]

Guard = Callable[[Request, Service], Awaitable[None]]


async def _guard_user(request: Request, service: Service) -> None:
    check_user(request.headers, service.keys)


async def _guard_metrics(request: Request, service: Service) -> None:
    token = service.settings.metrics_token
    check_metrics(request.headers, service.keys, token.get_secret_value() if token else None)


async def _guard_attempt(request: Request, service: Service) -> None:
    await check_attempt(request.headers, request.path_params["attempt"], service.tokens, service.database)


# What is checked before anything of a request's body is read, by the dependency that a route declares.
GUARDS: Mapping[Callable[..., Any], Guard] = {
    _user: _guard_user,
    _scraper: _guard_metrics,
    _attempt_token: _guard_attempt,
}
