"""The parts of the control plane, made once at its start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from surefoot_service.encryption import KeyRing
from surefoot_service.keys import Keys, KnownTokens
from surefoot_service.logs.keeper import LogKeeper
from surefoot_service.metrics.instruments import Instruments
from surefoot_service.packages.archive import PackageStore
from surefoot_service.readiness import Readiness
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database
from surefoot_service.store.usage import Accounts
from surefoot_service.tracing.exporter import SpanExporter
from surefoot_service.waiting import Waiting
from surefoot_service.wakeups import Wakeups

__all__ = ["ClusterStatus", "Service", "utc_now"]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class ClusterStatus:
    """What this process has seen of its cluster; found anew after a restart."""

    # whether it answered when last asked
    reachable: bool | None = None
    # when each attempt's supervisor last called
    heard: dict[str, datetime] = field(default_factory=dict)
    # whether this process takes ended attempts off a cluster
    watched: bool = False
    # whether there is to be one: an app without serves what it has stored, and its jobs wait
    expected: bool = False
    # asks the cluster whether it is there, raising RayError where not; None: it is still starting
    ask: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of the control plane."""

    settings: Settings
    database: Database
    packages: PackageStore
    keys: Keys
    logs: LogKeeper
    # what secrets are encrypted with
    key_ring: KeyRing
    # where traces go; None: nowhere, and none are made
    exporter: SpanExporter | None = None
    wakeups: Wakeups = field(default_factory=Wakeups)
    cluster: ClusterStatus = field(default_factory=ClusterStatus)
    tokens: KnownTokens = field(default_factory=KnownTokens)
    # what it needs, looked at; the probes are given once all of it is made
    readiness: Readiness = field(default_factory=Readiness)
    waiting: Waiting = field(default_factory=Waiting)
    # what this process has seen, for Prometheus
    instruments: Instruments = field(default_factory=Instruments)
    # what jobs have used, as far as their events were read
    accounts: Accounts = field(default_factory=Accounts)
    now: Callable[[], datetime] = utc_now
