"""What Kubernetes and KubeRay never let anybody change is the same from version to version, and whatever the values say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .chart import DEFAULTS, SCENARIOS, objects

# Where a field is meant to differ, users have to be told how to get over it. Written by `write` below.
PINNED = Path(__file__).with_name("immutable.json")


def immutable(scenario: str, *options: str) -> dict[str, Any]:
    """By kind and name, what cannot be changed in place.

    Jobs are made anew: those of hooks are removed first, and plain ones have other names.
    """
    found: dict[str, Any] = {}
    for one in objects(scenario, *options):
        spec, kept = one.get("spec", {}), {}
        match one["kind"]:
            case "Deployment":
                kept = {"selector": spec["selector"]}
            case "StatefulSet":
                kept = {name: spec[name] for name in ("selector", "serviceName", "volumeClaimTemplates")}
            case "PersistentVolumeClaim":
                kept = {name: spec.get(name) for name in ("accessModes", "storageClassName")}
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


def write() -> None:
    """From the repository's root: python -c 'from tests.helm import test_upgrades as t; t.write()'."""
    PINNED.write_text(json.dumps({s: immutable(s) for s in (DEFAULTS, *SCENARIOS)}, indent=1, sort_keys=True) + "\n")


def test_nothing_immutable_has_changed_since_it_was_pinned() -> None:
    pinned = json.loads(PINNED.read_text())
    assert {scenario: immutable(scenario) for scenario in (DEFAULTS, *SCENARIOS)} == pinned


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
    assert immutable(scenario) == immutable(scenario, *options)
    names = [[(one["kind"], one["metadata"]["name"]) for one in some] for some in (before, after)]
    assert names[0] == names[1]


def test_a_selector_finds_the_pods_of_the_version_before() -> None:
    """Services and policies select by labels that no version and no values change."""
    for one in objects("production"):
        text = json.dumps(one["spec"].get("selector") or one["spec"].get("podSelector") or {}) if "spec" in one else ""
        assert "version" not in text
        assert "helm.sh/chart" not in text
