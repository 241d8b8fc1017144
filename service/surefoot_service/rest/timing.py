"""How long requests take, by the route that they reach: never by their paths, of which strangers make as many as they like."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surefoot_service.parts import Service

__all__ = ["Timing"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Timing:
    """Times each request until its answer begins, so that a stream counts as what it took to open it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                _observe(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, timed)


def _observe(scope: Scope, status: int, seconds: float) -> None:
    service = getattr(scope["app"].state, "service", None)
    if not isinstance(service, Service):
        return
    method = scope["method"] if scope["method"] in _METHODS else "other"
    # what reached no route has none
    route = getattr(scope.get("route"), "path", "none")
    service.instruments.requests.labels(method, route, f"{status // 100}xx").observe(seconds)
