"""The chart as the real Helm renders it, and what is in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..kernel import forbidden

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "surefoot"
SCENARIOS = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir()))
# as users find it, with nothing said
DEFAULTS = "defaults"
NAMESPACE = "team"
RELEASE = "surefoot"

Object = Mapping[str, Any]


def tool(name: str) -> str:
    """The path of one of the chart's tools. Skips the test where `make chart` has not been here; never in CI."""
    path = ROOT / ".venv-chart" / "bin" / name
    if not path.exists():
        forbidden(f"there is no {name}: make chart installs it")
    return str(path)


def run(*command: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def values_of(scenario: str) -> list[str]:
    return [] if scenario == DEFAULTS else ["--values", str(CHART / "ci" / f"{scenario}-values.yaml")]


def template(
    scenario: str, *options: str, check: bool = True, release: str = RELEASE
) -> subprocess.CompletedProcess[str]:
    command = [tool("helm"), "template", release, str(CHART), "--namespace", NAMESPACE, *values_of(scenario), *options]
    return run(*command, check=check)


@cache
def text(scenario: str, *options: str) -> str:
    return template(scenario, *options).stdout


@cache
def objects(scenario: str, *options: str) -> tuple[Object, ...]:
    loaded = yaml.load_all(text(scenario, *options), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return tuple(one for one in loaded if one)


def of_kind(scenario: str, kind: str, *options: str) -> list[Object]:
    return [one for one in objects(scenario, *options) if one["kind"] == kind]


def only(scenario: str, kind: str, name: str, *options: str) -> Object:
    [found] = [one for one in of_kind(scenario, kind, *options) if one["metadata"]["name"] == name]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that the chart, or KubeRay at its word, makes."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    # runs until it is told to end
    serves: bool

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(scenario: str, *options: str) -> Iterator[Pod]:
    for one in objects(scenario, *options):
        match one["kind"]:
            case "RayCluster":
                yield from _ray_pods(one)
            case "Pod":
                yield _pod(one["metadata"]["name"], one, serves=False)
            case "Deployment" | "StatefulSet" | "Job":
                yield _pod(one["metadata"]["name"], one["spec"]["template"], serves=one["kind"] != "Job")


def _pod(name: str, template: Object, *, serves: bool, more: Mapping[str, str] | None = None) -> Pod:
    labels = {**template["metadata"].get("labels", {}), **(more or {})}
    return Pod(name=name, labels=labels, spec=template["spec"], serves=serves)


def _ray_pods(cluster: Object) -> Iterator[Pod]:
    """What KubeRay makes of it: its own labels, and the autoscaler beside the head."""
    name, spec = cluster["metadata"]["name"], cluster["spec"]
    head = spec["headGroupSpec"]["template"]
    if spec["enableInTreeAutoscaling"]:
        beside = {k: spec["autoscalerOptions"][k] for k in ("env", "resources", "securityContext", "volumeMounts")}
        beside |= {
            "name": "autoscaler",
            "image": head["spec"]["containers"][0]["image"],
            "imagePullPolicy": "IfNotPresent",
        }
        head = {**head, "spec": {**head["spec"], "containers": [*head["spec"]["containers"], beside]}}
    yield _pod("head", head, serves=True, more={"ray.io/cluster": name, "ray.io/node-type": "head"})
    for group in spec["workerGroupSpecs"]:
        labels = {"ray.io/cluster": name, "ray.io/node-type": "worker", **group["labels"]}
        yield _pod(group["groupName"], group["template"], serves=True, more=labels)
