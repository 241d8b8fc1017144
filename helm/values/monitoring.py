"""What others see of it: metrics, alerts, the dashboard, traces."""

from __future__ import annotations

from pydantic import Field

from values.network import Peers
from values.parts import Name, Objects, Part, Strings, part, value


class PrometheusRule(Part):
    enabled: bool = value(
        False,
        "Make a PrometheusRule, over what kube-state-metrics and the kubelet tell; with `metrics.enabled` also over our own",
    )
    labels: Strings = value({}, "Labels by which your Prometheus finds it")


class ServiceMonitor(Part):
    enabled: bool = value(False, "Make a ServiceMonitor")
    labels: Strings = value({}, "Labels by which your Prometheus finds it")
    interval: str = Field("30s", pattern=r"^[0-9]+(ms|s|m)$", description="How often it asks")


class Dashboard(Part):
    enabled: bool = value(False, "Make a ConfigMap with the Grafana dashboard (`files/dashboard.json`)")
    labels: Strings = value({"grafana_dashboard": "1"}, "Labels by which Grafana's sidecar finds it")
    annotations: Strings = value({}, "Annotations: the folder, say")


class Metrics(Part):
    enabled: bool = value(
        False, "Serve `/metrics` on a port of its own, without a token. On the other port it takes the users' token"
    )
    port: int = Field(8471, ge=1024, le=65535, description="That port, of pod and Service")
    clients: Objects = value(
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "Who may reach it, as NetworkPolicyPeers",
    )
    serviceMonitor: ServiceMonitor = part(ServiceMonitor, "For the Prometheus operator")
    dashboard: Dashboard = part(Dashboard, "For Grafana")


class TracesHeaders(Part):
    existingSecret: Name = value("", "Secret with headers for it (`api-key=...,other=...`); empty: none are sent")
    key: str = value("headers", "Its key")


class Traces(Part):
    endpoint: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="Where the control plane sends traces of jobs, by OTLP over HTTP (`http://collector.monitoring:4318`); empty: nowhere",
    )
    headers: TracesHeaders = part(TracesHeaders, "Headers, such as keys of a vendor's")
    collector: Peers = Field(
        default_factory=lambda: Peers(
            to=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}], ports=[4318]
        ),
        description="Who takes them; `to` empty: its ports anywhere",
    )
