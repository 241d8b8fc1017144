"""A bound on request bodies, kept while they stream in: what says nothing of its length is counted."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surefoot_service.problems import ProblemError, problem_response

__all__ = ["BodyLimit"]


class BodyLimit:
    """ASGI middleware: 413 for a body above the limit, but on paths that count for themselves."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, own_count: frozenset[str]) -> None:
        self._app, self._max_bytes, self._own_count = app, max_bytes, own_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._own_count:
            await self._app(scope, receive, send)
            return
        length = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await problem_response(self._too_large().problem)(scope, receive, send)
            return
        await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                # FastAPI lets only its own kind through from the reading of a body.
                raise HTTPException(413, self._too_large().problem.detail)
            return message

        return counted

    def _too_large(self) -> ProblemError:
        return ProblemError(413, f"the body is above {self._max_bytes} bytes")
