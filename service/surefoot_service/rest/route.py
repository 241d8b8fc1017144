"""The one kind of route: nothing of a body is read before it is known who sends it, and no more than the route takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from surefoot_service.parts import Service
from surefoot_service.rest.body import BoundedBody, JsonRequest, kind_of, too_large
from surefoot_service.rest.dependencies import GUARDS, service_of
from surefoot_service.rest.problems import ProblemError

__all__ = ["GuardedRoute"]

# what a request may say once: of two different values, two readers might each take another
_ONCE = ("content-type", "content-length", "transfer-encoding", "idempotency-key", "last-event-id")


class GuardedRoute(APIRoute):
    """Checks the token that the route declares, then the headers, and only then lets FastAPI read the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        guards = [guard for d in self.dependant.dependencies if d.call and (guard := GUARDS.get(d.call))]
        kind, takes_json = kind_of(self.endpoint), self.body_field is not None

        async def guarded(request: Request) -> Response:
            service = service_of(request)
            for guard in guards:
                await guard(request, service)
            if guards and (admit := request.scope.get("surefoot.admit")) is not None:
                admit()
            _check_headers(request.headers, takes_json=takes_json)
            return await handle(_bounded(request, service, kind.max_bytes(service.settings)))

        return guarded


def _bounded(request: Request, service: Service, max_bytes: int) -> JsonRequest:
    declared = request.headers.get("content-length", "0")
    # h11 lets only digits through; more of them than a number may have are too many anyway
    if len(declared) > 18 or int(declared) > max_bytes:
        raise too_large(max_bytes)
    settings = service.settings
    body = BoundedBody(
        request.receive, max_bytes=max_bytes, grace_s=settings.body_grace_s, bytes_per_s=settings.body_bytes_per_s
    )
    return JsonRequest(request.scope, body)


def _check_headers(headers: Headers, *, takes_json: bool) -> None:
    for name in _ONCE:
        if len(headers.getlist(name)) > 1:
            raise ProblemError(400, f"the header {name} is given more than once")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise ProblemError(400, "Content-Length is not a number")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise ProblemError(400, "a body has either a Content-Length or a Transfer-Encoding")
    has_body = length.strip("0") or "transfer-encoding" in headers
    if takes_json and has_body and not _is_json(headers.get("content-type", "")):
        raise ProblemError(415, "the body of this request is JSON: its Content-Type is application/json")


def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type or "text/plain"
    charset = (message.get_content_charset() or "utf-8").lower()
    return message.get_content_type() == "application/json" and charset in ("utf-8", "utf8", "us-ascii")
