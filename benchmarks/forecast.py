"""The forecast of a job's remaining time against what then happened: digits and charlm at 1, 2 and 4 trainers.

    python benchmarks/forecast.py [--steps N] [--save]

Each job runs to its end. After a third of its steps a forecast is made of these alone, as `surefoot show` makes it, for the number of
trainers that it has (measured) and, from the job with 1 trainer, for 2 and 4 (not measured: a range). Then it is compared with the clock.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise
from pathlib import Path

from elastic import run_job
from measure import HERE, machine, save, table

from surefoot.events import LedgerRow
from surefoot.spec import JobSpec
from surefoot.usage import Forecast
from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_service.policy.forecast import forecast, pace_of

TRAINERS = (1, 2, 4)
SUB_TASKS = 8
# samples a step, and config beside the steps
JOBS = {
    "digits": (64, {"eval_every": 50}),
    "charlm": (16, {"width": 64, "heads": 2, "layers": 2, "context": 64, "eval_every": 25}),
}
# as the control plane leaves out the first steps of a generation
WARM = 2


def run(example: str, trainers: int, steps: int) -> list[LedgerRow]:
    batch_size, config = JOBS[example]
    spec = JobSpec(
        entrypoint="train:train", package="0" * 64, batch_size=batch_size, sub_tasks=SUB_TASKS, trainers=trainers,
        min_trainers=trainers, config={**config, "steps": steps},
    )  # fmt: skip
    uplink = MemoryUplink()
    asyncio.run(run_job(spec, uplink, path=HERE.parent / "examples" / example))
    return [uplink.ledger[step] for step in range(steps)]


def seconds(rows: list[LedgerRow]) -> list[float]:
    at = [row.circumstances.at for row in rows]
    return [after - before for before, after in pairwise(at)]


def look(rows: list[LedgerRow], numbers: tuple[int, ...]) -> tuple[Forecast, ...]:
    """The forecast after a third of the steps, for these numbers of trainers."""
    seen = len(rows) // 3
    pace = pace_of(seconds(rows[WARM:seen]))
    assert pace is not None, "too few steps"
    own = rows[seen - 1].circumstances.trainers
    left = len(rows) - seen
    return forecast({own: pace}, numbers, sub_tasks=SUB_TASKS, remaining_steps=left, trainer_per_s=None)


def rest(rows: list[LedgerRow]) -> float:
    """What the steps after the first third took."""
    return sum(seconds(rows[len(rows) // 3 - 1 :]))


def compare(example: str, steps: int) -> list[list[str]]:
    lines = []
    ran = {n: run(example, n, steps) for n in TRAINERS}
    for n, rows in ran.items():
        [told] = look(rows, (n,))
        assert told.remaining_s is not None
        error = told.remaining_s / rest(rows) - 1
        lines.append([example, str(n), "measured", f"{told.remaining_s:.2f}", f"{rest(rows):.2f}", f"{error:+.1%}"])
    for told in look(ran[1], TRAINERS[1:]):
        low, high, took = told.remaining_s_low, told.remaining_s_high, rest(ran[told.trainers])
        assert low is not None
        assert high is not None
        miss = 0.0 if low <= took <= high else took / (high if took > high else low) - 1
        where = f"{miss:+.1%} outside" if miss else "inside"
        lines.append(
            [example, str(told.trainers), "1 trainer's steps", f"{low:.2f} to {high:.2f}", f"{took:.2f}", where]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--examples", nargs="+", choices=sorted(JOBS), default=sorted(JOBS))
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    lines = [line for example in args.examples for line in compare(example, args.steps)]
    heads = ["example", "trainers", "by", "the rest, forecast (s)", "the rest, took (s)", "error"]
    text = f"{machine()}; {args.steps} steps, forecast after a third\n\n{table(heads, lines)}"
    print(text)
    if args.save:
        save(Path(__file__).stem, text, {"steps": args.steps, "lines": lines})


if __name__ == "__main__":
    main()
