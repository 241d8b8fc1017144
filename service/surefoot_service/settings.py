"""What the control plane can be told: the environment (SUREFOOT_...), or `surefoot up`'s options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from surefoot.output import DEFAULT_MAX_OUTPUT_BYTES
from surefoot_service.checkpoints.places import PROTOCOLS, read_place
from surefoot_service.scheduler.prices import GroupSetting

__all__ = ["KIB", "MIB", "Settings"]

KIB = 1024
MIB = 1024 * KIB


class Settings(BaseSettings):
    """Every setting, with the defaults of a laptop."""

    model_config = SettingsConfigDict(env_prefix="SUREFOOT_", frozen=True, extra="ignore")

    # everything but Ray's session: database, packages, token
    data: Path = Path("~/.surefoot")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8470
    # SQLAlchemy URL; None: SQLite in the data folder
    database_url: str | None = None
    # the Ray dashboard's URL, http://head:8265; None: `surefoot up` starts a head of its own
    ray_address: str | None = None
    # of a Ray cluster with token authentication
    ray_auth_token: SecretStr | None = None
    # what secrets are encrypted with: Fernet keys (44 characters of base64), with commas; the first one encrypts, all of them decrypt.
    # None: those in the file
    secrets_key: SecretStr | None = None
    # a file with such keys, one a line: a mounted one. None: secrets.key in the data folder, which is made where it is missing
    secrets_key_file: Path | None = None
    # what runs the launcher on the cluster; `up` with its own head takes its own interpreter
    ray_python: str = "python"
    # how the cluster reaches this service; None: http://host:port
    public_url: str | None = None
    # a code package's zip, as uploaded; Ray takes less than 100 MiB
    max_package_bytes: Annotated[int, Field(ge=1)] = 100 * MIB - 1
    # and all that is in it, unpacked
    max_unpacked_bytes: Annotated[int, Field(ge=1)] = 1024 * MIB
    max_package_entries: Annotated[int, Field(ge=1)] = 20_000
    # what a supervisor posts at a time; it halves its batches where they are above
    max_body_bytes: Annotated[int, Field(ge=1)] = 2 * MIB
    # a job's spec: it is in every answer about the job
    max_spec_bytes: Annotated[int, Field(ge=1)] = 256 * KIB
    # events and ledger rows of one job, as they are stored: a job whose attempts tell more fails. A row has some 300 bytes
    max_told_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * MIB
    # connections at a time; a few more are taken for health and attempts. Fewer where the process may not have so many files open
    max_connections: Annotated[int, Field(ge=1)] = 1000
    # how long a connection may take to ask for something, its first time and between requests
    request_s: Annotated[float, Field(gt=0)] = 15.0
    # how long a body may take: so many seconds, and as long again as its bytes take at this rate
    body_grace_s: Annotated[float, Field(gt=0)] = 10.0
    body_bytes_per_s: Annotated[float, Field(gt=0)] = 8.0 * KIB
    # how long whoever asked may leave an answer unread
    unread_s: Annotated[float, Field(gt=0)] = 30.0
    # where jobs that name no place have their checkpoints: a folder that every node sees, or an fsspec URL; None: in the data folder
    checkpoints: str | None = None
    # where checkpoints and models may lie, by the names of fsspec, with commas: what reaches any host ("http") is not for everybody
    storage_protocols: Annotated[tuple[str, ...], NoDecode] = PROTOCOLS
    # where printed lines are kept: a folder, or an fsspec URL; None: in the data folder
    logs: str | None = None
    # files of printed lines of one job, as they are kept, compressed: the oldest go where there are more
    max_log_bytes: Annotated[int, Field(ge=MIB)] = 512 * MIB
    # files that the training code of one job writes to run.output_dir, as they are kept: what is beyond that is left out, and told
    max_output_bytes: Annotated[int, Field(ge=MIB)] = DEFAULT_MAX_OUTPUT_BYTES
    # how long a cancelled job's supervisor has to confirm before the job is cleaned up without it
    cancel_grace_s: Annotated[float, Field(gt=0)] = 30.0

    # the kinds of nodes that the cluster has or can be given, by name, as JSON: {"gpu-spot": {"cpus": 6, "gpus": 1, "max_nodes": 32,
    # "market": "gke-spot", "price_per_hour": 0.7}}. A name is Ray's label `ray.io/node-group`, which KubeRay sets
    node_groups: Annotated[dict[str, GroupSetting], Field(max_length=100)] = Field(default_factory=dict)
    # how long a trainer waits for a node of the cheapest of these before a dearer one is asked for
    node_wait_s: Annotated[float, Field(gt=0)] = 300.0
    # how long a started job waits for its fewest trainers before it gives back what it has, where an earlier job waits for the same nodes
    start_wait_s: Annotated[float, Field(gt=0)] = 1800.0
    # what prices are in
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"

    # Prometheus reads /metrics with the user's token, or with this one, which opens nothing else; None: there is no such token
    metrics_token: SecretStr | None = None
    # and on this port of its own without any token, for a network that keeps strangers out; None: there is no such port
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    # how many of the newest jobs that go on have series of their own there
    metrics_jobs: Annotated[int, Field(ge=0, le=10_000)] = 200

    # ended jobs are deleted so many days after their end, and all but so many of the newest; None: a job stays until it is deleted
    keep_ended_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    keep_ended_jobs: Annotated[int, Field(ge=0)] | None = None
    # whether these rules remove a job's checkpoints and final model with it
    retention_removes_checkpoints: bool = False
    # a package that no job refers to is removed so long after its upload; what is uploaded is submitted within seconds
    unused_package_hours: Annotated[float, Field(ge=0.1, le=876_000)] = 24.0
    # how many of the newest audit entries stay
    keep_audit_entries: Annotated[int, Field(ge=1000)] = 100_000

    @field_validator("data", mode="after")
    @classmethod
    def _home_is_expanded(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:  # "~somebody" who is not there
            raise ValueError(f"{value} cannot be found: {error}") from None

    @field_validator("ray_address", "public_url", mode="after")
    @classmethod
    def _urls_have_no_tail(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f'{value!r} must be a URL that starts with "http://" or "https://"')
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError("leave the user and password out of the URL: it is told to whoever may list Ray's jobs")
        return value.rstrip("/") if value else value

    @field_validator("checkpoints", "logs", mode="after")
    @classmethod
    def _home_of_checkpoints_is_expanded(cls, value: str | None) -> str | None:
        return os.path.expanduser(value) if value and value.startswith("~") else value

    @field_validator("storage_protocols", mode="before")
    @classmethod
    def _protocols_are_split(cls, value: Any) -> Any:
        return tuple(p.strip() for p in value.split(",") if p.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _checkpoints_may_lie_there(self) -> Settings:
        read_place(self.checkpoint_place, self.storage_protocols)
        if self.logs is not None:  # the data folder is the service's own
            read_place(self.log_place, self.storage_protocols)
        return self

    @property
    def checkpoint_place(self) -> str:
        return (self.checkpoints or str(self.data / "checkpoints")).rstrip("/")

    @property
    def log_place(self) -> str:
        return (self.logs or str(self.data / "logs")).rstrip("/")

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data / 'surefoot.db'}"

    @property
    def url(self) -> str:
        """How the cluster reaches this service."""
        if self.public_url:
            return self.public_url
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
