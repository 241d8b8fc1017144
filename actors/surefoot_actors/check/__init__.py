"""`surefoot check`: the doctor for users' own code. Trains a few steps in many ways and compares the bits.

Probes are single processes that differ from the reference in one thing each (pins.py, probe.py), so that a difference has a cause;
attempts are whole ones on real trainers (attempts.py), which must equal the reference whatever the cause of a difference may be.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from surefoot._paths import folder_at
from surefoot.data import DataSource, sources_of
from surefoot.errors import EntrypointError, SpecError
from surefoot.spec import JobSpec
from surefoot_actors.check.attempts import run_attempts, trials
from surefoot_actors.check.children import AGAIN, BACKWARDS, HASHES, REFERENCE, VARIED, Probes, joiners
from surefoot_actors.check.extent import FEWEST_STEPS, Extent
from surefoot_actors.check.mirror import Mirror
from surefoot_actors.check.probe import Seen
from surefoot_actors.check.report import Finding, Kind, Report, Scenario
from surefoot_actors.check.templates import Templates
from surefoot_actors.check.verdict import judge, notes, scenarios
from surefoot_actors.node_data.cache import NodeCache, cache_root
from surefoot_actors.node_data.locks import Holds
from surefoot_actors.node_data.places import Copier, Printed

__all__ = ["Finding", "Kind", "Report", "Scenario", "check"]

# For one process or attempt, far above what a few steps should take.
PATIENCE_S = 600.0


def check(
    *,
    entrypoint: str,
    folder: Path | str = ".",
    batch_size: int,
    sub_tasks: int = 8,
    steps: int | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    threads: int = 1,
    data_workers: int = 0,
    env: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Report:
    """Train a few steps of "module:function" in `folder` in every way, and tell what differs and why.

    Without `steps` it trains until an epoch has ended and some steps more, within bounds. The code is run in a copy of the folder.
    Raises EntrypointError for a folder that is none; SpecError for numbers that do not fit together, and for fewer steps than it takes
    to let a trainer join.
    """
    if steps is not None and steps < FEWEST_STEPS:
        raise SpecError(
            f"steps {steps} is below {FEWEST_STEPS}: fewer leave no room for a trainer to be lost and another to join"
        )
    spec = _spec(
        entrypoint=entrypoint,
        batch_size=batch_size,
        sub_tasks=sub_tasks,
        seed=seed,
        config=dict(config or {}),
        threads=threads,
        data_workers=data_workers,
        env=dict(env or {}),
        data=sources_of(data or {}),
    )
    holds, root = Holds(), folder_at(folder, EntrypointError)
    with closing(holds), Templates(spec) as templates:
        spec = spec.model_copy(update={"data": _copied(spec.data, holds)})
        return compare(templates, spec, root, steps)


def _copied(sources: Mapping[str, DataSource], holds: Holds) -> dict[str, DataSource]:
    """Have what is to be copied copied before anything is tried; the trials read that in place."""
    copier = Copier(NodeCache(cache_root(os.environ), holds), Printed())
    places = copier.data(sources)
    return {name: DataSource(url=str(places[name]), copy=False) for name in sources}


def compare(templates: Templates, spec: JobSpec, folder: Path, steps: int | None) -> Report:
    """Do what `check` does, with processes for a spec of the same environment and threads."""
    with tempfile.TemporaryDirectory(prefix="sf-check-") as scratch:
        out = Path(scratch).resolve()
        (out / "probes").mkdir()
        mirror = Mirror(folder.resolve(), out / "folder")
        probes = Probes(templates, spec, mirror.place, out / "probes", PATIENCE_S)
        seen = probes.run(Extent(batch_size=spec.batch_size) if steps is None else steps)
        reference = seen[REFERENCE]
        if reference.failure is None:
            seen |= run_attempts(spec, reference, mirror.place, out, PATIENCE_S, probes.imported)
        written = tuple(mirror.written())
    return _report(spec, seen, written)


def _report(spec: JobSpec, seen: dict[str, Seen], written: tuple[str, ...]) -> Report:
    attempts = (trial.name for trial in trials(spec.sub_tasks))
    names = (REFERENCE, AGAIN, HASHES, *VARIED.values(), BACKWARDS, *joiners(seen), *attempts)
    findings = judge(seen)
    return Report(
        entrypoint=spec.entrypoint,
        steps=len(seen[REFERENCE].rows),
        scenarios=scenarios(seen, names),
        findings=findings,
        notes=() if findings else notes(seen[REFERENCE]),
        written=written,
    )


def _spec(**fields: Any) -> JobSpec:
    try:
        return JobSpec(package="0" * 64, **fields)
    except ValidationError as error:
        raise SpecError("; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())) from None
