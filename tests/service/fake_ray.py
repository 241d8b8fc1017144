"""A Ray cluster as the control plane sees it: the Jobs and State REST of 2.60, in memory, driven by the test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response

TOKEN = "ray-token"


@dataclass
class Submission:
    entrypoint: str
    env: dict[str, str]
    status: str = "RUNNING"
    message: str = ""
    logs: str = ""


@dataclass
class FakeRay:
    """`submissions` by id; a test waits for one with `submitted`, and ends it by `end`."""

    session: str = "session_1"
    nodes: list[dict[str, float]] = field(default_factory=lambda: [{"CPU": 4.0}])
    # Ray's labels of the nodes, by their place in the list
    labels: dict[int, dict[str, str]] = field(default_factory=dict)
    submissions: dict[str, Submission] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    # answers every request with it, when set
    down: int | None = None
    # what the cluster says to the next submissions, before it does what it is asked; 200: does it and loses the answer
    refuse: list[int] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    posts: int = 0
    # names of attempts whose supervisor is dead for good, and why
    dead: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def submitted(self, name: str) -> Submission:
        async with self._changed, asyncio.timeout(90):
            await self._changed.wait_for(lambda: name in self.submissions)
        return self.submissions[name]

    def end(self, name: str, status: str, message: str = "", logs: str = "") -> None:
        found = self.submissions[name]
        found.status, found.message, found.logs = status, message, logs

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def gate(request: Request, call_next: Any) -> Response:
            if self.down is not None:
                return Response("down", self.down)
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return Response("Unauthorized: Missing authentication token", 401)
            answer: Response = await call_next(request)
            return answer

        @app.get("/api/version")
        async def version() -> dict[str, str]:
            return {"version": "4", "ray_version": "2.60.0", "session_name": self.session}

        @app.get("/api/v0/nodes")
        async def list_nodes() -> dict[str, Any]:
            rows: list[dict[str, Any]] = [
                {"state": "ALIVE", "resources_total": n, "labels": self.labels.get(i)} for i, n in enumerate(self.nodes)
            ]
            rows.append({"state": "DEAD", "resources_total": {}})
            return {"result": True, "msg": "", "data": {"result": {"total": len(rows), "result": rows}}}

        @app.get("/api/v0/actors")
        async def list_actors(request: Request) -> dict[str, Any]:
            asked = request.query_params
            assert asked.getlist("filter_keys") == ["class_name", "state"]
            assert asked.getlist("filter_values") == ["SupervisorActor", "DEAD"]
            rows = [
                {"name": f"{a}/supervisor", "death_cause": {"actor_died_error_context": {"error_message": why}}}
                for a, why in self.dead.items()
            ]
            return {"result": True, "msg": "", "data": {"result": {"total": len(rows), "result": rows}}}

        @app.get("/api/packages/gcs/{name}")
        async def get_package(name: str) -> Response:
            return Response() if name in self.packages else Response(f"Package gcs://{name} does not exist", 404)

        @app.put("/api/packages/gcs/{name}")
        async def put_package(name: str, request: Request) -> Response:
            self.packages[name] = await request.body()
            return Response()

        @app.post("/api/jobs/")
        async def submit(request: Request) -> Response:
            body = await request.json()
            self.posts += 1
            status = self.refuse.pop(0) if self.refuse else None
            if status not in (None, 200):
                return Response("Traceback ...\nValueError: no", status or 500)
            name = body["submission_id"]
            if name in self.submissions:
                return Response(f"Traceback ...\nValueError: Job with submission_id {name} already exists.", 500)
            async with self._changed:
                self.submissions[name] = Submission(body["entrypoint"], body["runtime_env"]["env_vars"])
                self._changed.notify_all()
            return Response(status_code=502) if status == 200 else Response("{}")

        @app.get("/api/jobs/{name}")
        async def find(name: str) -> Any:
            if name not in self.submissions:
                return Response(f"Job {name} does not exist", 404)
            found = self.submissions[name]
            return {"submission_id": name, "status": found.status, "message": found.message}

        @app.get("/api/jobs/{name}/logs")
        async def logs(name: str) -> Any:
            found = self.submissions.get(name)
            return {"logs": found.logs} if found else Response("no", 404)

        @app.post("/api/jobs/{name}/stop")
        async def stop(name: str) -> Any:
            if name not in self.submissions:
                return Response("no", 404)
            self.stopped.append(name)
            if self.submissions[name].status in ("RUNNING", "PENDING"):
                self.submissions[name].status = "STOPPED"
            return {"stopped": True}

        @app.delete("/api/jobs/{name}")
        async def delete(name: str) -> Any:
            if self.submissions.pop(name, None) is None:
                return Response("no", 404)
            self.deleted.append(name)
            return {"deleted": True}

        return app
