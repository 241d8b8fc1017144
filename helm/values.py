"""The chart's values: what there is, of which type, with which default, and why. The one source of what `generate.py` writes.

`surefoot/values.yaml`, `surefoot/values.schema.json` and the table in `surefoot/README.md` are made of it. A value that is not here is
refused by the schema; what is Kubernetes' own (tolerations, resources, ...) is passed through, and Kubernetes checks it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from surefoot_service.settings import Settings

Object = dict[str, Any]
Objects = list[Object]
Strings = dict[str, str]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")]
# an object's name; empty: none
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")]
Seconds = Annotated[int, Field(ge=0)]

# Labels by which clouds mark nodes that they may take back.
NOT_SPOT: Object = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "cloud.google.com/gke-spot", "operator": "NotIn", "values": ["true"]},
                        {"key": "karpenter.sh/capacity-type", "operator": "NotIn", "values": ["spot"]},
                        {"key": "eks.amazonaws.com/capacityType", "operator": "NotIn", "values": ["SPOT"]},
                        {"key": "kubernetes.azure.com/scalesetpriority", "operator": "NotIn", "values": ["spot"]},
                    ]
                }
            ]
        }
    }
}
PRIVATE = ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]
PUBLIC: Object = {"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE}}


class Part(BaseModel):
    """A part of the values: it has no others than these."""

    model_config = ConfigDict(extra="forbid")


def value(default: Any, why: str) -> Any:
    return Field(default_factory=lambda: default, description=why)


def part(kind: type[Part], why: str) -> Any:
    return Field(default_factory=kind, description=why)


def limits(cpu: str, memory: str, *, least_cpu: str, least_memory: str, disk: str = "1Gi") -> Object:
    """Resources of a container. Memory is reserved whole where both are the same: what is killed for memory is a lost trainer."""
    return {
        "requests": {"cpu": least_cpu, "memory": least_memory},
        "limits": {"cpu": cpu, "memory": memory, "ephemeral-storage": disk},
    }


class Image(Part):
    registry: str = value("", "Registry of this image; empty: `imageRegistry`")
    repository: str = value("", "Repository")
    tag: str = value("", "Tag; empty: the chart's appVersion")
    digest: str = Field(
        "", description="Digest (`sha256:...`), which wins over the tag", pattern=r"^(sha256:[0-9a-f]{64})?$"
    )
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = value("IfNotPresent", "Pull policy")


def image(repository: str, tag: str = "") -> Any:
    why = "Image"
    return Field(default_factory=lambda: Image(repository=repository, tag=tag), description=why)


class ServiceAccount(Part):
    create: bool = value(True, "Make the service account")
    name: Name = value("", "Its name; empty: the part's own")
    annotations: Strings = value({}, "Annotations, for workload identity")


class Scheduling(Part):
    """Where pods go, the same words everywhere."""

    nodeSelector: Strings = value({}, "Node selector")
    tolerations: Objects = value([], "Tolerations")
    affinity: Object = value({}, "Affinity")
    topologySpreadConstraints: Objects = value([], "Topology spread")
    priorityClassName: Name = value("", "Priority class")
    podLabels: Strings = value({}, "More labels of the pods")
    podAnnotations: Strings = value({}, "Annotations of the pods")


class Extras(Scheduling):
    extraEnv: Objects = value([], "More environment variables, as Kubernetes has them")
    extraEnvFrom: Objects = value([], "More sources of environment variables")
    extraVolumes: Objects = value([], "More volumes")
    extraVolumeMounts: Objects = value([], "Where they are mounted")


class Service(Part):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = value("ClusterIP", "Kind of Service. It speaks plain HTTP")
    port: int = Field(8470, ge=1, le=65535, description="Port of the Service")
    annotations: Strings = value({}, "Annotations")


class DataVolume(Part):
    size: Quantity = value("20Gi", "Size: packages, keys, and SQLite's file where there is no Postgres")
    storageClassName: Name = value("", "Storage class; empty: the cluster's default")
    existingClaim: Name = value("", "A claim that is there already")
    retain: bool = value(True, "Keep the claim when the release is uninstalled")


class DisruptionBudget(Part):
    enabled: bool = value(True, "Make a PodDisruptionBudget")
    maxUnavailable: int = Field(
        1,
        ge=0,
        le=1,
        description="With 0 no node that has the pod can be drained; training goes on while the pod moves",
    )


_CHART_S = {
    "data", "host", "port", "database_url", "ray_address", "ray_auth_token", "ray_python", "public_url", "checkpoints",
    "metrics_port", "metrics_token", "secrets_key", "secrets_key_file",
    "node_groups",
}  # fmt: skip


def settings_model() -> type[Part]:
    """The control plane's own settings, but for those that the chart itself sets: their names and types are the service's."""
    fields: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name in _CHART_S:
            continue
        kind = str if name == "storage_protocols" else field.rebuild_annotation()
        fields[name] = (kind | None, Field(None, description=f"`SUREFOOT_{name.upper()}`"))
    return create_model("Settings", __base__=Part, **fields)


class ControlPlane(Extras):
    image: Image = image("surefoot/control-plane")
    publicUrl: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="How the Ray cluster reaches the control plane; empty: the Service's name in this cluster",
    )
    settings: settings_model() = Field(  # type: ignore[valid-type]
        default_factory=dict,
        description="Settings of the service, by their names; unset: the service's defaults (docs/reference/settings.md)",
    )
    resources: Object = value(limits("2", "1Gi", least_cpu="250m", least_memory="512Mi"), "Resources")
    persistence: DataVolume = part(DataVolume, "The data folder")
    service: Service = part(Service, "Service")
    serviceAccount: ServiceAccount = part(ServiceAccount, "Service account; no token of it is mounted")
    podDisruptionBudget: DisruptionBudget = part(DisruptionBudget, "Disruption budget")
    terminationGracePeriodSeconds: Seconds = value(60, "Time to end requests and transactions")
    affinity: Object = value(NOT_SPOT, "Affinity; by default not on nodes that may be taken back")


class Token(Part):
    existingSecret: Name = value("", "Secret with the users' token; empty: a Job makes one, once")
    key: str = value("token", "Its key")


class SecretsKey(Part):
    existingSecret: Name = value(
        "",
        "Secret with the keys that secrets are encrypted with, one a line, newest first (each 32 bytes in URL-safe base64); empty: "
        "`secrets.key` on the data volume, made once",
    )
    key: str = value("secrets-key", "Its key")


class DatabaseUrl(Part):
    existingSecret: Name = value(
        "", "Secret with the URL of a Postgres (`postgresql+psycopg://...`); empty: SQLite on the data volume"
    )
    key: str = value("url", "Its key")


class CheckpointVolume(Part):
    enabled: bool = value(True, "Keep checkpoints on a volume that control plane, head and workers mount")
    existingClaim: Name = value("", "A claim that is there already")
    size: Quantity = value("100Gi", "Size")
    storageClassName: Name = value(
        "", "Storage class, of a file system that many nodes mount; empty: the cluster's default"
    )
    accessModes: list[Literal["ReadWriteMany", "ReadWriteOnce"]] = value(
        ["ReadWriteMany"], "`ReadWriteOnce` is for clusters of one node"
    )
    retain: bool = value(True, "Keep the claim when the release is uninstalled")


class Checkpoints(Part):
    url: str = Field(
        "",
        pattern=r"^([a-z0-9]+://.+)?$",
        description="Where checkpoints are (`s3://bucket/path`, ...); empty: on the volume",
    )
    existingSecret: Name = value(
        "", "Secret whose keys are environment variables for this storage; empty: workload identity"
    )
    volume: CheckpointVolume = part(CheckpointVolume, "The volume, where there is no URL")


class RayAuth(Part):
    existingSecret: Name = value(
        "", "Secret with Ray's token, in the key `auth_token`; empty: the one that KubeRay makes"
    )


class ExternalRedis(Part):
    address: str = value("", "Address of your own Redis (`host:6379`); empty: the bundled one")
    existingSecret: Name = value(
        "", "Secret with its password; empty: a Job makes one, once (bundled), or there is none"
    )
    key: str = value("redis-password", "Its key")


class RocksDb(Part):
    size: Quantity = value("5Gi", "Size of the claim that KubeRay makes")
    storageClassName: Name = value("", "Storage class; empty: the cluster's default")


class FaultTolerance(Part):
    backend: Literal["none", "redis", "rocksdb"] = value(
        "redis",
        "Where the head keeps what it knows, so that training goes on without it. `rocksdb` needs KubeRay's feature gate "
        "`GCSFaultToleranceEmbeddedStorage`. It cannot be changed later (KubeRay's rule)",
    )
    redis: ExternalRedis = part(ExternalRedis, "Redis")
    rocksdb: RocksDb = part(RocksDb, "RocksDB on a claim of the head's")


class Autoscaling(Part):
    enabled: bool = value(True, "Let Ray's autoscaler (v2) ask for workers; otherwise each group has `minReplicas`")
    idleTimeoutSeconds: Seconds = value(300, "A worker that has had nothing to do for so long is given back")
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] = value("Default", "How fast it adds workers")
    resources: Object = value(
        limits("500m", "1Gi", least_cpu="250m", least_memory="512Mi"), "Resources of its container"
    )


class Market(Part):
    graceSeconds: Seconds = value(60, "How long after SIGTERM the node is still there; draining takes at most 5 s less")
    nodeSelector: Strings = value({}, "Nodes of this market")
    tolerations: Objects = value([], "Taints of its nodes")


MARKETS = {
    "on-demand": Market(),
    "gke-spot": Market(
        graceSeconds=15,
        nodeSelector={"cloud.google.com/gke-spot": "true"},
        tolerations=[
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ],
    ),
    "aws-spot": Market(graceSeconds=120, nodeSelector={"karpenter.sh/capacity-type": "spot"}),
}


class RayPod(Extras):
    resources: Object = value({}, "Resources; Ray sees the limits")
    shmSize: Quantity = value(
        "2Gi", "/dev/shm: 512 MiB for Ray's object store, the rest for data workers; counted in the memory limit"
    )
    tmpSize: Quantity = value(
        "20Gi", "/tmp: logs, packages, `pip` environments of jobs, and what these write to `run.output_dir`"
    )


class Head(RayPod):
    resources: Object = value(
        limits("2", "8Gi", least_cpu="1", least_memory="8Gi", disk="30Gi"), "Resources; no trainer runs here"
    )
    affinity: Object = value(NOT_SPOT, "Affinity; by default not on nodes that may be taken back")


class WorkerGroup(RayPod):
    minReplicas: int = Field(
        1,
        ge=0,
        description="Fewest workers. With none in any group a job waits for its nodes: it starts where the autoscaler could add enough",
    )
    maxReplicas: int = Field(
        1, ge=0, description="Most workers; 0 empties the group, which comes before taking it out of the values"
    )
    market: str = value("on-demand", "One of `ray.markets`: grace, node selector, tolerations")
    priority: int = Field(0, description="The autoscaler asks groups of a higher priority first")
    price: float | None = Field(
        None, ge=0, description="What a node of the group costs an hour, in `controlPlane.settings.currency`"
    )
    resources: Object = value(
        limits("4", "8Gi", least_cpu="4", least_memory="8Gi", disk="50Gi"),
        "Resources of a worker; GPUs are named in the limits",
    )
    cacheSize: Quantity = value(
        "10Gi",
        "Copies of jobs' data and `run.cache_dir`, for all trainers of the pod; what nobody uses goes when room is needed",
    )
    cacheVolume: Object = value(
        {},
        "The volume that they are in, in place of an `emptyDir` of that size: an `ephemeral` claim of a fast disk, say",
    )
    runtimeClassName: Name = value("", "Runtime class, where GPUs need one")
    rayLabels: Strings = value({}, "More of Ray's labels; `ray.io/market-type` is the market")
    resourceClaims: Objects = value(
        [], "Dynamic resource allocation: claims of the pod; name them in `resources.claims`"
    )


def _groups() -> Any:
    """As they are written, since a group has what it does not say from `workerDefaults`."""
    return {"cpu": {"minReplicas": 1, "maxReplicas": 4}}


class Ray(Part):
    enabled: bool = value(True, "Make a RayCluster; otherwise name one that is there")
    address: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="Of a cluster that is there: its dashboard's URL (`http://head:8265`)",
    )
    version: str = Field("2.60.0", pattern=r"^\d+\.\d+\.\d+$", description="Ray's version in the image")
    image: Image = image("surefoot/ray-node")
    auth: RayAuth = part(RayAuth, "Ray's token authentication, which is always on")
    labels: Strings = value({}, "Labels of the RayCluster, such as `kueue.x-k8s.io/queue-name`")
    annotations: Strings = value({}, "Annotations of the RayCluster")
    upgradeStrategy: Literal["None", "Recreate"] = value(
        "None", "What a changed pod template does to pods that run: nothing, or all are replaced at once"
    )
    serviceAccount: ServiceAccount = part(
        ServiceAccount, "Service account of the workers; the head's is named `...-head`, with the same annotations"
    )
    faultTolerance: FaultTolerance = part(FaultTolerance, "What survives the head")
    autoscaling: Autoscaling = part(Autoscaling, "Autoscaling")
    markets: dict[str, Market] = Field(
        default_factory=lambda: MARKETS,
        description="Kinds of nodes: how they are chosen, and how much notice they give",
    )
    head: Head = part(Head, "The head")
    workerDefaults: WorkerGroup = part(
        WorkerGroup, "What a group has that does not say otherwise; a key of the group's replaces the whole of it"
    )
    workerGroups: dict[Annotated[str, Field(pattern="^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$")], WorkerGroup] = Field(
        default_factory=_groups,
        description="Groups of workers by name, each with the keys of `ray.workerDefaults`; `cpu: null` takes this one out. "
        "The trainers of one job have to be of one device model, so give a RayCluster one",
    )


class Redis(Scheduling):
    image: Image = Field(
        default_factory=lambda: Image(registry="docker.io", repository="library/redis", tag="8.2-alpine"),
        description="Image of the bundled Redis",
    )
    resources: Object = value(limits("500m", "512Mi", least_cpu="100m", least_memory="256Mi"), "Resources")
    size: Quantity = value("2Gi", "Size of its claim")
    storageClassName: Name = value("", "Storage class; empty: the cluster's default")
    affinity: Object = value(NOT_SPOT, "Affinity; by default not on nodes that may be taken back")


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


class Hooks(Part):
    enabled: bool = value(
        True,
        "Run Jobs as Helm hooks. Off for Argo CD, Flux, Terraform: then they are plain Jobs, and the guard of worker groups is none",
    )
    resources: Object = value(limits("500m", "256Mi", least_cpu="100m", least_memory="128Mi"), "Resources of a Job")


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
