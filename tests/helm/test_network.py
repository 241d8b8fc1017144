"""Who may reach whom, computed from the rendered NetworkPolicies as Kubernetes defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from .chart import DEFAULTS, NAMESPACE, SCENARIOS, of_kind, pods, text

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a connection: a pod, or an address outside of the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    address: str = ""


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In", "no other is used"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def _is_peer(peer: Rule, end: End) -> bool:
    if block := peer.get("ipBlock"):
        inside = bool(end.address) and ip_address(end.address) in ip_network(block["cidr"])
        return inside and not any(ip_address(end.address) in ip_network(n) for n in block.get("except", []))
    if not end.namespace:
        return False
    if (spaces := peer.get("namespaceSelector")) is not None:
        if not _selects(spaces, {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _admits(rules: Sequence[Rule], key: str, end: End, port: int, protocol: str) -> bool:
    for rule in rules:
        ports = rule.get("ports")
        if ports and not any(one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports):
            continue
        if not rule.get(key) or any(_is_peer(peer, end) for peer in rule[key]):
            return True
    return False


def _allowed(policies: Sequence[Rule], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """A pod that no policy selects may do everything; one that several select, what any of them allows."""
    for end, other, kind, key in ((source, target, "Egress", "to"), (target, source, "Ingress", "from")):
        if end.namespace != NAMESPACE:
            continue
        mine = [
            policy["spec"]
            for policy in policies
            if kind in policy["spec"]["policyTypes"] and _selects(policy["spec"]["podSelector"], end.labels)
        ]
        if mine and not any(_admits(spec.get(kind.lower()) or [], key, other, port, protocol) for spec in mine):
            return False
    return True


def _ends(scenario: str) -> dict[str, End]:
    """One pod a part, and what is outside."""
    found = {
        "dns": End(namespace="kube-system", labels={"k8s-app": "kube-dns"}),
        "ingress": End(namespace="ingress-nginx"),
        "stranger": End(namespace=NAMESPACE, labels={"app": "other"}),
        "foreigner": End(namespace="elsewhere"),
        "database": End(address="10.20.0.5"),
        "redis-of-yours": End(address="10.1.2.3"),
        "kubernetes": End(address="10.0.0.10"),
        "metadata": End(address="169.254.169.254"),
        "storage": End(address="52.95.110.1"),
    }
    for pod in pods(scenario):
        part = pod.labels.get("ray.io/node-type") or pod.labels["app.kubernetes.io/component"]
        found.setdefault(part, End(namespace=NAMESPACE, labels=pod.labels))
    return found


PORTS = {
    "control-plane": (8470,),
    "head": (8265, 6379, 52365, 8080, 10002, 40000),
    "worker": (52365, 8080, 10002, 40000),
    "redis": (6379,),
    "test": (80,),
    "hooks": (80,),
    "database": (5432,),
    "redis-of-yours": (6379,),
    "kubernetes": (443, 6443),
    "metadata": (80,),
    "storage": (443, 80),
    "stranger": (80, 443, 5432),
    "foreigner": (80, 443),
}


def matrix(scenario: str) -> set[tuple[str, str, int]]:
    """Every (who, whom, port) that is allowed, of all that there could be with one of ours at an end."""
    ends, policies = _ends(scenario), of_kind(scenario, "NetworkPolicy")
    ours = {name for name, end in ends.items() if end.namespace == NAMESPACE and name != "stranger"}
    return {
        (who, whom, port)
        for who, source in ends.items()
        for whom, target in ends.items()
        for port in PORTS.get(whom, ())
        if who != whom and {who, whom} & ours and (source.namespace or target.namespace)
        if source.namespace and _allowed(policies, source, target, port)
    }


RAY = {("head", "worker", port) for port in PORTS["worker"]} | {("worker", "head", port) for port in PORTS["head"]}
ALWAYS = RAY | {
    ("control-plane", "head", 8265),
    ("head", "control-plane", 8470),
    ("test", "control-plane", 8470),
    ("head", "storage", 443),
    ("worker", "storage", 443),
}
HOOKS = {("hooks", "kubernetes", 443), ("hooks", "kubernetes", 6443), ("hooks", "storage", 443)}
# `kubernetesApi.to` is empty: its ports anywhere
AUTOSCALER = {("head", "kubernetes", 443), ("head", "kubernetes", 6443)}
ANYWHERE = {
    ("head", "stranger", 443),
    ("head", "foreigner", 443),
    ("hooks", "stranger", 443),
    ("hooks", "foreigner", 443),
}
REDIS = {("head", "redis", 6379)}
EXPECTED = {
    DEFAULTS: ALWAYS | HOOKS | AUTOSCALER | ANYWHERE | REDIS,
    "production": ALWAYS
    | HOOKS
    | AUTOSCALER
    | ANYWHERE
    | REDIS
    | {("ingress", "control-plane", 8470), ("control-plane", "storage", 443)}
    | {("control-plane", "database", 5432), ("hooks", "database", 5432)},
    "minimal": ALWAYS | HOOKS | {one for one in ANYWHERE if one[0] == "hooks"},
    "gke-spot": ALWAYS
    | HOOKS
    | AUTOSCALER
    | ANYWHERE
    | {("control-plane", "storage", 443), ("head", "redis-of-yours", 6379)}
    | {(who, "metadata", 80) for who in ("control-plane", "head", "worker")},
}


@pytest.mark.parametrize("scenario", EXPECTED)
def test_who_may_reach_whom(scenario: str) -> None:
    found = matrix(scenario)
    assert found - EXPECTED[scenario] == set(), "more than is needed"
    assert EXPECTED[scenario] - found == set(), "less than is needed"


def test_a_named_kubernetes_api_is_all_that_is_reached() -> None:
    """`air-gapped` names it, and its storage inside of the cluster: nothing else is reached, and nothing outside."""
    found = matrix("air-gapped")
    assert ("head", "kubernetes", 6443) in found
    assert not [one for one in found if one[1] in ("storage", "stranger", "foreigner", "metadata", "database")]
    assert ("worker", "kubernetes", 6443) not in found


def test_traces_are_for_the_collector() -> None:
    collector, control_plane = End(namespace="monitoring"), _ends(DEFAULTS)["control-plane"]
    policies = of_kind(DEFAULTS, "NetworkPolicy", "--set", "traces.endpoint=http://collector.monitoring:4318")
    assert _allowed(policies, control_plane, collector, 4318)
    assert not _allowed(policies, control_plane, collector, 80)
    assert not _allowed(policies, _ends(DEFAULTS)["worker"], collector, 4318)
    assert not _allowed(of_kind(DEFAULTS, "NetworkPolicy"), control_plane, collector, 4318)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_may_ask_for_names(scenario: str) -> None:
    ends, policies = _ends(scenario), of_kind(scenario, "NetworkPolicy")
    for name, end in ends.items():
        if end.namespace == NAMESPACE and name not in ("redis", "stranger"):
            assert _allowed(policies, end, ends["dns"], 53, "UDP"), name
            assert not _allowed(policies, end, ends["dns"], 22), name


def test_training_code_reaches_neither_the_control_plane_nor_kubernetes_nor_redis() -> None:
    for scenario in EXPECTED:
        reached = {whom for who, whom, _ in matrix(scenario) if who == "worker"}
        assert reached <= {"head", "storage", "metadata"}
        assert ("metadata" in reached) == (scenario == "gke-spot"), "workload identity needs it there"


def test_kuberays_clean_up_reaches_redis() -> None:
    ends, policies = _ends(DEFAULTS), of_kind(DEFAULTS, "NetworkPolicy")
    labels = {**ends["head"].labels, "ray.io/node-type": "redis-cleanup"}
    assert _allowed(policies, End(namespace=NAMESPACE, labels=labels), ends["redis"], 6379)


def test_without_policies_there_are_none() -> None:
    assert "kind: NetworkPolicy" not in text(DEFAULTS, "--set", "networkPolicy.enabled=false")
