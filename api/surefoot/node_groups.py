"""The kinds of nodes that a cluster has or can be given: what a node of each has, costs, and how many there may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from surefoot.events import Event, EventKind

__all__ = ["NodeGroup", "kinds_of_trainers"]

# Ray's own words for where a node comes from, as events have them: which of its labels says what is in the actors' `environment`.
_KIND = ("group", "market", "device")
_MOST = 1_000_000


def _quantity(value: Any) -> Any:
    """A number, also as Kubernetes writes it ("500m" is a half); KubeRay tells Ray whole CPUs, rounded up."""
    text = value.strip() if isinstance(value, str) else ""
    try:
        return math.ceil(float(text[:-1]) / 1000) if text.endswith("m") else value
    except ValueError:
        return value


Amount = Annotated[float, BeforeValidator(_quantity), Field(ge=0, le=_MOST, allow_inf_nan=False)]


class NodeGroup(BaseModel):
    """Nodes of one kind. Read leniently: a newer service may know more of them."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    cpus: Amount = 0.0
    """What Ray may use of a node."""
    gpus: Amount = 0.0
    """GPUs of a node."""
    max_nodes: Annotated[int, Field(ge=0, le=_MOST)] | None = None
    """How many there may be; null: none is added by itself."""
    market: Annotated[str, Field(max_length=63)] = ""
    """How they are bought ("on-demand", "gke-spot"), as Ray's label `ray.io/market-type` has it."""
    device: Annotated[str, Field(max_length=63)] = ""
    """The model of their GPUs, as Ray's label `ray.io/accelerator-type` has it; empty: none, or not known."""
    price_per_hour: Annotated[float, Field(ge=0, le=_MOST, allow_inf_nan=False)] | None = None
    """What a whole node costs an hour, in the service's currency; null: not known."""
    priority: int = 0
    """Of two groups that cost the same, or whose prices are not known, the one of the higher priority is taken first."""


def kinds_of_trainers(events: Iterable[Event]) -> Mapping[str, Mapping[str, str]]:
    """By trainer that is in the newest generation, the kind of its node: group, market and device, where they were told."""
    kinds: dict[str, dict[str, str]] = {}
    members: object = ()
    for event in events:
        if event.kind is EventKind.TRAINER_READY:
            kinds[str(event.data.get("trainer"))] = {n: str(event.data[n]) for n in _KIND if event.data.get(n)}
        elif event.kind is EventKind.GENERATION:
            members = event.data.get("trainers")
    listed: list[JsonValue] = members if isinstance(members, list) else []
    return {str(trainer): kinds.get(str(trainer), {}) for trainer in listed}
