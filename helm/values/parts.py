"""What all rooms of the values are made of: how a value is said, and the parts that several of them have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
