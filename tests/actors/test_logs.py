"""What trainers print arrives, each line once and in order, whatever becomes of who printed it."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections import defaultdict
from typing import Any, NamedTuple

import pytest

from surefoot.logs import FrameHead
from surefoot.spec import JobState
from surefoot_actors.uplink.memory import MemoryUplink

from .harness import Keep, Stage

pytestmark = pytest.mark.process

STEPS, LINES = 40, 300


class Line(NamedTuple):
    step: int
    stream: str
    text: str


def printed(bodies: list[bytes]) -> dict[str, list[Line]]:
    """What is stored of each process: frames that came twice count once."""
    frames: dict[tuple[str, int], bytes] = {}
    for body in bodies:
        while body:
            line, _, body = body.partition(b"\n")
            head = FrameHead.model_validate_json(line)
            frames[head.source, head.first], body = body[: head.bytes], body[head.bytes :]
    lines: dict[str, list[Line]] = defaultdict(list)
    for (source, _), content in sorted(frames.items()):
        for run in map(json.loads, zlib.decompress(content).split(b"\n")):
            lines[source.rpartition("-")[0]] += [Line(run["s"], run["f"], x) for x in run["x"].split("\n")[:-1]]
    return lines


class Forgetful(MemoryUplink):
    """A control plane that stores, and whose every other answer is lost: what it stored comes again."""

    async def logs(self, body: bytes) -> bool:
        if len(self.told_logs) % 2:
            await super().logs(body)
        return await super().logs(body)


def test_every_line_arrives_once_and_in_order_under_kills(stage: Stage) -> None:
    async def drive(uplink: MemoryUplink, cluster: Keep) -> None:
        for step, trainer in ((STEPS // 4, "t1"), (STEPS // 2, "t2")):
            while max(uplink.ledger, default=0) < step:
                await uplink.changed()
            handle = next(h for h in await cluster.find_trainers() if h.trainer == trainer)
            await handle.kill()

    uplink = Forgetful()
    uplink.values = {"KEY": "secret123"}
    story = stage.run(
        entrypoint="printing:train",
        secrets={"KEY": "KEY"},
        trainers=3,
        data_workers=1,
        config={"steps": STEPS, "lines": LINES},
        batch_size=8,
        drive=drive,
        logs=True,
        uplink=uplink,
    )
    assert story.outcome.state is JobState.SUCCEEDED
    told = printed(story.logs)
    assert {"t0", "t1", "t2"} < set(told)  # and those in the places of the two that were killed
    for trainer, lines in told.items():
        own = [line for line in lines if line.text.startswith("line ")]
        numbers = [int(line.text.split()[1]) for line in own]
        # who joins goes on where its peers are: the count is a variable of the loop
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True, trainer
        assert all(line.text.endswith(f"of step {line.step}") for line in own), trainer
        assert lines[-1] == Line(lines[-1].step, "surefoot", "the process has ended")
        if own:
            assert any(line.text.startswith("loading ") for line in lines), "data workers"
    whole = told["t0"]
    texts = [line.text for line in whole]
    assert texts.count(f"line {STEPS * LINES - 1} of step {STEPS - 1}") == 1
    assert Line(1, "stdout", "past Python") in whole
    assert Line(-1, "stdout", "the key is ***") in whole
    assert [line.text for line in whole if line.stream == "stderr" and "done" in line.text] == [f"{STEPS - 1} done"]
    assert any(re.fullmatch(rf"printed {STEPS * LINES} in all", line.text) for lines in told.values() for line in lines)


def test_a_control_plane_that_is_away_holds_up_nobody_who_prints(stage: Stage) -> None:
    class Away(MemoryUplink):
        asked = 0

        async def logs(self, body: bytes) -> bool:
            if not self.asked:
                self.asked = 1
                await back.wait()
            return await super().logs(body)

    back = asyncio.Event()

    async def drive(uplink: Any, cluster: Keep) -> None:
        while max(uplink.ledger, default=0) < STEPS - 2:  # all but the end is trained meanwhile
            await uplink.changed()
        back.set()

    story = stage.run(
        entrypoint="printing:train",
        trainers=1,
        config={"steps": STEPS, "lines": 10 * LINES},
        batch_size=8,
        drive=drive,
        logs=True,
        uplink=Away(),
    )
    lines = [line.text for line in printed(story.logs)["t0"] if line.text.startswith("line ")]
    assert lines == [f"line {n} of step {n // (10 * LINES)}" for n in range(10 * LINES * STEPS)]
