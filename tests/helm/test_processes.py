"""The chart's pods as local processes: Redis, head, workers, the control plane, and `helm test` run against it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from surefoot import Client
from surefoot.words import EventKind

from ..kernel import forbidden
from .chart import NAMESPACE, only, pods
from .node import Cluster, Running, cluster, container

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

LIMIT_S = 90.0
# two small workers, so that one of them can go; the default Redis
SMALL = [
    *("--set", "ray.autoscaling.enabled=false", "--set", "ray.faultTolerance.backend=redis"),
    *("--set", "ray.workerGroups.cpu.minReplicas=2", "--set", "ray.workerGroups.cpu.maxReplicas=2"),
    *("--set-json", 'ray.workerGroups.cpu.resources={"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {}}'),
]


def until(what: Callable[[], Any], *watched: Running) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        for one in watched:
            assert one.process.poll() is None, one.said()[-3000:]
        time.sleep(0.1)
    raise AssertionError("\n".join([f"still not so: {what}", *(one.said()[-3000:] for one in watched)]))


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
        **({"redis-password": "$REDIS_PASSWORD"} if is_head else {"address": f"{HEAD}:6379"}),
        **({"labels": ",".join(f"{k}={v}" for k, v in sorted(group["labels"].items()))} if not is_head else {}),
        **group["rayStartParams"],
    }
    words = [f"--{k} " if v == "true" else f"--{k}={v} " for k, v in sorted(options.items())]
    return " ".join(["ray start", *(["--head"] if is_head else []), *words])


HEAD = f"surefoot-head-svc.{NAMESPACE}.svc.cluster.local"


def kuberay(made: Cluster, spec: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, str]:
    """What KubeRay adds to a Ray container's environment."""
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": made.secrets["surefoot"]["auth_token"], "RAY_PORT": "6379"}
    added |= {"KUBERAY_GEN_RAY_START_CMD": ray_start(spec, group), "RAY_CLUSTER_NAME": "surefoot"}
    if group is spec["headGroupSpec"]:
        options = spec["gcsFaultToleranceOptions"]
        reference = options["redisPassword"]["valueFrom"]["secretKeyRef"]
        added |= {"RAY_REDIS_ADDRESS": options["redisAddress"], "RAY_external_storage_namespace": "a-uid"}
        added |= {"REDIS_PASSWORD": made.secrets[reference["name"]][reference["key"]], "RAY_ADDRESS": "127.0.0.1:6379"}
    else:
        added |= {"RAY_ADDRESS": f"{HEAD}:6379", "FQ_RAY_IP": HEAD}
    return added


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cluster]:
    for program in ("/usr/bin/tini", "/usr/bin/redis-server"):
        if not Path(program).exists():
            forbidden(f"there is no {program} (Debian: tini, redis-server)")
    with cluster(tmp_path) as made:
        made.secrets = {
            "surefoot-secrets": {"token": secrets.token_urlsafe(32), "redis-password": secrets.token_urlsafe(32)},
            "surefoot": {"auth_token": secrets.token_hex(32)},
        }
        made.configs = {"surefoot": only("minimal", "ConfigMap", "surefoot", *SMALL)["data"]}
        yield made


def test_helm_test_succeeds_and_a_worker_that_is_told_to_end_is_drained(made: Cluster) -> None:
    spec = only("minimal", "RayCluster", "surefoot", *SMALL)["spec"]
    found = {pod.name: pod for pod in pods("minimal", *SMALL)}
    redis, head, workers, plane, test = (made.address() for _ in range(5))
    others = [made.address()]
    short = {f"surefoot-redis.{NAMESPACE}.svc": redis, f"surefoot-head-svc.{NAMESPACE}.svc": head, HEAD: head}
    made.names = {**short, f"surefoot.{NAMESPACE}.svc": plane, "surefoot": plane}
    [group] = spec["workerGroupSpecs"]
    with ExitStack() as stack:

        def start(pod: str, name: str, address: str, **options: Any) -> Running:
            return stack.enter_context(container(made, found[pod].spec, name, address, **options))

        store = start("surefoot-redis", "redis", redis)
        until(lambda: "Ready to accept" in store.said(), store)
        first = start("head", "ray-head", head, more_env=kuberay(made, spec, spec["headGroupSpec"]))
        until(lambda: healthy(head, 52365, "/api/healthz"), first, store)
        nodes = [
            start("cpu", "ray-worker", address, more_env=kuberay(made, spec, group)) for address in (workers, *others)
        ]
        token = start("surefoot", "token", test)
        assert token.process.wait(LIMIT_S) == 0, token.said()
        control = start("surefoot", "control-plane", plane)
        for node, address in zip(nodes, (workers, *others), strict=True):
            until(lambda address=address: healthy(address, 52365, "/api/healthz"), node, first)  # type: ignore[misc]
        until(lambda: healthy(plane, 8470, "/v1/ready"), control, first)

        made.names |= {"surefoot": plane}
        trial = start("surefoot-test", "test", made.address())
        assert trial.process.wait(LIMIT_S) == 0, trial.said() + control.said()[-3000:]
        assert "succeeded: 60 steps, each once" in trial.said()

        drained(made, plane, nodes[1])


def healthy(address: str, port: int, path: str) -> bool:
    """What kubelet's probe finds."""
    try:
        return httpx.get(f"http://{address}:{port}{path}", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


# Each notes what it computes, on the volume that all mount.
NOTES = """
import os, torch
import surefoot

def train(run):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    data = torch.utils.data.TensorDataset(torch.arange(800.0).unsqueeze(1) / 800)
    for step in run.steps(run.config["steps"]):
        for [x] in step.batches(data):
            with open(f"{run.config['notes']}/computed-{os.getpid()}-{os.environ['HOSTNAME']}", "a") as file:
                print(step.number, *x.flatten().tolist(), file=file)
            model(x).pow(2).mean().backward()
            __import__("time").sleep(0.05)
        optimizer.step()
"""


def drained(made: Cluster, plane: str, node: Running) -> None:
    """A job on both workers; one of them gets SIGTERM, as from a node that is taken back: nothing is lost or computed twice."""
    (folder := made.folder / "code").mkdir()
    (folder / "train.py").write_text(NOTES)
    config = {"steps": 60, "notes": "/var/lib/surefoot-checkpoints"}
    with Client(url=f"http://{plane}:8470", token=made.secrets["surefoot-secrets"]["token"]) as client:
        job = client.submit(
            "train:train", folder=folder, batch_size=8, sub_tasks=4, trainers=2, min_trainers=1, config=config
        )
        for row in job.rows(follow=True):
            if row.circumstances.trainers == 2 and row.result.step >= 3:
                break
        node.terminate()
        view = job.wait(timeout=LIMIT_S)
        assert node.process.wait(LIMIT_S) is not None
        events = list(job.events())
        assert [row.result.step for row in job.rows()] == list(range(60))
    kinds = [event.kind for event in events]
    assert view.steps_done == 60
    assert EventKind.TRAINER_LEFT in kinds, kinds
    assert EventKind.TRAINER_LOST not in kinds, kinds
    notes = [path.read_text().splitlines() for path in (made.folder / "claims" / "checkpoints").glob("computed-*")]
    assert len(notes) == 2
    # the first sub-task of a run is computed twice, to prove that it can be
    lines = [line for some in notes for line in some if not line.startswith("0 ")]
    assert len(lines) == len(set(lines)) == 59 * 4
