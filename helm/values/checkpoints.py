"""Where checkpoints are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from values.parts import Name, Part, Quantity, part, value


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
