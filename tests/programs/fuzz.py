"""Programs made of pieces, run in many ways: `python tests/programs/fuzz.py --minutes 60`.

A finding is made simpler as far as it stays one, and printed with the command that shows it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import secrets
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

if not __package__:
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "programs"
    import programs.runner

    assert programs.runner
from surefoot.contract import Step
from surefoot.errors import ContractError

from .joiner import Loss, Parted, Story, act
from .runner import Program, difference, restored_apart, run_local

import recipes as pieces  # isort: skip  the library is on the path by now
from recipes import CHOICES, LAYERS, Recipe  # isort: skip

__all__ = ["Case", "cases", "look", "simplest", "trouble"]

# how often programs were refused, by the beginning of what is said
REFUSED: Counter[str] = Counter()
ACCUMULATES = "accumulate" in inspect.signature(Step.batches).parameters


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program, and who is there when."""

    recipe: Recipe
    story: Story
    # the step of the checkpoint that a second run goes on from; 0: none
    restore: int = 0

    def to_json(self) -> str:
        told = {"recipe": self.recipe.fields(), "story": dataclasses.asdict(self.story), "restore": self.restore}
        return json.dumps(told)

    @staticmethod
    def from_json(text: str) -> Case:
        told = json.loads(text)
        story = told["story"]
        story["losses"] = tuple(Loss(**loss) for loss in story["losses"])
        story["joins"] = tuple(story["joins"])
        return Case(recipe=pieces.read(told["recipe"]), story=Story(**story), restore=told["restore"])

    @property
    def command(self) -> str:
        """Return the command that tries it again."""
        return f"python tests/programs/fuzz.py --case {shlex.quote(self.to_json())}"


def _losses(steps: int) -> st.SearchStrategy[tuple[Loss, ...]]:
    one = st.builds(
        Loss, step=st.integers(0, steps - 1), member=st.integers(0, 2), turn=st.sampled_from([0, 1, 2, None])
    )
    return st.lists(one, max_size=3).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any recipe, any story."""
    chosen = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}
    if not ACCUMULATES:
        chosen["accumulate"] = False
    # processes are dear: now and then is enough
    chosen["workers"] = chosen["workers"] if draw(st.integers(0, 9)) == 0 else 0
    steps = draw(st.integers(3, 7))
    recipe = Recipe(
        layers=tuple(draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=3))),
        at=draw(st.integers(1, steps - 1)),
        steps=steps,
        sub_tasks=draw(st.integers(1, 6)),
        samples=draw(st.integers(2, 5)),
        seed=draw(st.integers(0, 99)),
        **chosen,
    )
    story = Story(
        trainers=draw(st.integers(1, min(3, recipe.sub_tasks))),
        losses=draw(_losses(steps)),
        joins=tuple(sorted(draw(st.lists(st.integers(1, steps - 1), max_size=3)))),
        backwards=draw(st.booleans()),
    )
    return Case(recipe=recipe, story=story, restore=draw(st.integers(0, steps - 1)))


def program_of(recipe: Recipe) -> Program:
    """Return the recipe as a program of the library."""
    return Program(
        train=pieces.train,
        steps=recipe.steps,
        batch_size=recipe.sub_tasks * recipe.samples,
        sub_tasks=recipe.sub_tasks,
        data_workers=recipe.workers,
        config={"recipe": recipe.fields(), "seed": recipe.seed},
    )


def trouble(case: Case) -> str:
    """Return in words where the promise is not kept; "" where it is, or where the program is refused at once."""
    program = program_of(case.recipe)
    fields: dict[str, Any] = {
        "config": {"recipe": case.recipe.fields()},
        "batch_size": program.batch_size,
        "sub_tasks": program.sub_tasks,
        "seed": case.recipe.seed,
    }
    try:
        whole = run_local(program.train, **fields)
    except ContractError as refusal:
        # the library tests which kinds may be
        REFUSED[re.sub(r"\d+|\w+\.py:\d+|'.*?'", "_", str(refusal))[:90]] += 1
        return ""
    except Exception as error:  # noqa: BLE001  a program may fail in any way: that is what is told
        return f"run_local fails: {type(error).__name__}: {error}"
    try:
        if case.recipe.workers:
            apart = difference(whole, run_local(program.train, data_workers=case.recipe.workers, **fields))
            if apart:
                return f"data workers: {apart}"
        apart = difference(whole, act(program.train, case.story, data_workers=case.recipe.workers, **fields))
        if apart:
            return apart
        return restored_apart(program.train, whole, case.restore, fields) if case.restore else ""
    except Parted as parted:
        return str(parted)
    except Exception as error:  # noqa: BLE001  as above
        return f"only some runs fail: {type(error).__name__}: {error}"


def simplest(case: Case, fails: Callable[[Case], bool], within_s: float = 60.0) -> Case:
    """Return a case that fails as this one does and is as plain as can be found in this time."""
    ends = time.monotonic() + within_s
    found = True
    while found and time.monotonic() < ends:
        found = False
        for simpler in _simpler(case):
            if time.monotonic() < ends and fails(simpler):
                case, found = simpler, True
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    recipe, story = case.recipe, case.story
    if case.restore:
        yield replace(case, restore=0)
        yield replace(case, story=Story())
    for k in range(len(recipe.layers)):
        rest = recipe.layers[:k] + recipe.layers[k + 1 :]
        if rest:
            yield replace(case, recipe=replace(recipe, layers=rest))
        if recipe.layers[k] != "linear":
            yield replace(case, recipe=replace(recipe, layers=(*recipe.layers[:k], "linear", *recipe.layers[k + 1 :])))
    for name, values in CHOICES.items():
        if getattr(recipe, name) != values[0]:
            yield replace(case, recipe=replace(recipe, **{name: values[0]}))
    for k in range(len(story.losses)):
        yield replace(case, story=replace(story, losses=story.losses[:k] + story.losses[k + 1 :]))
    for k in range(len(story.joins)):
        yield replace(case, story=replace(story, joins=story.joins[:k] + story.joins[k + 1 :]))
    if story.trainers > 1:
        yield replace(case, story=replace(story, trainers=story.trainers - 1))
    if story.backwards:
        yield replace(case, story=replace(story, backwards=False))


class Finding(AssertionError):
    """A case that parts."""

    def __init__(self, case: Case, words: str) -> None:
        super().__init__(f"{words}\n  {case.recipe}\n  {case.story}, restore={case.restore}\n  again: {case.command}")
        self.case, self.words = case, words


def look(
    number: int, examples: int, *, until: float = float("inf"), on_case: Callable[[], None] = lambda: None
) -> None:
    """Try so many cases, decided by this seed, or until the time is over. Raises Finding, made as simple as could be."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(cases())
    def search(case: Case) -> None:
        if time.monotonic() > until:
            return
        on_case()
        words = trouble(case)
        if words:
            raise _Found(case)

    try:
        search()
    except _Found as found:
        case = simplest(found.case, lambda c: bool(trouble(c)))
        raise Finding(case, trouble(case)) from None


class _Found(Exception):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.case = case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of the first batch of cases; fresh by default")
    parser.add_argument("--case", help="one case, as a finding prints it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.case:
        words = trouble(Case.from_json(options.case))
        print(words or "well")
        return 1 if words else 0
    return _search(options.minutes, secrets.randbelow(2**32) if options.seed is None else options.seed)


def _search(minutes: float, number: int) -> int:
    began, tried = time.monotonic(), 0
    findings: dict[str, Finding] = {}

    def count() -> None:
        nonlocal tried
        tried += 1

    while time.monotonic() < began + 60 * minutes:
        try:
            look(number, 100, until=began + 60 * minutes, on_case=count)
        except Finding as finding:
            if findings.setdefault(str(sorted(finding.case.recipe.fields())), finding) is finding:
                print(f"FINDING (seed {number}): {finding}", flush=True)
        number += 1
    for words, times in REFUSED.most_common():
        print(f"refused {times} times: {words}")
    print(f"programs: {tried} tried in {(time.monotonic() - began) / 60:.0f} minutes, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
