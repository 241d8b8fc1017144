"""Who may reach whom, and how the control plane is reached from outside."""

from __future__ import annotations

from pydantic import Field

from values.parts import PUBLIC, Name, Objects, Part, Strings, part, value


class Peers(Part):
    to: Objects = value([], "Whom, as NetworkPolicyPeers")
    ports: list[int] = value([], "TCP ports")


class ExtraEgress(Part):
    controlPlane: Objects = value([], "Rules for the control plane")
    ray: Objects = value([], "Rules for head and workers")


class NetworkPolicies(Part):
    enabled: bool = value(True, "Make NetworkPolicies; they do something where the cluster's network enforces them")
    clients: Objects = value(
        [], "Who may reach the control plane beside the Ray head, as NetworkPolicyPeers: your ingress controller, say"
    )
    dns: Objects = value(
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "Who answers DNS; add `ipBlock: {cidr: 169.254.20.10/32}` where there is a NodeLocal DNSCache",
    )
    kubernetesApi: Peers = Field(
        default_factory=lambda: Peers(ports=[443, 6443]),
        description="The Kubernetes API, which the autoscaler beside the head and the hooks call; `to` empty: these ports anywhere",
    )
    database: Peers = Field(
        default_factory=lambda: Peers(ports=[5432]), description="The Postgres; `to` empty: its port anywhere"
    )
    redis: Peers = Field(
        default_factory=lambda: Peers(ports=[6379]), description="A Redis of your own; `to` empty: its port anywhere"
    )
    storage: Peers = Field(
        default_factory=lambda: Peers(to=[PUBLIC], ports=[443]),
        description="Storage of checkpoints, and package indexes for jobs with `pip`; by default HTTPS outside of private networks",
    )
    extraEgress: ExtraEgress = part(ExtraEgress, "More that they may reach, as NetworkPolicyEgressRules")


class Ingress(Part):
    enabled: bool = value(False, "Make an Ingress")
    className: str = value("", "Ingress class; empty: the cluster's default")
    host: str = value("", "Host name")
    annotations: Strings = value(
        {}, "Annotations: no buffering of `/v1/jobs/{job}/stream`, bodies of 100 MiB, reads that last 60 s"
    )
    tlsSecret: Name = value("", "Secret with the certificate; tokens go over this connection")


class HttpRoute(Part):
    enabled: bool = value(False, "Make a Gateway API HTTPRoute")
    parentRefs: Objects = value([], "Listeners that it attaches to; TLS is theirs")
    hostnames: list[str] = value([], "Host names")
    annotations: Strings = value({}, "Annotations")
