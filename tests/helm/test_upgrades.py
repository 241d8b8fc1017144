"""From the chart that was released last to this one: nothing immutable is touched, and what runs goes on running.

What Kubernetes and KubeRay never let anybody change is the same, too, whatever the values say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .chart import DEFAULTS, SCENARIOS, Object, objects, template
from .released import changes, name_of, released, upgraded, values

ALL = (DEFAULTS, *SCENARIOS)


def immutable(objects: Iterable[Object]) -> dict[str, Any]:
    """By kind and name, what cannot be changed in place.

    Jobs are made anew: those of hooks are removed first, and plain ones have other names.
    """
    found: dict[str, Any] = {}
    for one in objects:
        spec, kept = one.get("spec", {}), {}
        match one["kind"]:
            case "Deployment":
                kept = {"selector": spec["selector"]}
            case "StatefulSet":
                kept = {name: spec[name] for name in ("selector", "serviceName", "volumeClaimTemplates")}
            case "PersistentVolumeClaim":
                kept = {name: spec.get(name) for name in ("accessModes", "storageClassName", "resources")}
            case "Service":
                kept = {"clusterIP": spec.get("clusterIP"), "type": spec.get("type")}
            case "RoleBinding":
                kept = {"roleRef": one["roleRef"]}
            case "RayCluster":
                kept = {
                    "backend": spec.get("gcsFaultToleranceOptions", {}).get("backend"),
                    "groups": sorted(group["groupName"] for group in spec["workerGroupSpecs"]),
                }
        if kept:
            found[f"{one['kind']}/{one['metadata']['name']}"] = kept
    return found


@pytest.mark.parametrize("scenario", ALL)
def test_nothing_immutable_has_changed_since_the_release(scenario: str) -> None:
    before, after = immutable(released(scenario)), immutable(upgraded(scenario))
    # what is new may be as it likes, what was there stays, or Helm removes it
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("scenario", ALL)
def test_a_job_is_a_hook_that_is_made_anew_or_another_by_name(scenario: str) -> None:
    before = {name_of(one): one for one in released(scenario) if one["kind"] == "Job"}
    for one in upgraded(scenario):
        if one["kind"] == "Job" and name_of(one) in before:
            policy = one["metadata"].get("annotations", {}).get("helm.sh/hook-delete-policy", "")
            assert "before-hook-creation" in policy or before[name_of(one)]["spec"] == one["spec"], name_of(one)


# What an upgrade does to pods that hold jobs up or carry them, and how jobs go on. Emptied with each release.
_CACHE = "pods that run stay as they are, with their cache in /tmp; workers that come have the volume"
_CACHE_PATHS = (
    *(f"containers.ray-worker.env.SUREFOOT_CACHE_{name}" for name in ("DIR", "SIZE")),
    "containers.ray-worker.volumeMounts.cache",
    "volumes.cache",
)
LISTED: dict[str, str] = {
    f"RayCluster/surefoot workerGroupSpecs.{group}.template.spec.{path}": _CACHE
    for group in ("cpu", "gpu", "gpu-spot", "l4", "l4-spot")
    for path in _CACHE_PATHS
}
# A release is another image; `upgradeStrategy: None` leaves pods that run as they are, whatever their template says.
_IMAGE = ".image"


def touched(before: Iterable[Object], after: Iterable[Object]) -> Iterator[str]:
    """Where the Ray cluster's pods or Redis' differ, or are no longer there: "RayCluster/surefoot spec.rayVersion"."""
    now = {name_of(one): one for one in after}
    for one in before:
        if one["kind"] in ("RayCluster", "StatefulSet"):
            for path in changes(one["spec"], now.get(name_of(one), {}).get("spec")):
                if not path.endswith(_IMAGE):
                    yield f"{name_of(one)} {path}"


def test_what_changes_under_jobs_that_run_is_listed() -> None:
    found = {change for scenario in ALL for change in touched(released(scenario), upgraded(scenario))}
    assert found == set(LISTED), "say in LISTED how jobs that run go on, or make the release anew (released.py)"


def test_what_would_touch_jobs_is_found() -> None:
    """The list is not empty because nothing is looked at."""
    options = ("--set", "ray.workerDefaults.tmpSize=9Gi", "--set", "redis.podLabels.a=b", "--set", "ray.image.tag=v2")
    assert set(touched(objects(DEFAULTS), objects(DEFAULTS, *options))) == {
        "RayCluster/surefoot workerGroupSpecs.cpu.template.spec.volumes.ray-logs.emptyDir.sizeLimit",
        "RayCluster/surefoot workerGroupSpecs.cpu.template.spec.volumes.tmp.emptyDir.sizeLimit",
        "StatefulSet/surefoot-redis template.metadata.labels.a",
    }
    gone = touched(objects(DEFAULTS), objects("existing-ray"))
    assert set(gone) == {"RayCluster/surefoot ", "StatefulSet/surefoot-redis "}


def test_running_pods_are_left_as_they_are() -> None:
    """KubeRay replaces pods whose template has changed only if it is told to."""
    clusters = [one for scenario in ALL for one in upgraded(scenario) if one["kind"] == "RayCluster"]
    assert {one["spec"]["upgradeStrategy"]["type"] for one in clusters} == {"None"}
    assert len(clusters) == len(ALL) - 1


def test_the_defaults_of_then_are_values_still(tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` gives the new chart all of them."""
    (file := tmp_path / "values.yaml").write_text(values())
    assert "kind: RayCluster" in template(DEFAULTS, "--values", str(file)).stdout


CHANGES = (
    "controlPlane.image.tag=v2",
    "ray.image.tag=v2",
    "redis.image.tag=v2",
    "commonLabels.team=other",
    "controlPlane.settings.max_connections=50",
    "ray.version=2.61.0",
    "redis.podLabels.a=b",
    "controlPlane.podLabels.a=b",
)


@pytest.mark.parametrize("scenario", [DEFAULTS, "production"])
def test_an_upgrade_changes_nothing_immutable(scenario: str) -> None:
    options = [word for change in CHANGES for word in ("--set", change)]
    before, after = objects(scenario), objects(scenario, *options)
    assert before != after
    assert immutable(before) == immutable(after)
    names = [[(one["kind"], one["metadata"]["name"]) for one in some] for some in (before, after)]
    assert names[0] == names[1]


def test_a_selector_finds_the_pods_of_the_version_before() -> None:
    """Services and policies select by labels that no version and no values change."""
    for one in objects("production"):
        text = json.dumps(one["spec"].get("selector") or one["spec"].get("podSelector") or {}) if "spec" in one else ""
        assert "version" not in text
        assert "helm.sh/chart" not in text
