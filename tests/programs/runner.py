"""Runs one program in many ways, and tells where its promise is not kept.

`python tests/programs/runner.py [NAME ...]` runs the programs of these names, or all; the words of a finding tell what parts.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARY = HERE / "library"
# Checkpoints that only this process reads need not reach a disk: a file's fsync takes longer than the run.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
for _place in (LIBRARY, HERE.parent):
    if str(_place) not in sys.path:
        sys.path.append(str(_place))

import kinds  # noqa: E402
from kinds import CATALOGUE, Program  # noqa: E402

from surefoot.errors import SurefootError  # noqa: E402
from surefoot.local import LocalResult  # noqa: E402
from surefoot_actors.checkpoint.store import CheckpointStore  # noqa: E402
from surefoot_actors.local_run.run_local import run_local  # noqa: E402

if __package__:
    from .joiner import Loss, Parted, Story, act
else:
    from programs.joiner import Loss, Parted, Story, act

__all__ = ["CATALOGUE", "LIBRARY", "Program", "all_stories", "load_library", "problems", "restored_apart", "stories"]


def load_library() -> dict[str, Program]:
    """Import every module of the library; return its programs by name."""
    for file in sorted(LIBRARY.glob("of_*.py")):
        importlib.import_module(file.stem)
    return CATALOGUE


def stories(program: Program, seed: int) -> list[Story]:
    """Return who is there when: every kind of change in as few stories as that takes, at places that the seed decides."""
    draw = random.Random(seed)
    if program.data_workers:
        return [_changing(program, draw)]
    if program.steps < _STEPS_OF_BOTH:
        return [_handed_on(program.steps), _changing(program, draw)]
    return [_both(program.steps, draw)]


# So many steps are enough for a story of two parts.
_STEPS_OF_BOTH = 5


def _changing(program: Program, draw: random.Random) -> Story:
    """Several, of which two are lost in a step and replaced."""
    one, other = sorted(draw.randrange(1, program.steps) for _ in range(2))
    return Story(
        trainers=2 if program.data_workers else 3,  # every trainer starts processes
        backwards=draw.random() < 0.5,
        losses=(Loss(step=one, member=1, turn=1), Loss(step=other, member=0, turn=0)),
        joins=tuple(sorted({one, other})),
    )


def _handed_on(steps: int) -> Story:
    """Every step by another trainer, which has its state from the one before."""
    return Story(joins=tuple(range(1, steps)), losses=tuple(Loss(step=k, member=0) for k in range(steps - 1)))


def _both(steps: int, draw: random.Random) -> Story:
    """Half of the steps are handed on from one to the next, alone; in the other half there are three, of which two are lost in a step.

    After every step somebody joins, and the eldest ends.
    """
    half, backwards, joins = steps // 2, draw.random() < 0.5, range(1, steps)
    if draw.random() < 0.5:  # alone at first
        lost = {half + 1: Loss(step=half + 1, member=1, turn=1), steps - 1: Loss(step=steps - 1, member=0, turn=0)}
        ends = [Loss(step=k, member=0) for k in range(steps) if k not in (half, *lost)]
        return Story(backwards=backwards, joins=(*joins, half + 1), losses=(*lost.values(), *ends))
    lost = {1: Loss(step=1, member=1, turn=1), half: Loss(step=half, member=0, turn=0)}
    # of the three that there are then, the one that has just joined goes on
    ends = [Loss(step=k, member=0) for k in range(2, steps - 1) if k != half] + 2 * [Loss(step=half, member=0)]
    return Story(trainers=2, backwards=backwards, joins=tuple(joins), losses=(*lost.values(), *ends))


def all_stories(program: Program, seed: int) -> list[Story]:
    """As `stories`, and other numbers of trainers, and at every step a joiner that goes on alone, and one that does not."""
    draw = random.Random(seed)
    lost = Loss(step=draw.randrange(1, program.steps), member=draw.randrange(3), turn=draw.randrange(2))
    plain = [Story(trainers=2), Story(trainers=3), Story(backwards=True)]
    if program.data_workers:
        return [*stories(program, seed), *plain]
    found = [
        *stories(program, seed),
        _handed_on(program.steps),
        _changing(program, draw),
        *plain,
        Story(trainers=3, backwards=True, losses=(lost,)),
    ]
    alone = [Story(joins=(k,), losses=(Loss(step=k - 1, member=0),)) for k in range(1, program.steps)]
    return [*found, *alone, *(Story(joins=(k,)) for k in range(1, program.steps))]


def problems(program: Program, seed: int = 0, *, everything: bool = True) -> Iterator[str]:
    """Yield in words what does not keep the promise; nothing where all is well."""
    if program.refused:
        yield from _not_refused(program)
        return
    with tempfile.TemporaryDirectory(prefix="sf-programs-", dir=MEMORY) as place:
        saved_at = random.Random(seed).randrange(1, program.steps)
        try:
            # saves on its way, for the run that goes on from there; that saving changes nothing is seen by the stories, which do not
            whole = _local(program, checkpoint=place, checkpoint_every=saved_at)
        except Exception as error:  # noqa: BLE001  a program may fail in any way: that is what is told
            yield f"run_local fails: {_words(error)}"
            return
        yield from _compared(program, whole, seed, everything=everything)
        yield from _gone_on(saved_at, lambda: _from(program.train, whole, place, saved_at, _fields(program)))
    last = program.steps - 1
    if everything and saved_at != last:
        yield from _gone_on(last, lambda: restored_apart(program.train, whole, last, _fields(program)))


def _compared(program: Program, whole: LocalResult, seed: int, *, everything: bool) -> Iterator[str]:
    """Tell what differs from one undisturbed run: without data workers, and in stories."""
    if [row.result.step for row in whole.rows] != list(range(program.steps)):
        yield "run_local: not every step has a row"
    if program.data_workers:
        apart = difference(_local(replace(program, data_workers=0)), whole)
        if apart:
            yield f"data workers: {apart}"
    told: set[str] = set()
    for story in all_stories(program, seed) if everything else stories(program, seed):
        trouble = _differs(program, story, whole)
        kind = re.sub(r"\d+(\.\d+)?", "n", trouble)
        if trouble and kind not in told:  # the same at another step is not told again
            told.add(kind)
            yield f"{story}: {trouble}"


def _local(program: Program, **how: Any) -> LocalResult:
    return run_local(program.train, **_fields(program), **how)


def _fields(program: Program) -> dict[str, Any]:
    return {
        "config": {"steps": program.steps, **program.config},
        "batch_size": program.batch_size,
        "sub_tasks": program.sub_tasks,
        "data_workers": program.data_workers,
    }


def _differs(program: Program, story: Story, whole: LocalResult) -> str:
    try:
        told = act(program.train, story, **_fields(program))
    except Exception as error:  # noqa: BLE001  as above
        return _words(error)
    return difference(whole, told)


def difference(whole: LocalResult, told: LocalResult) -> str:
    """Return in words where two runs part; "" where they do not."""
    if len(whole.rows) != len(told.rows):
        return f"{len(told.rows)} rows where there were {len(whole.rows)}"
    for one, other in zip(whole.rows, told.rows, strict=True):
        if one.result.canonical() != other.result.canonical():
            return f"other bits from step {one.result.step} on: {dict(one.result.values)} became {dict(other.result.values)}"
    return "" if whole.digest == told.digest else "another final state"


def _gone_on(step: int, compare: Callable[[], str]) -> Iterator[str]:
    try:
        apart = compare()
    except Exception as error:  # noqa: BLE001  as above
        apart = _words(error)
    if apart:
        yield f"restored at step {step}: {apart}"


def restored_apart(train: Any, whole: LocalResult, step: int, fields: dict[str, Any]) -> str:
    """Save at this step, go on from there with everything built anew, and return in words where that parts from `whole`."""
    with tempfile.TemporaryDirectory(prefix="sf-programs-", dir=MEMORY) as place:
        apart = difference(whole, run_local(train, checkpoint=place, checkpoint_every=step, **fields))
        if apart:
            return f"with checkpoints: {apart}"
        return _from(train, whole, place, step, fields)


def _from(train: Any, whole: LocalResult, place: str, step: int, fields: dict[str, Any]) -> str:
    (url,) = [c.url for c in CheckpointStore(place).found() if c.step == step]
    return difference(whole, run_local(train, restore=url, **fields))


def _not_refused(program: Program) -> Iterator[str]:
    """One trainer and three must be told, in step 0 or 1, with the line and what to do."""
    for how in ("run_local", "three trainers") if program.refused_alone else ("three trainers",):
        steps = program.refused_by + 1
        try:
            if how == "run_local":
                run_local(program.train, **{**_fields(program), "config": {"steps": steps, **program.config}})
            else:
                fields = {**_fields(program), "config": {"steps": steps, **program.config}}
                act(program.train, Story(trainers=3), **fields)
        except SurefootError as error:
            text = str(error)
            if not re.search(program.refused, text):
                yield f"{how}: refused, but without {program.refused!r}: {text}"
            elif not re.search(r"\b\w+\.py:\d+", text):
                yield f"{how}: refused, but names no line: {text}"
        except Exception as error:  # noqa: BLE001  as above
            yield f"{how}: no error of Surefoot's but {_words(error)}"
        else:
            yield f"{how}: not refused within {steps} steps"


def _words(error: BaseException) -> str:
    kind = "" if isinstance(error, Parted) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:600]


def main() -> int:
    warnings.simplefilter("ignore")
    programs = load_library()
    names = sys.argv[1:] or list(programs)
    failing = 0
    for name in names:
        found = list(problems(programs[name]))
        failing += bool(found)
        print(f"{'PARTS' if found else 'well '} {name}", *(f"\n      {line}" for line in found), flush=True)
    print(f"{len(names)} programs, {failing} with findings")
    return 1 if failing else 0


if __name__ == "__main__":
    assert kinds
    sys.exit(main())
