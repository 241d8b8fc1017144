"""Programs of the library on real trainers, in processes of their own.

`python tests/programs/real.py NAME ...`: at 1, 2 and 3 trainers with a trainer killed and replaced, paused and resumed by another number
of them, and by run_local, a restore from its checkpoint in a fresh process. Ledger and final digest must be those of run_local, or, where
the program is to be refused, the error must say so with line and advice. Prints what parts; ends with 1 if anything does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
for _place in (HERE.parents[1], HERE.parent):
    if str(_place) not in sys.path:
        sys.path.insert(0, str(_place))

from tests.actors.harness import Keep, Stage, Story, staged  # noqa: E402
from tests.actors.test_matrix import told  # noqa: E402
from tests.programs.runner import LIBRARY, Program, difference, load_library  # noqa: E402

from surefoot.events import Command, CommandKind  # noqa: E402
from surefoot.local import LocalResult  # noqa: E402
from surefoot.spec import JobState  # noqa: E402
from surefoot_actors.checkpoint.store import CheckpointStore  # noqa: E402
from surefoot_actors.local_run.run_local import run_local  # noqa: E402
from surefoot_actors.uplink.memory import MemoryUplink  # noqa: E402

SEED = 7
# long enough for a replacement to come while training goes on
STEPS = 60
# long enough for a pause to come before the end
PAUSED_STEPS = 300


def spec_of(program: Program, steps: int) -> dict[str, Any]:
    return {
        "entrypoint": program.entrypoint,
        "config": {"steps": steps, "computed": None, **program.config},
        "batch_size": program.batch_size,
        "sub_tasks": program.sub_tasks,
        "data_workers": program.data_workers,
        "seed": SEED,
    }


def alone(program: Program, steps: int, **how: Any) -> LocalResult:
    return run_local(
        program.train,
        config={"steps": steps, **program.config},
        batch_size=program.batch_size,
        sub_tasks=program.sub_tasks,
        data_workers=program.data_workers,
        seed=SEED,
        **how,
    )


def in_a_fresh_process(program: Program, steps: int, **how: Any) -> str:
    """Run `alone` in another process, from a program that has run nothing yet; return "digest ledger" or its error."""
    code = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1]); warnings.simplefilter('ignore')\n"
        "from tests.programs import real\n"
        f"result = real.alone(real.load_library()[{program.name!r}], {steps}, **{how!r})\n"
        "print(real.summary(result))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE.parents[1])], capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip().rpartition("\n")[2] if not done.returncode else f"failed: {done.stderr[-600:]}"


def summary(result: LocalResult) -> str:
    return f"{result.digest} {[row.result.canonical() for row in result.rows]}"


def apart(stories: list[Story], whole: LocalResult) -> str:
    """Return in words where attempts, one after another, part from the whole."""
    last = stories[-1]
    if last.outcome.state is not JobState.SUCCEEDED:
        return f"{last.outcome}"[:700]
    rows = [row for story in stories for row in story.rows]
    return difference(whole, LocalResult(rows=tuple(rows), digest=last.digest))


def killed(stage: Stage, program: Program, whole: LocalResult, trainers: int) -> str:
    last = trainers - 1
    faults = [f"KILL@exchange:t{last}:4"] if trainers > 1 else []
    faults += [f"KILL@backward:t{trainers}:*"] if trainers == 2 else []  # it comes in the other's place
    story = stage.run(trainers=trainers, min_trainers=trainers, faults=faults, **spec_of(program, STEPS))
    return apart([story], whole)


def killed_alone(stage: Stage, program: Program, whole: LocalResult, place: Path) -> str:
    """The only trainer is lost, and another goes on from a checkpoint."""
    spec = spec_of(program, STEPS)
    spec["checkpoint"] = {"every_s": None, "every_steps": 3, "final": False}
    story = stage.run(trainers=1, min_trainers=1, faults=["KILL@forward:t0:8"], checkpoints=place, **spec)
    return apart([story], whole)


def paused(stage: Stage, program: Program, place: Path) -> str:
    gate = place.with_suffix(".gate")

    async def pause(uplink: MemoryUplink, cluster: Keep) -> None:
        await told(uplink, lambda: 5 in uplink.ledger)
        uplink.command(Command(n=1, kind=CommandKind.PAUSE))
        await told(uplink, lambda: any(e.data.get("state") == JobState.PAUSING for e in uplink.events))

    spec = spec_of(program, PAUSED_STEPS)
    spec["config"]["gate"] = [6, str(gate)]  # of use to programs that wait there
    first = stage.run(trainers=2, min_trainers=2, drive=pause, checkpoints=place, **spec)
    if first.outcome.state is not JobState.PAUSED:
        return f"not paused: {first.outcome}"[:700]
    second = stage.run(trainers=3, min_trainers=3, checkpoints=place, stored_below=len(first.rows), **spec)
    return apart([first, second], alone(program, PAUSED_STEPS))


def restored(program: Program, place: Path) -> str:
    whole = summary(alone(program, 8))
    if in_a_fresh_process(program, 8, checkpoint=str(place), checkpoint_every=3) != whole:
        return "a fresh process has other bits"
    url = next(c.url for c in CheckpointStore(str(place)).found() if c.step == 3)
    again = in_a_fresh_process(program, 8, restore=url)
    return "" if again == whole else f"restored: {again[:600]} where {whole[:300]}"


def refused(stage: Stage, program: Program) -> Iterator[str]:
    for trainers in (1, 2):
        story = stage.run(trainers=trainers, min_trainers=trainers, **spec_of(program, 6))
        text = str(story.outcome)
        if story.outcome.state is not JobState.FAILED or len(story.rows) > program.refused_by + 1:
            yield f"{trainers} trainers: not refused: {text[:300]}"
        elif not re.search(program.refused, text) or not re.search(r"\b\w+\.py:\d+", text):
            yield f"{trainers} trainers: refused, but without {program.refused!r} or a line: {text[:500]}"


def problems(stage: Stage, program: Program, place: Path) -> Iterator[str]:
    """Yield in words what does not keep the promise."""
    if program.refused:
        yield from refused(stage, program)
        return
    whole = alone(program, STEPS)
    ways: dict[str, Any] = {
        "1 trainer": lambda: killed(stage, program, whole, 1),
        "2 trainers, killed": lambda: killed(stage, program, whole, 2),
        "3 trainers, killed": lambda: killed(stage, program, whole, 3),
        "the only trainer killed": lambda: killed_alone(stage, program, whole, place / "alone"),
        "paused, resumed by 3": lambda: paused(stage, program, place / "paused"),
        "restored in a fresh process": lambda: restored(program, place / "restored"),
    }
    for words, way in ways.items():
        try:
            trouble = way()
        except Exception as error:  # noqa: BLE001  a program may fail in any way: that is what is told
            trouble = f"{type(error).__name__}: {error}"[:700]
        if trouble:
            yield f"{words}: {trouble}"


def main() -> int:
    warnings.simplefilter("ignore")
    programs = load_library()
    failing = 0
    with staged(code=[LIBRARY]) as stage:
        for name in sys.argv[1:]:
            found = list(problems(stage, programs[name], stage.folder / name))
            failing += bool(found)
            print(f"{'PARTS' if found else 'well '} {name}", *(f"\n      {line}" for line in found), flush=True)
    print(f"{len(sys.argv) - 1} programs, {failing} with findings")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
