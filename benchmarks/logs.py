"""What shipping printed lines costs, and whether each arrives: three trainers that print, beside the same three whose prints go to a file.

    python benchmarks/logs.py [--seconds 60] [--rate 10000] [--rounds 3] [--kills 4] [--elsewhere]

First the lines: three trainers print RATE lines a second each for SECONDS, and every SECONDS / KILLS one of them is killed. Every line
of each process must be kept once and in order, as far as it came to print. Then the price: pairs of short runs without kills, in turns,
one with its prints shipped and one with its prints in a file, both line by line, as Ray has them; the figure is the median ratio of the
median step.

A real control plane keeps the lines; it, the supervisor and the trainers share this machine. With --elsewhere the pairs have a stand-in for
it that takes bodies and keeps nothing: what the trainers' machine pays where the control plane is on another one, as in a cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from measure import HERE

sys.path += [str(HERE.parent)]

from tests.actors.harness import Keep, Stage, Story

from surefoot_actors.uplink.memory import MemoryUplink
from surefoot_service.logs.chunks import Wanted
from surefoot_service.rest.app import open_service
from surefoot_service.settings import Settings
from surefoot_service.store.logs import Printer
from surefoot_service.store.tables import JobRow

TRAINERS = 3


class Kept(MemoryUplink):
    """The control plane's part that keeps lines, in this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.service = open_service(Settings(data=folder))
        self._made = False

    async def logs(self, body: bytes) -> bool:
        if not self._made:
            self._made = True
            now = datetime.now(UTC)
            await self.service.database.write(
                lambda session: session.add(
                    JobRow(id="j", spec="{}", state="running", created_at=now, wanted_trainers=TRAINERS)
                )
            )
        await self.service.logs.take(Printer(job="j", attempt="j-1"), body)
        return True


def run(stage: Stage, uplink: MemoryUplink, *, seconds: float, rate: int, kills: int, shipped: bool) -> Story:
    async def drive(told: MemoryUplink, cluster: Keep) -> None:
        while not told.ledger:
            await told.changed()
        begun = time.monotonic()
        for n in range(kills):
            await asyncio.sleep(max(0.0, begun + (n + 1) * seconds / (kills + 1) - time.monotonic()))
            living = await cluster.find_trainers()
            await living[n % len(living)].kill()
            print(f"  killed {living[n % len(living)].trainer} after {time.monotonic() - begun:.1f} s", flush=True)

    return stage.run(
        entrypoint="loud:train",
        trainers=TRAINERS,
        batch_size=64,
        sub_tasks=8,
        config={"steps": 1_000_000, "seconds": seconds, "rate": rate},
        drive=drive,
        within_s=seconds + 120,
        logs=shipped,
        uplink=uplink,
    )


async def count(uplink: Kept) -> tuple[int, int, int]:
    """Return how many lines are kept, of how many processes, and how many of them are not where they should be."""
    lines: dict[str, list[int]] = defaultdict(list)
    start = 0
    while (
        page := await uplink.service.logs.page("j", Wanted(contains="line "), start, 10_000, datetime.now(UTC))
    ).more:
        for line in page.lines:
            lines[line.trainer].append(int(line.text.split()[1]))
        start = page.next
    for line in page.lines:
        lines[line.trainer].append(int(line.text.split()[1]))
    wrong = sum(b != a + 1 for numbers in lines.values() for a, b in pairwise(numbers))
    return sum(map(len, lines.values())), len(lines), wrong


def step_s(story: Story) -> float:
    rows = story.rows[len(story.rows) // 4 :]
    return median(row.circumstances.seconds for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--pair-seconds", type=float, default=15.0)
    parser.add_argument("--elsewhere", action="store_true", help="the control plane's own work is not on this machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sf-logs-") as name:
        stage = Stage(Path(name), [HERE / "jobs_that_print"])
        try:
            kept = Kept(Path(name) / "data")
            story = run(
                stage, kept, seconds=arguments.seconds, rate=arguments.rate, kills=arguments.kills, shipped=True
            )
            print(f"{story.outcome.state}: {story.outcome.reason}", flush=True)
            num, processes, wrong = stage.runner.run(count(kept))
            print(
                f"{num} lines of {processes} processes in {arguments.seconds:g} s; {wrong} lost, doubled or out of order"
            )
            ratios = []
            for number in range(arguments.rounds):
                found = {}
                for shipped in (True, False) if number % 2 else (False, True):
                    here = shipped and not arguments.elsewhere
                    uplink = Kept(Path(name) / f"data-{number}") if here else MemoryUplink()
                    options = {"seconds": arguments.pair_seconds, "rate": arguments.rate, "kills": 0}
                    found[shipped] = step_s(run(stage, uplink, shipped=shipped, **options))
                ratios.append(found[True] / found[False])
                print(
                    f"  {found[False] * 1e3:.2f} ms a step -> {found[True] * 1e3:.2f} ms, ratio {ratios[-1]:.3f}",
                    flush=True,
                )
            if not ratios:
                return
            where = "elsewhere" if arguments.elsewhere else "on this machine"
            print(
                f"shipped / to a file, control plane {where}: {median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs)"
            )
        finally:
            stage.close()


if __name__ == "__main__":
    main()
