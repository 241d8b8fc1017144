"""What `surefoot check` found: values, and how they read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Kind", "Report", "Scenario"]

_MOST_NAMES = 8


class Kind(StrEnum):
    """What was found."""

    BROKEN_RULE = "broken_rule"  # the contract's own error, told at once
    RAISES = "raises"  # the train function raises, or its process dies, however it is run
    RAISES_IN_SOME = "raises_in_some"  # it does in some scenarios only
    OWN_RANDOMNESS = "own_randomness"  # random numbers that the job's seed does not decide
    WALL_CLOCK = "wall_clock"  # the time of day or a stopwatch decides
    HASH_ORDER = "hash_order"  # the order of a set, or hash(), decides
    PROCESS_STATE = "process_state"  # what this process computed before decides
    UNTRACKED_STATE = "untracked_state"  # a trainer that joins does not get it
    NOT_REPEATABLE = "not_repeatable"  # the same process twice, and other bits
    TRAINER_DEPENDENCE = (
        "trainer_dependence"  # other bits on other trainers, for no cause known: the code's doing or Surefoot's
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One way in which the code breaks the promise."""

    kind: Kind
    message: str
    # what to do about it
    mend: str
    # first step whose bits differ; -1: before the first; None where no bits were compared
    step: int | None = None
    # first tensor or logged value that differs; "" where unknown
    tensor: str = ""
    # "file.py:12", relative to the folder, likeliest first
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way of training the same steps."""

    name: str
    # None: it was not run
    same: bool | None
    # where it differs, or how it failed; "" where it is the same
    detail: str
    seconds: float
    # it raised, or did not come to its end
    fails: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was tried, and what is wrong."""

    entrypoint: str
    steps: int
    scenarios: tuple[Scenario, ...]
    findings: tuple[Finding, ...]
    # worth a look, but no violation that was seen
    notes: tuple[str, ...] = ()
    # what the code wrote in its working folder, relative to it
    written: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every scenario was run and made the same bits, and nothing was found."""
        return not self.findings and all(scenario.same for scenario in self.scenarios)

    def render(self) -> list[str]:
        """Return the report as lines of plain text."""
        width = max((len(s.name) for s in self.scenarios), default=0)
        lines = [f"{self.entrypoint}, {self.steps} steps, compared bit for bit"]
        lines += [_line_of(scenario, width) for scenario in self.scenarios]
        for finding in self.findings:
            lines += ["", *_lines_of(finding)]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        if self.written:
            lines += ["", f"your code wrote: {_some(self.written)} (in a copy of the folder, which is gone)"]
        return [*lines, "", f"{self._verdict()} ({sum(s.seconds for s in self.scenarios):.0f} s of trials)"]

    def _verdict(self) -> str:
        kinds = {finding.kind for finding in self.findings}
        if self.ok:
            return "it keeps the promise in all that was tried"
        if not kinds:
            return "no difference was seen, but not all was tried"
        if kinds == {Kind.RAISES}:
            return "the training code raises, so it is not known whether it keeps the promise"
        if kinds == {Kind.TRAINER_DEPENDENCE}:
            return "the promise is not kept, by the training code or by Surefoot"
        return "it does not keep the promise"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _line_of(scenario: Scenario, width: int) -> str:
    mark = "FAILS" if scenario.fails else {True: "same", False: "DIFFERS", None: "not run"}[scenario.same]
    text = f"  {scenario.name:<{width}}  {mark:<8}{scenario.seconds:5.1f} s"
    return f"{text}  {scenario.detail}" if scenario.detail else text


def _lines_of(finding: Finding) -> list[str]:
    lines = [f"{finding.kind}: {finding.message}"]
    if finding.step is not None:
        where = f"in step {finding.step}" if finding.step >= 0 else "before the first step"
        lines.append(f"  first difference: {where}" + (f", {finding.tensor}" if finding.tensor else ""))
    lines += [f"  at {line}" for line in finding.lines]
    return [*lines, f"  mend: {finding.mend}"]
