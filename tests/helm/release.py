"""A release of the chart as local processes: what KubeRay, the controllers and kubelet make of the rendered objects."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..kernel import forbidden
from .chart import NAMESPACE, only, pods
from .node import Cluster, Running, cluster, container, network

LIMIT_S = 270.0
HEAD = f"surefoot-head-svc.{NAMESPACE}.svc.cluster.local"
# Where KubeRay mounts the claim of the head's facts. The path is the operator's own; nothing in the chart says it.
FACTS, FACTS_VOLUME = "/var/lib/ray-gcs", "gcs-storage"


def until(what: Callable[[], Any], *watched: Running) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        for one in watched:
            assert one.process.poll() is None, one.said()[-3000:]
        time.sleep(0.1)
    raise AssertionError("\n".join([f"still not so: {what}", *(one.said()[-3000:] for one in watched)]))


def healthy(address: str, port: int, path: str) -> bool:
    """What kubelet's probe finds."""
    try:
        return httpx.get(f"http://{address}:{port}{path}", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@dataclass(kw_only=True)
class Release:
    """The release that runs. Each pod has an address; a container that is started again has that of the one before."""

    made: Cluster
    options: Sequence[str]
    stack: ExitStack
    redis: str
    head: str
    plane: str
    workers: list[str]
    _networks: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = only("minimal", "RayCluster", "surefoot", *self.options)["spec"]
        return spec

    @property
    def volume(self) -> Path:
        """The volume of checkpoints, which all mount."""
        return self.made.folder / "claims" / "checkpoints"

    def claim(self, name: str) -> Path:
        """What is in a claim, which pods mount by this name."""
        (folder := self.made.folder / "claims" / name).mkdir(parents=True)
        return folder

    def start(self, pod: str, name: str, address: str, **options: Any) -> Running:
        spec = next(found.spec for found in pods("minimal", *self.options) if found.name == pod)
        return self._start(spec, name, address, **options)

    def start_redis(self) -> Running:
        store = self.start("surefoot-redis", "redis", self.redis)
        until(lambda: "Ready to accept" in store.said(), store)
        return store

    def start_head(self) -> Running:
        """Start the head's container; returns when its probe succeeds."""
        group = self.spec["headGroupSpec"]
        pod = {**group["template"]["spec"]}
        if self.spec["gcsFaultToleranceOptions"]["backend"] == "rocksdb":
            claim = {"name": FACTS_VOLUME, "persistentVolumeClaim": {"claimName": "surefoot-gcs"}}
            [ray] = pod["containers"]
            mounts = [*ray["volumeMounts"], {"name": FACTS_VOLUME, "mountPath": FACTS}]
            pod |= {"volumes": [*pod["volumes"], claim], "containers": [{**ray, "volumeMounts": mounts}]}

        def start() -> Running:
            return self._start(pod, "ray-head", self.head, more_env=self._kuberay(group))

        # on a busy machine Ray gives up after 30 s, and kubelet starts it again
        while not self._begins(head := start()):
            pass
        return head

    def _begins(self, head: Running) -> bool:
        """Wait until the head's probe succeeds; False: its container has ended before."""
        return until(lambda: healthy(self.head, 52365, "/api/healthz") or head.process.poll()) is True

    def start_workers(self) -> list[Running]:
        [group] = self.spec["workerGroupSpecs"]
        return [self.start("cpu", "ray-worker", at, more_env=self._kuberay(group)) for at in self.workers]

    def start_plane(self) -> Running:
        """Start the control plane's pod, its init container first; returns when it lives."""
        token = self.start("surefoot", "token", self.plane)
        assert token.process.wait(LIMIT_S) == 0, token.said()
        plane = self.start("surefoot", "control-plane", self.plane)
        until(lambda: healthy(self.plane, 8470, "/v1/health"), plane)
        return plane

    def run_to_its_end(self, pod: str, name: str) -> str:
        """A Job's container, or `helm test`: what it said, once it has succeeded."""
        once = self.start(pod, name, self.made.address())
        assert once.process.wait(LIMIT_S) == 0, once.said()
        return once.said()

    @property
    def token(self) -> str:
        return self.made.secrets["surefoot-secrets"]["token"]

    @property
    def version(self) -> str:
        return str(httpx.get(f"http://{self.plane}:8470/v1/health", trust_env=False).json()["version"])

    def _start(self, spec: Mapping[str, Any], name: str, address: str, **options: Any) -> Running:
        if address not in self._networks:
            self._networks[address] = self.stack.enter_context(network(self.made, address))
        runs = container(self.made, spec, name, address, self._networks[address], **options)
        return self.stack.enter_context(runs)

    def _kuberay(self, group: Mapping[str, Any]) -> dict[str, str]:
        """What KubeRay adds to a Ray container's environment."""
        added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.made.secrets["surefoot"]["auth_token"]}
        added |= {"RAY_PORT": "6379", "RAY_CLUSTER_NAME": "surefoot"}
        added |= {"KUBERAY_GEN_RAY_START_CMD": ray_start(self.spec, group)}
        if group is not self.spec["headGroupSpec"]:
            return added | {"RAY_ADDRESS": f"{HEAD}:6379", "FQ_RAY_IP": HEAD}
        return added | {"RAY_ADDRESS": "127.0.0.1:6379"} | self._facts()

    def _facts(self) -> dict[str, str]:
        """Where the head keeps its facts."""
        options = self.spec["gcsFaultToleranceOptions"]
        if options["backend"] == "rocksdb":
            return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": FACTS}
        reference = options["redisPassword"]["valueFrom"]["secretKeyRef"]
        added = {"RAY_REDIS_ADDRESS": options["redisAddress"], "RAY_external_storage_namespace": "a-uid"}
        return added | {"REDIS_PASSWORD": self.made.secrets[reference["name"]][reference["key"]]}


def ray_start(spec: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """The command that KubeRay 1.7 makes of a group, as its generateRayStartCommand does."""
    is_head, limits = group is spec["headGroupSpec"], group["template"]["spec"]["containers"][0]["resources"]["limits"]
    memory = {"Gi": 2**30, "Mi": 2**20}[limits["memory"][-2:]] * int(limits["memory"][:-2])
    options = {
        "block": "true",
        "dashboard-agent-listen-port": "52365",
        "metrics-export-port": "8080",
        "num-cpus": limits["cpu"],
        "memory": str(memory),
        **group["rayStartParams"],
    }
    if not is_head:
        options |= {
            "address": f"{HEAD}:6379",
            "labels": ",".join(f"{k}={v}" for k, v in sorted(group["labels"].items())),
        }
    elif spec["gcsFaultToleranceOptions"]["backend"] == "redis":
        options |= {"redis-password": "$REDIS_PASSWORD"}
    words = [f"--{k} " if v == "true" else f"--{k}={v} " for k, v in sorted(options.items())]
    return " ".join(["ray start", *(["--head"] if is_head else []), *words])


@contextmanager
def release(folder: Path, options: Sequence[str], *, workers: int) -> Iterator[Release]:
    """A namespace for a release: names, Secrets and the ConfigMap; nothing runs in it yet."""
    for program in ("/usr/bin/tini", "/usr/bin/redis-server"):
        if not Path(program).exists():
            forbidden(f"there is no {program} (Debian: tini, redis-server)")
    with cluster(folder) as made, ExitStack() as stack:
        redis, head, plane, *others = (made.address() for _ in range(3 + workers))
        made.secrets = {
            "surefoot-secrets": {"token": secrets.token_urlsafe(32), "redis-password": secrets.token_urlsafe(32)},
            "surefoot": {"auth_token": secrets.token_hex(32)},
        }
        made.configs = {"surefoot": only("minimal", "ConfigMap", "surefoot", *options)["data"]}
        made.names = {f"surefoot-redis.{NAMESPACE}.svc": redis, f"surefoot-head-svc.{NAMESPACE}.svc": head, HEAD: head}
        made.names |= {f"surefoot.{NAMESPACE}.svc": plane, "surefoot": plane}
        yield Release(made=made, options=options, stack=stack, redis=redis, head=head, plane=plane, workers=others)
