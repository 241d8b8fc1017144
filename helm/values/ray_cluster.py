"""The Ray cluster: its head, its groups of workers, and the Redis that keeps what the head knows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from values.parts import (
    NOT_SPOT,
    Extras,
    Image,
    Name,
    Object,
    Objects,
    Part,
    Quantity,
    Scheduling,
    Seconds,
    ServiceAccount,
    Strings,
    image,
    limits,
    part,
    value,
)


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
