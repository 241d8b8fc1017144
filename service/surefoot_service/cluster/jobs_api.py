"""Ray's REST API as the control plane uses it (Ray 2.60): jobs, packages, nodes. No ray is imported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from surefoot._network import direct_async_client
from surefoot.errors import SurefootError
from surefoot.names import SUPERVISOR_CLASS, attempt_of
from surefoot_service.scheduler.capacity import NodeSize

__all__ = [
    "RayError",
    "RayJob",
    "RayJobs",
    "RayRefusedError",
    "RayStatus",
    "RayUnavailableError",
    "open_ray_jobs",
]

# an answer that takes longer is none: a head that is being replaced accepts connections and says nothing
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_UPLOAD_TIMEOUT_S = 300.0
_LOG_TAIL_CHARS = 8_000


class RayError(SurefootError):
    """The Ray cluster did not do what was asked."""


class RayUnavailableError(RayError):
    """The cluster could not be reached, or is not ready: asked again later, it may do it."""


class RayRefusedError(RayError):
    """The cluster refused for good: asked again, it would again."""


class RayStatus(StrEnum):
    """Ray's word for where a submitted job is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        return self in (RayStatus.STOPPED, RayStatus.SUCCEEDED, RayStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """A submission as Ray sees it."""

    status: RayStatus
    message: str


class RayJobs:
    """The calls. All raise RayUnavailableError or RayRefusedError; all may be repeated."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def session_name(self) -> str:
        """Return the name of Ray's session: another one is another cluster, even at the same address."""
        answer = await self._call("GET", "/api/version")
        return str(answer.json()["session_name"])

    async def nodes(self) -> tuple[NodeSize, ...]:
        """Return what the live nodes have in total."""
        answer = await self._call("GET", "/api/v0/nodes", params={"limit": "10000"})
        found = answer.json()["data"]["result"]["result"]
        return tuple(_node(n["resources_total"], n.get("labels") or {}) for n in found if n["state"] == "ALIVE")

    async def supervisor_deaths(self) -> dict[str, str]:
        """Return, by attempt, why supervisors are dead that Ray will not restart."""
        filters = {"class_name": SUPERVISOR_CLASS, "state": "DEAD"}
        params = [("limit", "10000"), ("detail", "true")]
        for key, value in filters.items():
            params += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = await self._call("GET", "/api/v0/actors", params=params)
        found = answer.json()["data"]["result"]["result"]
        return {attempt_of(str(a["name"])): _death(a.get("death_cause")) for a in found if a.get("name")}

    async def ensure_package(self, name: str, read: Callable[[], Awaitable[bytes]]) -> None:
        """Put what `read` returns into Ray's object store as `name`, unless it is there; either way Ray keeps it for ten minutes."""
        url = f"/api/packages/gcs/{name}"
        if await self._maybe("GET", url) is None:
            await self._call("PUT", url, content=await read(), timeout=_UPLOAD_TIMEOUT_S)
            await self._call("GET", url)

    async def submit(self, submission_id: str, entrypoint: str, env: Mapping[str, str]) -> None:
        """Submit; a submission that is there already is left as it is."""
        body = {"submission_id": submission_id, "entrypoint": entrypoint, "runtime_env": {"env_vars": dict(env)}}
        try:
            await self._call("POST", "/api/jobs/", json=body)
        except RayError:
            if await self.find(submission_id) is None:
                raise

    async def find(self, submission_id: str) -> RayJob | None:
        """Return the submission, or None where Ray knows of none."""
        answer = await self._maybe("GET", f"/api/jobs/{submission_id}")
        if answer is None:
            return None
        found = answer.json()
        return RayJob(status=RayStatus(found["status"]), message=_first_line(found.get("message")))

    async def stop(self, submission_id: str) -> None:
        """End the submission's process, if there is one; actors it made detached live on."""
        await self._maybe("POST", f"/api/jobs/{submission_id}/stop")

    async def delete(self, submission_id: str) -> None:
        """Have Ray forget an ended submission; one that still runs is left."""
        try:
            await self._maybe("DELETE", f"/api/jobs/{submission_id}")
        except RayRefusedError:
            return

    async def log_tail(self, submission_id: str) -> str:
        """Return the end of what the submission printed; empty where there is nothing."""
        answer = await self._maybe("GET", f"/api/jobs/{submission_id}/logs")
        return "" if answer is None else str(answer.json()["logs"] or "")[-_LOG_TAIL_CHARS:]

    async def _maybe(self, method: str, url: str) -> httpx.Response | None:
        """Return the answer, or None for a 404."""
        answer = await self._send(method, url)
        return None if answer.status_code == 404 else _checked(answer)

    async def _call(self, method: str, url: str, **options: Any) -> httpx.Response:
        return _checked(await self._send(method, url, **options))

    async def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        try:
            return await self._client.request(method, url, **options)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise RayUnavailableError(f"the Ray cluster at {self._client.base_url} does not answer: {what}") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    """Return the answer; raise what its status means."""
    if answer.is_success:
        return answer
    if answer.status_code in (401, 403):
        raise RayUnavailableError("the Ray cluster refuses the token; set SUREFOOT_RAY_AUTH_TOKEN to the cluster's")
    last = (answer.text.strip().splitlines() or [answer.reason_phrase])[-1][:500]
    if answer.status_code == 400:
        raise RayRefusedError(f"the Ray cluster refuses: {last}")
    raise RayUnavailableError(f"the Ray cluster answers {answer.status_code}: {last}")


def _first_line(message: object) -> str:
    """Ray's message without the log that it appends, which `log_tail` gives whole."""
    lines = str(message or "").partition(", last available logs")[0].splitlines()
    return lines[0] if lines else ""


def _death(cause: object) -> str:
    """Ray's word for a death: {"actor_died_error_context": {"error_message": ...}}, or the like."""
    contexts = cause.values() if isinstance(cause, dict) else ()
    messages = [str(c["error_message"]) for c in contexts if isinstance(c, dict) and c.get("error_message")]
    return _first_line(messages[0]).partition(" Some common causes")[0] if messages else "Ray does not say why"


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> NodeSize:
    return NodeSize(
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        group=labels.get("ray.io/node-group", ""),
        device=labels.get("ray.io/accelerator-type", ""),
    )


@asynccontextmanager
async def open_ray_jobs(address: str, token: str | None) -> AsyncIterator[RayJobs]:
    """Yield the calls to the cluster whose dashboard is at `address` ("http://head:8265")."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # No proxy of the environment: the cluster is a neighbour, and its token is not for others.
    async with direct_async_client(address, headers=headers, timeout=_TIMEOUT) as client:
        yield RayJobs(client)
