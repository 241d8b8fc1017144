"""What W&B's client asks of a server to run and resume a run: GraphQL, and a stream of files, whose lines have their place."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"


class Server(ThreadingHTTPServer):
    """Runs by their id: the lines of their history, by their place, and what was told of them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lines: dict[str, dict[int, str]] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        # where parts of a history began
        self.offsets: list[int] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()

    def take(self, run: str, offset: int, content: list[str]) -> None:
        with self.lock:
            self.lines.setdefault(run, {}).update(enumerate(content, offset))
            self.offsets.append(offset)

    def history(self, run: str) -> list[dict[str, Any]]:
        with self.lock:
            return [json.loads(line) for _, line in sorted(self.lines.get(run, {}).items())]

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(operation)
        match operation:
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
            case "RunResumeStatus":
                return {
                    "model": {
                        "id": "p",
                        "name": "p",
                        "entity": {"id": "e", "name": "me"},
                        "bucket": self._status(variables["name"]),
                    }
                }
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
                return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
        return {}

    def _upsert(self, told: dict[str, Any]) -> dict[str, Any]:
        run = told["name"]
        with self.lock:
            self.told.setdefault(run, {}).update({name: value for name, value in told.items() if value is not None})
        project = {"id": "p", "name": told.get("project") or "p", "entity": {"id": "e", "name": "me"}}
        names: dict[str, Any] = {"id": f"id-{run}", "name": run, "displayName": told.get("displayName") or run}
        return {**names, "config": "{}", "sweepName": None, "project": project, "historyLineCount": 0}

    def _status(self, run: str) -> dict[str, Any] | None:
        with self.lock:
            if run not in self.told:
                return None
            lines = [line for _, line in sorted(self.lines.get(run, {}).items())]
        names: dict[str, Any] = {
            "id": f"id-{run}",
            "name": run,
            "displayName": run,
            "notes": None,
            "tags": [],
            "sweepName": None,
        }
        return {
            **names,
            "summaryMetrics": lines[-1] if lines else "{}",
            "config": self.told[run].get("config") or "{}",
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": {}}),
        }


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if self.path == "/graphql":
            found = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            self._say({"data": self.server.answer(found[1] if found else "", body.get("variables") or {})})
        elif found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            history = (body.get("files") or {}).get(HISTORY)
            if history:
                self.server.take(found[1], history["offset"], history["content"])
            self._say({})
        else:
            self.send_error(404)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say({})

    def _say(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
