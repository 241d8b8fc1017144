"""The control plane: its pod and service, its settings, and the secrets that it is given."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model

from surefoot_service.settings import Settings
from values.parts import (
    NOT_SPOT,
    Extras,
    Image,
    Name,
    Object,
    Part,
    Quantity,
    Seconds,
    ServiceAccount,
    Strings,
    image,
    limits,
    part,
    value,
)


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
