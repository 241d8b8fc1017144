"""The chart's values: what there is, of which type, with which default, and why. The one source of what `generate.py` writes.

`surefoot/values.yaml`, `surefoot/values.schema.json` and the table in `surefoot/README.md` are made of it. A value that is not here is
refused by the schema; what is Kubernetes' own (tolerations, resources, ...) is passed through, and Kubernetes checks it.
"""

from __future__ import annotations

from pydantic import Field

from values.checkpoints import Checkpoints
from values.control_plane import ControlPlane, DatabaseUrl, SecretsKey, Token
from values.monitoring import Metrics, PrometheusRule, Traces
from values.network import HttpRoute, Ingress, NetworkPolicies
from values.parts import Name, Object, Objects, Part, Seconds, Strings, limits, part, value
from values.ray_cluster import Ray, Redis

__all__ = ["Values"]


class Hooks(Part):
    enabled: bool = value(
        True,
        "Run Jobs as Helm hooks. Off for Argo CD, Flux, Terraform: then they are plain Jobs, and the guard of worker groups is none",
    )
    resources: Object = value(limits("500m", "256Mi", least_cpu="100m", least_memory="128Mi"), "Resources of a Job")


class Test(Part):
    trainers: int = Field(2, ge=2, description="Trainers of the job that `helm test` submits: so many CPUs")
    timeoutSeconds: Seconds = value(900, "How long it may take")


class Values(Part):
    """The chart's values."""

    nameOverride: Name = value("", "In place of the chart's name")
    fullnameOverride: Name = value("", "In place of the release's and the chart's name")
    commonLabels: Strings = value({}, "Labels of everything")
    imageRegistry: str = value(
        "", "Registry of all images that name none. None is published: build and push them first (images/README.md)"
    )
    imagePullSecrets: Objects = value([], "Pull secrets (`- name: ...`)")
    auth: Token = part(Token, "The users' token")
    secretsKey: SecretsKey = part(SecretsKey, "What `surefoot secret set` is encrypted with")
    database: DatabaseUrl = part(DatabaseUrl, "The database")
    checkpoints: Checkpoints = part(Checkpoints, "Checkpoints")
    controlPlane: ControlPlane = part(ControlPlane, "The control plane")
    ray: Ray = part(Ray, "The Ray cluster")
    redis: Redis = part(Redis, "The bundled Redis, where `ray.faultTolerance` asks for one")
    networkPolicy: NetworkPolicies = part(NetworkPolicies, "Who may reach whom")
    ingress: Ingress = part(Ingress, "Ingress")
    httpRoute: HttpRoute = part(HttpRoute, "Gateway API")
    hooks: Hooks = part(Hooks, "Jobs that make secrets, migrate the database, and guard worker groups")
    metrics: Metrics = part(Metrics, "Metrics for Prometheus")
    traces: Traces = part(Traces, "Traces for OpenTelemetry")
    prometheusRule: PrometheusRule = part(PrometheusRule, "Alerts")
    test: Test = part(Test, "`helm test`")
    extraObjects: Objects = value([], "Objects of your own that are made with the release")
