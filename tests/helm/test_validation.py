"""What validators of others say: Kubernetes' schemas, KubeRay's definitions, checkov, hadolint, shellcheck."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ..kernel import forbidden
from .chart import DEFAULTS, NAMESPACE, ROOT, SCENARIOS, objects, of_kind, pods, run, text, tool

ALL = (DEFAULTS, *SCENARIOS)
# Kinds of others' definitions, which are checked below.
OTHERS = {"RayCluster", "HTTPRoute", "PrometheusRule", "ServiceMonitor"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file a scenario, with the pods of the RayCluster written out as pods, which validators know."""
    folder = tmp_path_factory.mktemp("rendered")
    for scenario in ALL:
        rays = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"ray-{pod.name}", "namespace": NAMESPACE, "labels": dict(pod.labels)},
                "spec": pod.spec,
            }
            for pod in pods(scenario)
            if "ray.io/cluster" in pod.labels
        ]
        (folder / f"{scenario}.yaml").write_text(text(scenario) + "\n---\n" + yaml.safe_dump_all(rays))
    return folder


@pytest.fixture(scope="module")
def distinct(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same objects, each once: most are the same in several scenarios."""
    found = {
        part.strip() for path in rendered.iterdir() for part in path.read_text().split("\n---\n") if "kind:" in part
    }
    file = tmp_path_factory.mktemp("distinct") / "all.yaml"
    file.write_text("\n---\n".join(sorted(found)))
    return file


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_every_object_is_kubernetes(distinct: Path, version: str) -> None:
    done = run(tool("kubernetes-validate"), "--strict", "-k", version, distinct, check=False)
    said = (done.stdout + done.stderr).splitlines()
    bad = [
        line for line in said if not line.startswith("INFO") and not any(f"for kind {kind} " in line for kind in OTHERS)
    ]
    assert bad == []
    assert done.returncode == 0
    assert len([line for line in said if line.startswith("INFO")]) > 80


def _crds() -> Any:
    """KubeRay's own definitions, which lie beside a checkout."""
    for parent in ROOT.parents:
        folder = parent / "shared" / "kuberay-crds"
        if folder.is_dir():
            spec = importlib.util.spec_from_file_location("kuberay_crds", folder / "validate.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.load_crds([folder / "ray.io_rayclusters.yaml"])[("ray.io/v1", "RayCluster")]
    forbidden("KubeRay's definitions are not beside this checkout (shared/kuberay-crds)")


# it leaves its files for the collector to close
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_raycluster_is_kuberays() -> None:
    validator = _crds()
    clusters = [cluster for scenario in ALL for cluster in of_kind(scenario, "RayCluster")]
    assert len(clusters) == len(ALL) - 1
    assert [error.message for cluster in clusters for error in validator.iter_errors(cluster)] == []
    wrong = {**clusters[0], "spec": {**clusters[0]["spec"], "workerGroups": []}}
    assert list(validator.iter_errors(wrong)), "the definitions let everything pass"


SCHEMAS = Path(__file__).with_name("schemas")


@pytest.mark.parametrize(
    ("kind", "scenario", "wrong"),
    [
        ("HTTPRoute", "existing-ray", {"parentRef": []}),
        ("HTTPRoute", "existing-ray", {"rules": [{"timeouts": {"request": "never"}}]}),
        ("PrometheusRule", "production", {"group": []}),
        ("ServiceMonitor", "production", {"endpoints": [{"ports": "http"}]}),
        ("ServiceMonitor", "production", {"selector": None}),
        ("PrometheusRule", "production", {"groups": [{"name": "a", "rules": [{"alert": "A"}]}]}),
        (
            "PrometheusRule",
            "production",
            {"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "1", "for": "5"}]}]},
        ),
    ],
)
def test_kinds_of_others_are_theirs(kind: str, scenario: str, wrong: dict[str, Any]) -> None:
    validator = Draft202012Validator(json.loads((SCHEMAS / f"{kind}.json").read_text()))
    found = [one for each in ALL for one in of_kind(each, kind)]
    assert of_kind(scenario, kind)
    assert [error.message for one in found for error in validator.iter_errors(one)] == []
    assert list(validator.iter_errors({**found[0], "spec": {**found[0]["spec"], **wrong}})), "it lets everything pass"


# Of what is read from standard input, whatever Prometheus' own grammar does not take.
PROMQL = """
import json, sys, promql_parser
for expr in json.load(sys.stdin):
    try:
        promql_parser.parse(expr)
    except ValueError as error:
        print(expr, error)
"""


def _not_promql(*exprs: str) -> str:
    return run(tool("python"), "-c", PROMQL, input=json.dumps(exprs)).stdout


def test_alerts_are_promql() -> None:
    [found] = of_kind("production", "PrometheusRule")
    exprs = [rule["expr"] for group in found["spec"]["groups"] for rule in group["rules"]]
    assert len(exprs) >= 6
    assert _not_promql(*exprs) == ""
    assert "sum by(" in _not_promql("sum by( up")


# What checkov finds and we leave, with the reason, and where. What it finds elsewhere fails; so does a reason that nothing needs.
EXPLAINED = {
    "CKV_K8S_43": ("images go by tag until their digest is given, as in `production`", ("surefoot",)),
    "CKV_K8S_15": (
        "an image with a fixed tag or digest is fetched once a node; Always needs the registry at every restart",
        ("surefoot",),
    ),
    "CKV_K8S_35": (
        "what reads them takes environment variables: the database's URL, Ray's token, Redis' password, keys of storage",
        ("surefoot", "surefoot-redis", "surefoot-test", "surefoot-migrate", "ray-head", "ray-cpu"),
    ),
    "CKV_K8S_38": ("these two call the Kubernetes API", ("surefoot-secrets", "surefoot-guard")),
    "CKV_K8S_8": ("it runs to its end: helm test; KubeRay's autoscaler, which has none", ("surefoot-test", "ray-head")),
    "CKV_K8S_9": ("the same", ("surefoot-test", "ray-head")),
}


def test_checkov_finds_nothing_unexplained(rendered: Path) -> None:
    done = run(
        tool("checkov"),
        "--framework",
        "kubernetes",
        "--directory",
        rendered,
        "--output",
        "json",
        "--compact",
        "--quiet",
        check=False,
    )
    report = json.loads(done.stdout)
    failed = report["results"]["failed_checks"]
    assert report["summary"]["passed"] > 3000
    assert report["summary"]["parsing_errors"] == 0
    found = {(one["check_id"], one["resource"].split(".")[-1], one["check_name"]) for one in failed}
    unexplained = [one for one in sorted(found) if not (one[0] in EXPLAINED and _named(one[1], EXPLAINED[one[0]][1]))]
    assert unexplained == []
    assert set(EXPLAINED) - {one[0] for one in found} == set(), "explained, and no longer found"


def _named(name: str, names: tuple[str, ...]) -> bool:
    """One of these, or where all of them are meant, anything of the chart's."""
    # a plain Job's name ends with what it does
    return (
        name in names or names == ("surefoot",) or any(name.startswith(f"{one}-") for one in names if one != "surefoot")
    )


@pytest.mark.parametrize("image", ["control-plane", "ray-node"])
def test_hadolint(image: str) -> None:
    assert run(tool("hadolint"), ROOT / "images" / image / "Dockerfile").stdout == ""


def test_shellcheck(tmp_path: Path) -> None:
    """CI's script, and what the containers run by a shell."""
    scripts = {"ci": (ROOT / ".ci" / "run").read_text()}
    for scenario in ALL:
        for pod in pods(scenario):
            for container in pod.containers:
                shell = container.get("command", ["none"])[0].rpartition("/")[2]
                if shell in ("sh", "bash"):
                    # kubelet puts $(NAME) in; $NAME is the shell's
                    scripts[f"{scenario}-{container['name']}"] = f"#!/bin/{shell}\n{container['args'][-1]}\n"
    assert {name.rpartition("-")[2] for name in scripts} >= {"ci", "head", "worker", "redis"}
    for name, script in scripts.items():
        (tmp_path / f"{name}.sh").write_text(script)
    # SC2086: the operator's command is to be split into words
    run(tool("shellcheck"), "--exclude", "SC2086", *sorted(tmp_path.iterdir()))


def test_no_object_is_there_twice() -> None:
    for scenario in ALL:
        names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in objects(scenario)]
        assert len(names) == len(set(names)), scenario
