"""The values: one source, and a schema that refuses what is not there, by its name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml

from surefoot_service.settings import Settings

from .chart import CHART, DEFAULTS, ROOT, SCENARIOS, template, text

GENERATE = ROOT / "helm" / "generate.py"
# set by the chart itself
_CHART_S = {
    *("data", "host", "port", "public_url", "ray_address", "ray_auth_token", "ray_python"),
    *("database_url", "checkpoints", "node_groups", "metrics_port", "metrics_token"),
    *("secrets_key", "secrets_key_file"),
}


def test_what_is_made_of_the_values_is_what_they_say() -> None:
    done = subprocess.run([sys.executable, GENERATE, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_settings_are_the_services() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["definitions"]["Settings"]["properties"]) == set(Settings.model_fields) - _CHART_S


WRONG = {"replcas", "contolPlane", "max_conections", "maxReplica", "adress", "grace", "enable", "acessModes"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("controlPlane.replcas", "2"),
        ("contolPlane.replicas", "2"),
        ("controlPlane.settings.max_conections", "50"),
        ("ray.workerGroups.cpu.maxReplica", "5"),
        ("ray.faultTolerance.redis.adress", "redis:6379"),
        ("ray.markets.on-demand.grace", "5"),
        ("networkPolicy.enable", "false"),
        ("checkpoints.volume.acessModes", "null"),
    ],
)
def test_a_mistyped_value_is_refused_by_its_name(name: str, value: str) -> None:
    done = template(DEFAULTS, "--set-json", f'{name}="{value}"', check=False)
    assert done.returncode != 0
    wrong = next(word for word in name.split(".") if word in WRONG)
    assert f"additional properties '{wrong}' not allowed" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("controlPlane.service.port", '"http"', "/controlPlane/service/port"),
        ("controlPlane.settings.max_connections", "0", "/controlPlane/settings/max_connections"),
        ("controlPlane.podDisruptionBudget.maxUnavailable", "2", "maxUnavailable"),
        ("ray.faultTolerance.backend", '"etcd"', "/ray/faultTolerance/backend"),
        ("ray.workerGroups.CPU", "{}", "workerGroups"),
        ("redis.size", '"two"', "/redis/size"),
        ("checkpoints.url", '"/a/folder"', "/checkpoints/url"),
        ("ray.image.digest", '"latest"', "/ray/image/digest"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(name: str, value: str, said: str) -> None:
    done = template(DEFAULTS, "--set-json", f"{name}={value}", check=False)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["ray.enabled=false"], "ray.address: name the dashboard"),
        (['ray.address="http://head:8265"'], "set ray.enabled=false"),
        (["checkpoints.volume.enabled=false"], "checkpoints: name a url"),
        (["ray.enabled=false", 'ray.address="http://head:8265"'], "checkpoints.url"),
        (["ingress.enabled=true"], "networkPolicy.clients"),
        (["ingress.enabled=true", "networkPolicy.enabled=false"], "name host and tlsSecret"),
        (["httpRoute.enabled=true", "networkPolicy.enabled=false"], "httpRoute.parentRefs"),
        (["ray.workerGroups.cpu=null"], "there must be one at least"),
        (['ray.workerGroups.cpu.market="azure-spot"'], "none of ray.markets (aws-spot, gke-spot, on-demand)"),
        (["ray.workerGroups.cpu.minReplicas=9"], "minReplicas is more than maxReplicas"),
        (["ray.markets.on-demand.graceSeconds=5"], "draining needs more than 5 s"),
    ],
)
def test_values_that_make_no_sense_together_are_refused(options: list[str], said: str) -> None:
    words = [word for option in options for word in ("--set-json", option)]
    done = template(DEFAULTS, *words, check=False)
    assert done.returncode != 0
    assert said in done.stderr


# What another value of it is, where its type does not say.
OTHER = {
    "image.digest": "sha256:" + "b" * 64,
    "pullPolicy": "Always",
    "size": "7Gi",
    "Size": "7Gi",
    "publicUrl": "https://surefoot.example.com",
    "checkpoints.url": "s3://bucket",
    "accessModes": ["ReadWriteOnce"],
    "service.type": "NodePort",
    "ray.address": "http://other:8265",
    "traces.endpoint": "http://collector:4318",
    "ray.version": "2.60.1",
    "serviceMonitor.interval": "7s",
    "upgradeStrategy": "Recreate",
    "upscalingMode": "Aggressive",
    "backend": "none",
    "market": "gke-spot",
    "workerDefaults.price": 0.7,
    "ray.workerGroups": {"other": {}},
    "podDisruptionBudget.maxUnavailable": 0,
    "ports": [1],
    "controlPlane.settings": {"max_connections": 7},
}
# With what else it matters.
WITH: dict[str, list[tuple[str, Any]]] = {
    "ingress.": [("ingress", {"enabled": True, "host": "h", "tlsSecret": "t"}), ("networkPolicy.clients", [{}])],
    "httpRoute.": [("httpRoute", {"enabled": True, "parentRefs": [{"name": "g"}]}), ("networkPolicy.clients", [{}])],
    "metrics.serviceMonitor.": [("metrics.enabled", True), ("metrics.serviceMonitor.enabled", True)],
    "metrics.dashboard.": [("metrics.enabled", True), ("metrics.dashboard.enabled", True)],
    "metrics.": [("metrics.enabled", True)],
    "traces.headers.key": [("traces.headers.existingSecret", "otlp")],
    "traces.collector.": [("traces.endpoint", "http://collector:4318")],
    "prometheusRule.labels": [("prometheusRule.enabled", True)],
    "ray.address": [("ray.enabled", False), ("ray.address", "http://head:8265"), ("checkpoints.url", "s3://bucket")],
    "ray.workerDefaults.": [("ray.workerGroups", {"other": {}})],
    "ray.enabled": [("checkpoints.url", "s3://bucket"), ("ray.address", "http://head:8265")],
    "ray.faultTolerance.rocksdb.": [("ray.faultTolerance.backend", "rocksdb")],
    "database.key": [("database.existingSecret", "postgres")],
    "networkPolicy.database.": [("database.existingSecret", "postgres")],
    "networkPolicy.redis.": [("ray.faultTolerance.redis.address", "redis:6379")],
}
# What others hide, or what is rendered as something else.
ALONE = {
    "imageRegistry",
    "nameOverride",
    "fullnameOverride",
    "ray.markets.on-demand.graceSeconds",
    "ray.autoscaling.enabled",
}
ALONE |= {"auth.existingSecret", "ray.faultTolerance.redis.address", "ray.faultTolerance.redis.existingSecret"}
ALONE |= {"controlPlane.persistence.existingClaim", "checkpoints.volume.existingClaim", "ray.serviceAccount.name"}
ALONE |= {"controlPlane.image.repository", "controlPlane.image.tag", "ray.image.tag", "redis.image.tag"}
# The schema or another rule refuses it by itself, which is doing something.
SWITCHES = {"ingress.enabled", "httpRoute.enabled", "checkpoints.volume.enabled", "ray.enabled"}


def leaves(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        whole = f"{path}{name}"
        if isinstance(value, dict) and value and name not in ("affinity", "resources", "workerGroups", "nodeSelector"):
            yield from leaves(value, f"{whole}.")
        else:
            yield whole, value


def options(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    return [word for name, one in pairs for word in ("--set-json", f"{name}={json.dumps(one)}")]


def given(path: str) -> list[tuple[str, Any]]:
    return [pair for start, pairs in WITH.items() if path.startswith(start) for pair in pairs]


def marked(path: str, value: Any, mark: str) -> Any:
    """A value of the same type that cannot be overlooked in what is rendered; None: there is none."""
    if isinstance(value, bool) or path in ALONE or any(path.endswith(end) for end in OTHER):
        return None
    match value:
        case int():
            return int(mark.removeprefix("mark"))
        case str():
            return mark
        case list():
            return [mark] if path == "httpRoute.hostnames" else [{"name": mark}]
        case _:
            return {mark: "yes"}


def values_to_try() -> list[tuple[str, Any]]:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # the two other markets have the same words, and no group of the defaults is of them
    return [(p, v) for p, v in leaves(values) if not p.startswith(("ray.markets.gke", "ray.markets.aws"))]


def test_every_value_is_rendered() -> None:
    """Given something that cannot be overlooked, it is there: many at a time, by what else they need."""
    groups: dict[str, list[tuple[str, Any, str]]] = {}
    for n, (path, value) in enumerate(values_to_try()):
        mark = f"mark{20000 + n}"
        if (other := marked(path, value, mark)) is not None:
            groups.setdefault(json.dumps(given(path)), []).append((path, other, mark))
    assert sum(map(len, groups.values())) > 80
    for needs, group in groups.items():
        pairs = [*((name, one) for name, one in json.loads(needs)), *((path, other) for path, other, _ in group)]
        done = template(DEFAULTS, *options(pairs))
        assert [path for path, _, mark in group if mark.removeprefix("mark") not in done.stdout] == []


def test_every_switch_does_something() -> None:
    """What cannot be marked is tried by itself: another value renders another chart, or is refused by a rule."""
    idle = []
    for path, value in values_to_try():
        if marked(path, value, "mark1") is not None:
            continue
        other = next((one for end, one in OTHER.items() if path.endswith(end)), None)
        other = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int) and other is None else other
        )
        words = options(given(path))
        after = template(DEFAULTS, *words, *options([(path, f"{value}x" if other is None else other)]), check=False)
        before = template(DEFAULTS, *words, *options([(path, value)]), check=False) if words else None
        idle += [path] if after.stdout == (before.stdout if before else text(DEFAULTS)) else []
        assert after.returncode == 0 or path in SWITCHES, after.stderr
    assert idle == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_are_told_of_in_their_first_line(scenario: str) -> None:
    assert (CHART / "ci" / f"{scenario}-values.yaml").read_text().startswith("# ")


def test_as_part_of_another_chart_it_is_given_globals() -> None:
    template(DEFAULTS, "--set", "global.anything=1")


def test_a_registry_and_digest_make_the_image() -> None:
    digest = "sha256:" + "a" * 64
    done = template(
        DEFAULTS,
        "--set",
        "imageRegistry=r.example",
        "--set",
        f"ray.image.digest={digest}",
        "--set",
        "controlPlane.image.tag=v9",
    )
    assert f"image: r.example/surefoot/ray-node@{digest}" in done.stdout
    assert "image: r.example/surefoot/control-plane:v9" in done.stdout
    assert "image: docker.io/library/redis:" in done.stdout
