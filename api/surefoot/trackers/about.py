"""What a tracker is told of a job, once, beside its points. No secret and no environment variable is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.views import JobView

__all__ = ["About", "about", "flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A job, for a tracker."""

    job: str
    # unique, and told by people: the job's name and id
    title: str
    # what defines the job beside its config
    facts: Mapping[str, str | int]
    config: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """The config, and the rest under "surefoot"."""
        return {**self.config, "surefoot": dict(self.facts)}


def about(view: JobView) -> About:
    """Return what to tell of a job."""
    spec = view.spec
    facts: dict[str, str | int] = {
        "job": view.id,
        "name": spec.name,
        "entrypoint": spec.entrypoint,
        "package": spec.package,
        "seed": spec.seed,
        "batch_size": spec.batch_size,
        "sub_tasks": spec.sub_tasks,
    }
    maybe = {"target": spec.target, "restore": spec.restore}
    facts |= {name: value for name, value in maybe.items() if value}
    return About(job=view.id, title=f"{spec.name}-{view.id}", facts=facts, config=spec.config)


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a config's values as text, by their path: {"model": {"dim": 3}} is {"model.dim": "3"}."""
    return {".".join(path): value if isinstance(value, str) else json.dumps(value) for path, value in _leaves(config)}


def _leaves(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
