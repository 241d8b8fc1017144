"""What the chart's Jobs and containers run, as it is rendered: against a stand-in for the Kubernetes API, and the service's own code."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from surefoot_service.keys import open_keys

from .chart import DEFAULTS, NAMESPACE, only, run, tool

TOKEN = "of-the-service-account"


@dataclass(slots=True, kw_only=True)
class Api:
    """As much of the Kubernetes API as the Jobs ask for: objects by path, with versions; who may do what is the Role's."""

    url: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    # changes an object just before it is patched, as somebody else might
    meanwhile: dict[str, Any] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: Mapping[str, Any], token: str) -> tuple[int, Mapping[str, Any]]:
        self.asked.append((method, path))
        if token != f"Bearer {TOKEN}":
            return 401, {}
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return 409, {}
            self.objects[path] = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
            return 201, self.objects[path]
        found = self.objects.get(path)
        if found is None:
            return 404, {}
        if method == "PATCH":
            return self._patch(found, body)
        return 200, found

    def _patch(self, found: dict[str, Any], body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        if self.meanwhile:
            found["data"].update(self.meanwhile)
            found["metadata"]["resourceVersion"] = "other"
        if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return 409, {}
        found["data"].update(body["data"])
        return 200, found


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = api.answer(
                self.command, self.path, json.loads(body or b"{}"), self.headers["Authorization"]
            )
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = handle_one

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield api
        server.shutdown()


def run_job(api: Api, name: str, tmp_path: Path, *options: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run a Job's container as it is rendered, its API elsewhere."""
    [container] = only(DEFAULTS, "Job", f"surefoot-{name}", *options)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    (tmp_path / "token").write_text(token)
    env = {one["name"]: one.get("value", NAMESPACE) for one in container["env"]}
    env |= {"KUBERNETES_API": api.url, "SERVICE_ACCOUNT": str(tmp_path)}
    return run(sys.executable, "-c", *container["args"], env=env, check=False)


SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/surefoot-secrets"
CLUSTER = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/surefoot"


def _data(api: Api) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in api.objects[SECRET]["data"].items()}


# ---- secrets


def test_secrets_are_made_once(api: Api, tmp_path: Path) -> None:
    assert run_job(api, "secrets", tmp_path).returncode == 0
    made = _data(api)
    assert set(made) == {"token", "redis-password"}
    assert len(set(made.values())) == 2
    assert min(map(len, made.values())) >= 43
    done = run_job(api, "secrets", tmp_path)
    assert (done.returncode, _data(api)) == (0, made)
    assert not [value for value in made.values() if value in done.stdout + done.stderr]


def test_what_is_missing_is_added_and_what_is_there_stays(api: Api, tmp_path: Path) -> None:
    api.objects[SECRET] = {"metadata": {"resourceVersion": "5"}, "data": {"token": base64.b64encode(b"mine").decode()}}
    assert run_job(api, "secrets", tmp_path).returncode == 0
    assert _data(api)["token"] == "mine"
    assert len(_data(api)["redis-password"]) >= 43


def test_somebody_elses_change_is_not_overwritten(api: Api, tmp_path: Path) -> None:
    api.objects[SECRET] = {"metadata": {"resourceVersion": "5"}, "data": {"token": base64.b64encode(b"mine").decode()}}
    api.meanwhile = {"redis-password": base64.b64encode(b"theirs").decode()}
    done = run_job(api, "secrets", tmp_path)
    assert done.returncode != 0
    assert "try again" in done.stderr
    assert _data(api)["redis-password"] == "theirs"


def test_a_refusal_is_told_in_its_words(api: Api, tmp_path: Path) -> None:
    done = run_job(api, "secrets", tmp_path, token="another")
    assert done.returncode != 0
    assert "401" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_role_lets_them_do_what_they_do_and_no_more(api: Api, tmp_path: Path) -> None:
    api.objects[SECRET] = {"metadata": {"resourceVersion": "5"}, "data": {}}
    assert run_job(api, "secrets", tmp_path).returncode == 0
    del api.objects[SECRET]
    assert run_job(api, "secrets", tmp_path).returncode == 0
    assert run_job(api, "guard", tmp_path).returncode == 0
    verbs = {"GET": "get", "POST": "create", "PATCH": "patch"}
    asked = {
        (verbs[method], path.split("/")[-2] if method != "POST" else path.split("/")[-1]) for method, path in api.asked
    }
    rules = only(DEFAULTS, "Role", "surefoot-hooks")["rules"]
    assert asked == {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


# ---- worker groups


def _running(**groups: int) -> dict[str, Any]:
    return {"spec": {"workerGroupSpecs": [{"groupName": name, "maxReplicas": most} for name, most in groups.items()]}}


def test_a_group_that_may_have_workers_is_not_taken_out(api: Api, tmp_path: Path) -> None:
    api.objects[CLUSTER] = _running(cpu=4, gpu=2)
    done = run_job(api, "guard", tmp_path)
    assert done.returncode != 0
    assert "worker group gpu is no longer in the values" in done.stderr
    assert "maxReplicas: 0" in done.stderr


def test_one_that_was_emptied_is(api: Api, tmp_path: Path) -> None:
    api.objects[CLUSTER] = _running(cpu=4, gpu=0)
    assert run_job(api, "guard", tmp_path).returncode == 0


def test_groups_may_be_added(api: Api, tmp_path: Path) -> None:
    api.objects[CLUSTER] = _running(cpu=4)
    assert run_job(api, "guard", tmp_path, "--set", "ray.workerGroups.gpu.maxReplicas=2").returncode == 0


# ---- the token


def _token(tmp_path: Path, token: str) -> subprocess.CompletedProcess[str]:
    [container] = only(DEFAULTS, "Deployment", "surefoot")["spec"]["template"]["spec"]["initContainers"]
    (tmp_path / "token").write_text(token)
    env = {**os.environ, "SUREFOOT_DATA": str(tmp_path / "volume" / "data"), "TOKEN_FILE": str(tmp_path / "token")}
    return run(sys.executable, "-c", *container["args"], env=env, check=False)


def test_the_secrets_token_is_the_users(tmp_path: Path) -> None:
    """Before the service's first start, and when the Secret was changed; its own key stays."""
    one, other = "a" * 43, "b" * 43
    assert _token(tmp_path, one).returncode == 0
    data = tmp_path / "volume" / "data"
    keys = open_keys(data)
    assert keys.is_user(one)
    assert not (data / "token").exists(), "the service would hold what only its users need"
    assert data.stat().st_mode & 0o777 == 0o700
    assert _token(tmp_path, other + "\n").returncode == 0
    again = open_keys(data)
    assert (again.is_user(other), again.is_user(one), again.key == keys.key) == (True, False, True)


def test_a_token_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    done = _token(tmp_path, "short")
    assert done.returncode != 0
    assert "32 characters" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_rendered_is_what_kubectl_reads(tmp_path: Path) -> None:
    """The real kubectl, without a cluster, makes the same objects of it."""
    (tmp_path / "kustomization.yaml").write_text("resources: [all.yaml]\n")
    rendered = run(tool("helm"), "template", "surefoot", Path(__file__).parents[2] / "helm" / "surefoot").stdout
    (tmp_path / "all.yaml").write_text(rendered)
    assert "kind: RayCluster" in run(tool("kubectl"), "kustomize", tmp_path).stdout
