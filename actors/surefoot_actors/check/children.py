"""Has probes performed in processes of their own, and gathers what they saw."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from surefoot.spec import JobSpec
from surefoot_actors.check.child import IMPORTED, ProbeRequest
from surefoot_actors.check.extent import Extent
from surefoot_actors.check.libraries import libraries
from surefoot_actors.check.pins import Factor
from surefoot_actors.check.probe import BROKEN, NO_END, Failure, Probe, Seen
from surefoot_actors.check.templates import Template, Templates

__all__ = [
    "AGAIN",
    "BACKWARDS",
    "HASHES",
    "REFERENCE",
    "VARIED",
    "Probes",
    "joined_at",
    "joiner",
    "joiners",
    "steps_to_join_at",
]

REFERENCE, AGAIN, HASHES = "one trainer", "again in a fresh process", "another PYTHONHASHSEED"
BACKWARDS = "sub-tasks in another order"
VARIED = {
    Factor.ENTROPY: "other entropy",
    Factor.CLOCK: "at another time",
    Factor.IDENTITY: "another pid and host name",
}
_JOINER = "a joiner at step "
# How many changes of structure or data a joiner is tried after, and how many steps a joiner makes that is not the first.
_MOST_CHANGES = 4
_JOINERS_STEPS = 3


def joiner(step: int) -> str:
    """The name of the scenario where a trainer joins at this step."""
    return f"{_JOINER}{step}"


def joined_at(name: str) -> int:
    """The step of such a scenario."""
    return int(name.removeprefix(_JOINER))


def joiners(names: Iterable[str]) -> list[str]:
    """Return those of the names that are such scenarios', the earliest first."""
    return sorted((name for name in names if name.startswith(_JOINER)), key=joined_at)


def steps_to_join_at(num_steps: int, changes: Sequence[int]) -> list[int]:
    """Return where joiners begin: early, in the middle, last, and after each change of structure or data."""
    wanted = {1, num_steps // 2, num_steps - 1, *(step + 1 for step in changes[:_MOST_CHANGES])}
    return sorted(step for step in wanted if 1 <= step < num_steps)


@dataclass
class Probes:
    """The probes of one check."""

    templates: Templates
    spec: JobSpec
    folder: Path
    # a folder of its own
    out: Path
    patience_s: float
    # libraries that were imported without harm
    imported: list[str] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def run(self, steps: int | Extent) -> dict[str, Seen]:
        """Perform all; return what they saw, by name, the reference first. Where that failed, only what tells whether it always does."""
        seen = self._perform({self.templates.main: [Probe(name=REFERENCE, watches=True)]}, steps)
        reference = seen[REFERENCE]
        if reference.failure is not None:
            certain = reference.failure.kind in (BROKEN, NO_END)
            return seen if certain else seen | self._perform({self.templates.again: [Probe(name=AGAIN)]}, steps)
        num_steps = len(reference.rows)
        joins = steps_to_join_at(num_steps, reference.changes)
        states = str(self.out)
        alone = {
            self.templates.main: [
                *(Probe(name=name, varied=factor) for factor, name in VARIED.items()),
                Probe(name=BACKWARDS, backwards=True),
            ],
            self.templates.again: [Probe(name=AGAIN, saves=tuple(joins), states=states)],
            self.templates.hashes: [Probe(name=HASHES)],
        }
        seen |= self._perform(alone, num_steps)
        if seen[AGAIN].failure is None:
            seen |= self._perform({self.templates.main: self._joiners(joins, num_steps)}, num_steps)
        return seen

    def _joiners(self, joins: Sequence[int], num_steps: int) -> list[Probe]:
        ends = [num_steps, *(min(num_steps, step + _JOINERS_STEPS) for step in joins[1:])]
        return [
            Probe(name=joiner(step), joins=step, states=str(self.out), ends=end)
            for step, end in zip(joins, ends, strict=False)
        ]

    def _perform(self, wanted: Mapping[Template, Sequence[Probe]], steps: int | Extent) -> dict[str, Seen]:
        num_parallel = max(1, (os.cpu_count() or 2) + 1 - len(wanted))
        requests = [
            (template, self._request(probes, steps, num_parallel if template is self.templates.main else 1))
            for template, probes in wanted.items()
        ]
        until = time.monotonic() + self.patience_s
        for template, request in requests:
            template.begin(request)
        ended = [template.wait(until) for template, _ in requests]
        return {
            probe.name: self._seen(request, probe, in_time=in_time)
            for (_, request), in_time in zip(requests, ended, strict=True)
            for probe in request.probes
        }

    def _request(self, probes: Sequence[Probe], steps: int | Extent, num_parallel: int) -> ProbeRequest:
        out = self.out / f"request-{next(self._numbers)}"
        out.mkdir()
        return ProbeRequest(
            spec=self.spec,
            steps=steps,
            folder=str(self.folder),
            out=str(out),
            libraries=tuple(libraries(self.folder, self.spec.entrypoint)),
            probes=tuple(probes),
            num_parallel=num_parallel,
        )

    def _seen(self, request: ProbeRequest, probe: Probe, *, in_time: bool) -> Seen:
        out = Path(request.out)
        if (out / IMPORTED).exists():
            self.imported = (out / IMPORTED).read_text().split()
        file = out / f"{probe.name}.json"
        if file.exists():
            return Seen.from_json(file.read_text())
        what = "its process died" if in_time else f"it did not end within {self.patience_s:.0f} s"
        return Seen(failure=_ended("died" if in_time else NO_END, what, out / f"{probe.name}.log"))


def _ended(kind: str, what: str, log: Path) -> Failure:
    tail = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
    last = f"; it last wrote: {tail.splitlines()[-1]}" if tail else ""
    return Failure(kind=kind, message=f"{what}{last}", line="", traceback=tail)
