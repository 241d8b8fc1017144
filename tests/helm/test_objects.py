"""What is in the rendered objects, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from surefoot_service.scheduler.prices import GroupSetting
from surefoot_service.settings import Settings

from .chart import DEFAULTS, NAMESPACE, SCENARIOS, Pod, of_kind, only, pods, text

ALL = (DEFAULTS, *SCENARIOS)


def containers(scenario: str) -> Iterator[tuple[str, Pod, Mapping[str, Any]]]:
    for pod in pods(scenario):
        for container in pod.containers:
            yield f"{pod.name}/{container['name']}", pod, container


def env(container: Mapping[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


# ---- every container


@pytest.mark.parametrize("scenario", ALL)
def test_every_container_is_bounded_and_without_rights(scenario: str) -> None:
    for name, pod, container in containers(scenario):
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"]), name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod.spec["securityContext"]["runAsNonRoot"] is True, name


@pytest.mark.parametrize("scenario", ALL)
def test_what_is_mounted_is_there_and_what_is_written_is_a_volume(scenario: str) -> None:
    for name, pod, container in containers(scenario):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        if pod.name.endswith("redis"):
            volumes.add("data")  # a claim of the set's own
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        assert set(mounts.values()) <= volumes, name
        assert "/tmp" in mounts or container["name"] == "redis", name
        if container["name"].startswith("ray-"):
            assert {"/dev/shm", "/tmp/ray"} <= set(mounts), name


@pytest.mark.parametrize("scenario", ALL)
def test_no_service_sets_the_environment(scenario: str) -> None:
    """Kubernetes sets SUREFOOT_PORT=tcp://... for a Service named surefoot, which is none of the control plane's ports."""
    assert [pod.name for pod in pods(scenario) if pod.spec["enableServiceLinks"] is not False] == []


@pytest.mark.parametrize("scenario", ALL)
def test_whoever_serves_is_probed(scenario: str) -> None:
    for name, pod, container in containers(scenario):
        # KubeRay's autoscaler has none; what ends needs none
        if pod.serves and container in pod.spec["containers"] and container["name"] != "autoscaler":
            assert {"readinessProbe", "livenessProbe"} <= set(container), name


# ---- tokens of the Kubernetes API, and secrets


def _with_api_token(scenario: str) -> Iterator[str]:
    for pod in pods(scenario):
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if pod.spec["automountServiceAccountToken"] or "/var/run/secrets/kubernetes.io/serviceaccount" in paths:
                yield container["name"]


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (DEFAULTS, {"autoscaler", "secrets", "guard"}),
        ("minimal", {"secrets", "guard"}),
        ("production", {"autoscaler", "secrets", "guard"}),
        ("air-gapped", {"autoscaler", "secrets"}),
        ("existing-ray", set()),
    ],
)
def test_only_who_calls_the_kubernetes_api_has_a_token(scenario: str, expected: set[str]) -> None:
    assert set(_with_api_token(scenario)) == expected


@pytest.mark.parametrize("scenario", ALL)
def test_rights_are_those_of_the_hooks_alone(scenario: str) -> None:
    rules = [rule for role in of_kind(scenario, "Role") for rule in role["rules"]]
    assert of_kind(scenario, "ClusterRole") == []
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "resourceNames" in rule or (rule["resources"], rule["verbs"]) == (["secrets"], ["create"])


@pytest.mark.parametrize("scenario", ALL)
def test_no_secret_is_rendered(scenario: str) -> None:
    assert of_kind(scenario, "Secret") == []
    for config in of_kind(scenario, "ConfigMap"):
        assert not [key for key in config["data"] if "TOKEN" in key or "PASSWORD" in key or "DATABASE" in key]
    for pod in pods(scenario):
        for container in pod.containers:
            secret = [
                n
                for n, v in env(container).items()
                if ("TOKEN" in n and n != "TOKEN_FILE") or "PASSWORD" in n or n.endswith("DATABASE_URL")
            ]
            assert all("secretKeyRef" in env(container)[name] for name in secret)


def test_secrets_are_made_only_where_none_is_given() -> None:
    def keys(scenario: str) -> list[str]:
        jobs = [job for job in of_kind(scenario, "Job") if "-secrets" in job["metadata"]["name"]]
        return [env(job["spec"]["template"]["spec"]["containers"][0])["KEYS"] for job in jobs]

    assert keys(DEFAULTS) == ["token redis-password"]
    assert keys("minimal") == ["token"]
    assert keys("gke-spot") == ["token"]
    assert keys("existing-ray") == []


def test_the_key_of_secrets_is_a_mounted_file_where_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings(DEFAULTS, monkeypatch).secrets_key_file is None
    given = ("--set", "secretsKey.existingSecret=mine")
    file = _settings(DEFAULTS, monkeypatch, *given).secrets_key_file
    spec = only(DEFAULTS, "Deployment", "surefoot", *given)["spec"]["template"]["spec"]
    (volume,) = [v["secret"] for v in spec["volumes"] if v["name"] == "secrets-key"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "secrets-key"]
    assert (volume["secretName"], f"{mount['mountPath']}/{volume['items'][0]['path']}") == ("mine", str(file))


# ---- the control plane


def _settings(scenario: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> Settings:
    for name, value in only(scenario, "ConfigMap", "surefoot", *options)["data"].items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_its_settings_are_what_the_service_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings("production", monkeypatch)
    assert (settings.host, settings.port) == ("0.0.0.0", 8470)
    assert settings.url == f"http://surefoot.{NAMESPACE}.svc:8470"
    assert settings.ray_address == f"http://surefoot-head-svc.{NAMESPACE}.svc:8265"
    assert settings.checkpoint_place == "s3://surefoot-checkpoints/prod"
    assert settings.keep_ended_days == 90
    assert settings.storage_protocols == ("s3",)


def test_every_setting_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large numbers too, which Helm reads as floats."""
    given = {
        "max_told_bytes": "17179869184",
        "request_s": "2.5",
        "retention_removes_checkpoints": "true",
        "max_connections": "50",
    }
    options = [
        word for name, value in given.items() for word in ("--set-json", f"controlPlane.settings.{name}={value}")
    ]
    settings = _settings(DEFAULTS, monkeypatch, *options)
    assert settings.max_told_bytes == 17179869184
    assert (settings.request_s, settings.retention_removes_checkpoints, settings.max_connections) == (2.5, True, 50)


def test_traces_go_to_their_endpoint_with_headers_of_a_secret() -> None:
    given = ("--set", "traces.endpoint=https://otlp.example.com,traces.headers.existingSecret=otlp")
    [container] = only(DEFAULTS, "Deployment", "surefoot", *given)["spec"]["template"]["spec"]["containers"]
    assert env(container)["OTEL_EXPORTER_OTLP_HEADERS"] == {"secretKeyRef": {"name": "otlp", "key": "headers"}}
    settings = only(DEFAULTS, "ConfigMap", "surefoot", *given)["data"]
    assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://otlp.example.com"
    assert "OTEL" not in text(DEFAULTS)


def test_a_changed_setting_restarts_it() -> None:
    def checksum(*options: str) -> str:
        deployment = only(DEFAULTS, "Deployment", "surefoot", *options)
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert checksum() != checksum("--set", "controlPlane.settings.max_connections=50")
    assert checksum() == checksum("--set", "ray.version=2.60.1")


def test_there_is_one_and_it_is_replaced() -> None:
    spec = only(DEFAULTS, "Deployment", "surefoot")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    [container] = spec["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/v1/health"
    # a probe waits longer than what it asks: readiness looks at everything for two seconds
    assert container["readinessProbe"]["timeoutSeconds"] > 2
    assert only(DEFAULTS, "Service", "surefoot")["spec"]["publishNotReadyAddresses"] is True


def test_postgres_comes_by_a_secret_and_is_migrated_first() -> None:
    [container] = only("production", "Deployment", "surefoot")["spec"]["template"]["spec"]["containers"]
    reference = {"secretKeyRef": {"name": "surefoot-postgres", "key": "url"}}
    assert env(container)["SUREFOOT_DATABASE_URL"] == reference
    job = only("production", "Job", "surefoot-migrate")
    assert env(job["spec"]["template"]["spec"]["containers"][0])["SUREFOOT_DATABASE_URL"] == reference
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert not [job for job in of_kind("minimal", "Job") if "migrate" in job["metadata"]["name"]]


def test_without_hooks_jobs_are_plain_and_named_by_what_they_do() -> None:
    def job(*options: str) -> Any:
        [found] = [o for o in of_kind("existing-ray", "Job", *options) if "migrate" in o["metadata"]["name"]]
        return found["metadata"]

    assert "annotations" not in job()
    assert job()["name"] != job("--set", "controlPlane.image.tag=0.2.0")["name"]
    assert job()["name"] == job("--set", "controlPlane.settings.max_connections=50")["name"]
    assert "helm.sh/hook:" not in text("existing-ray").replace("helm.sh/hook: test", "")


def test_claims_stay_unless_that_is_said() -> None:
    for claim in of_kind(DEFAULTS, "PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    claim = only(DEFAULTS, "PersistentVolumeClaim", "surefoot-data", "--set", "controlPlane.persistence.retain=false")
    assert "annotations" not in claim["metadata"]


# ---- Ray


def _cluster(scenario: str, *options: str) -> Any:
    return only(scenario, "RayCluster", "surefoot", *options)["spec"]


def _group(scenario: str, name: str, *options: str) -> Any:
    [found] = [group for group in _cluster(scenario, *options)["workerGroupSpecs"] if group["groupName"] == name]
    return found


@pytest.mark.parametrize("scenario", [s for s in ALL if s != "existing-ray"])
def test_no_trainer_runs_on_the_head_which_is_on_no_spot_node(scenario: str) -> None:
    head = _cluster(scenario)["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    [term] = head["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {one["key"] for one in term["matchExpressions"]} >= {
        "cloud.google.com/gke-spot",
        "karpenter.sh/capacity-type",
    }
    assert _cluster(scenario)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("scenario", "name", "drain_s", "grace_s", "selector"),
    [
        ("gke-spot", "l4-spot", "10", 20, {"cloud.google.com/gke-spot": "true"}),
        ("production", "gpu-spot", "115", 125, {"karpenter.sh/capacity-type": "spot"}),
        ("production", "gpu", "55", 65, {}),
    ],
)
def test_a_market_has_its_nodes_and_its_notice(
    scenario: str, name: str, drain_s: str, grace_s: int, selector: dict[str, str]
) -> None:
    group = _group(scenario, name)
    spec = group["template"]["spec"]
    [container] = spec["containers"]
    assert env(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == drain_s
    assert spec["terminationGracePeriodSeconds"] == grace_s
    assert selector.items() <= spec["nodeSelector"].items()
    taints = {one["key"] for one in spec.get("tolerations", [])}
    assert ("cloud.google.com/gke-spot" in taints) == ("cloud.google.com/gke-spot" in selector)
    assert group["labels"]["ray.io/market-type"] == (
        "on-demand" if not selector else f"{scenario.replace('production', 'aws-spot')}"
    )


def test_a_group_has_what_it_says_and_the_rest_from_the_defaults() -> None:
    spot, plain = _group("production", "gpu-spot"), _group("production", "gpu")
    assert (spot["minReplicas"], spot["maxReplicas"], spot["priority"]) == (0, 32, 10)
    assert (plain["minReplicas"], plain["maxReplicas"], plain["priority"]) == (1, 4, 0)
    for group in (spot, plain):
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert group["template"]["spec"]["runtimeClassName"] == "nvidia"
    assert [group["groupName"] for group in _cluster("production")["workerGroupSpecs"]] == ["gpu", "gpu-spot"]


def _told_groups(scenario: str, *options: str) -> dict[str, GroupSetting]:
    told = only(scenario, "ConfigMap", "surefoot", *options)["data"]["SUREFOOT_NODE_GROUPS"]
    return Settings.model_validate({"node_groups": json.loads(told)}).node_groups


@pytest.mark.parametrize("scenario", [one for one in ALL if one != "existing-ray"])
def test_the_control_plane_knows_each_group_as_ray_sees_it(scenario: str) -> None:
    told = _told_groups(scenario)
    groups = {group["groupName"]: group for group in _cluster(scenario)["workerGroupSpecs"]}
    assert set(told) == set(groups)
    for name, group in groups.items():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert told[name].cpus == float(limits["cpu"])
        assert told[name].gpus == float(limits.get("nvidia.com/gpu", 0))
        assert told[name].max_nodes == group["maxReplicas"]
        assert told[name].priority == group["priority"]
        assert group["labels"] | {"ray.io/node-group": name, "ray.io/market-type": told[name].market} == group["labels"]


@pytest.mark.parametrize("scenario", [one for one in ALL if one != "existing-ray"])
def test_what_the_control_plane_is_told_is_what_rays_autoscaler_reads_of_the_cluster(scenario: str) -> None:
    [cluster] = of_kind(scenario, "RayCluster")
    types = _derive_autoscaling_config_from_ray_cr(dict(cluster))["available_node_types"]
    assert types.pop("headgroup")["resources"]["CPU"] == 0
    told = _told_groups(scenario)
    assert set(told) == set(types)
    for name, group in told.items():
        assert (group.cpus, group.gpus) == (types[name]["resources"]["CPU"], types[name]["resources"].get("GPU", 0))
        assert (group.max_nodes, group.priority) == (types[name]["max_workers"], types[name]["priority"])
        assert types[name]["labels"]["ray.io/node-group"] == name, "a selector finds a node that is not there yet"
        assert types[name]["labels"]["ray.io/market-type"] == group.market


def test_prices_and_devices_are_told_and_without_autoscaling_nothing_is_added() -> None:
    told = _told_groups("production", "--set", r"ray.workerGroups.gpu.rayLabels.ray\.io/accelerator-type=L4")
    assert (told["gpu"].price_per_hour, told["gpu"].device) == (0.98, "L4")
    assert (told["gpu-spot"].price_per_hour, told["gpu-spot"].device) == (0.41, "")
    told = _told_groups("production", "--set", "ray.autoscaling.enabled=false")
    assert [told[name].max_nodes for name in ("gpu", "gpu-spot")] == [1, 0]
    existing = only("existing-ray", "ConfigMap", "surefoot")["data"]
    assert "SUREFOOT_NODE_GROUPS" not in existing


def test_sigterm_reaches_ray_start() -> None:
    """KubeRay's own command has bash before it, which takes the signal and does nothing."""
    cluster = only(DEFAULTS, "RayCluster", "surefoot")
    assert cluster["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
    for pod in pods(DEFAULTS):
        if "ray.io/cluster" in pod.labels:
            container = pod.spec["containers"][0]
            assert container["command"] == ["/bin/bash", "-c", "--"]
            assert container["args"] == ['ulimit -n 65536; eval exec tini -- "$KUBERAY_GEN_RAY_START_CMD"']


def test_what_survives_the_head() -> None:
    assert _cluster(DEFAULTS)["gcsFaultToleranceOptions"]["redisAddress"] == f"surefoot-redis.{NAMESPACE}.svc:6379"
    assert _cluster("air-gapped")["gcsFaultToleranceOptions"] == {
        "backend": "rocksdb",
        "storage": {"size": "10Gi", "storageClassName": "fast"},
    }
    assert (
        _cluster("gke-spot")["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
        == "memorystore"
    )
    assert "gcsFaultToleranceOptions" not in _cluster("minimal")
    for scenario, redis in ((DEFAULTS, 1), ("gke-spot", 0), ("air-gapped", 0), ("minimal", 0)):
        assert len(of_kind(scenario, "StatefulSet")) == redis
        for pod in pods(scenario):
            if "ray.io/cluster" in pod.labels:
                waits = env(pod.spec["containers"][0]).get("RAY_gcs_rpc_server_reconnect_timeout_s")
                assert waits == (None if scenario == "minimal" else "600")


def test_autoscaling_is_the_autoscalers_and_otherwise_the_values() -> None:
    assert "replicas" not in _group(DEFAULTS, "cpu"), "an upgrade would take back what the autoscaler did"
    assert _cluster(DEFAULTS)["autoscalerOptions"]["version"] == "v2"
    assert _group("minimal", "cpu")["replicas"] == 1
    assert "autoscalerOptions" not in _cluster("minimal")


@pytest.mark.parametrize("scenario", [DEFAULTS, "minimal"])
def test_checkpoints_on_a_volume_are_at_one_path_everywhere(scenario: str) -> None:
    place = only(scenario, "ConfigMap", "surefoot")["data"]["SUREFOOT_CHECKPOINTS"]
    for pod in pods(scenario):
        for container in pod.containers:
            if container["name"] in ("control-plane", "ray-head", "ray-worker"):
                mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert [
                    path for path in mounts if path != "/tmp" and place.startswith(f"{path}/") and "checkpoints" in path
                ]


def test_all_images_come_from_the_registry_that_is_named() -> None:
    for pod in pods("air-gapped"):
        assert pod.spec["imagePullSecrets"] == [{"name": "registry"}] or "redis" in pod.name
        for container in pod.containers:
            assert container["image"].startswith("registry.internal:5000/")


def test_of_a_cluster_that_is_there_nothing_is_made() -> None:
    kinds = {one["kind"] for one in yaml.safe_load_all(text("existing-ray")) if one}
    assert not kinds & {"RayCluster", "StatefulSet", "Ingress"}
    assert {"Deployment", "HTTPRoute", "ConfigMap"} <= kinds
    [container] = only("existing-ray", "Deployment", "surefoot")["spec"]["template"]["spec"]["containers"]
    assert env(container)["SUREFOOT_RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "ray-token", "key": "auth_token"}}
