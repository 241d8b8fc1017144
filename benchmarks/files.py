"""What keeping `run.output_dir` costs: two trainers, one of which writes 300 MB, beside the same two with a folder that nobody keeps.

    python benchmarks/files.py [--megabytes 300] [--files 30] [--steps 3000] [--rounds 6]

Pairs of runs in turns, each with its own processes: the same steps, the same writes, the same checkpoints. One side writes into
`run.output_dir`, which is synchronised at each checkpoint, every 30 s and at the end; the other into a folder beside. The figure is the
ratio of the time from the first step to the last, and its spread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import HERE

sys.path += [str(HERE.parent)]

from tests.actors.harness import Stage, Story

from surefoot.output import load_output, manifest_names
from surefoot_actors.output.store import WriterId
from surefoot_actors.output.sync import OutputSync

TRAINERS = 2


def run(stage: Stage, place: Path, beside: Path | None, arguments: argparse.Namespace) -> Story:
    return stage.run(
        entrypoint="writer:train",
        trainers=TRAINERS,
        min_trainers=TRAINERS,
        batch_size=64,
        sub_tasks=8,
        config={
            "steps": arguments.steps,
            "files": arguments.files,
            "bytes": arguments.megabytes * 1_000_000 // arguments.files,
            "beside": str(beside or ""),
        },
        checkpoints=place,
        checkpoint={"every_steps": max(1, arguments.steps // 4), "every_s": None},
        within_s=600,
    )


def seconds(story: Story) -> float:
    """From the first step's end to the last's: processes have started before, and files may still be kept after."""
    assert story.outcome.state == "succeeded", story.outcome
    return story.rows[-1].circumstances.at - story.rows[0].circumstances.at


def kept_bytes(place: Path) -> int:
    folder = place / "files" / "manifests"
    name = manifest_names(os.listdir(folder))[0].name
    return sum(file.bytes for file in load_output(name, (folder / name).read_bytes()).files)


def price(base: Path, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Return the seconds of CPU that one synchronisation of it takes, of these on the training thread, and of one of nothing new."""
    me = WriterId(attempt=1, generation=1, trainer="t0")
    output = OutputSync(str(base / "alone"), lambda: me, warn=print, check=lambda: None)
    folder = output.folder()
    output.ready(0)
    for number in range(arguments.files):
        (folder / f"{number}.bin").write_bytes(os.urandom(arguments.megabytes * 1_000_000 // arguments.files))
    time.sleep(0.1)  # what was modified just now is read again the next time
    began, begun = time.process_time(), time.thread_time()
    pending = output.boundary(1, checkpoint=True)
    held = time.thread_time() - begun
    assert pending is not None
    assert pending.wait(600)
    cpu = time.process_time() - began
    began = time.process_time()
    assert output.sync(2, 600)
    again = time.process_time() - began
    output.close()
    return cpu, held, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    ratios, extra, load = [], [], []
    with tempfile.TemporaryDirectory(prefix="sf-files-") as name:
        base = Path(name)
        cpu, held, again = price(base, arguments)
        print(
            f"{arguments.megabytes} MB once: {cpu:.2f} s of CPU, {held * 1e3:.1f} ms of it on the training thread; "
            f"unchanged: {again * 1e3:.1f} ms",
            flush=True,
        )
        stage = Stage(base, [HERE / "jobs_that_write"])
        try:
            for number in range(arguments.rounds):
                found = {}
                for kept in (True, False) if number % 2 else (False, True):
                    place, beside = base / "job", base / "beside"
                    beside.mkdir()
                    found[kept] = seconds(run(stage, place, None if kept else beside, arguments))
                    if kept:
                        assert kept_bytes(place) >= arguments.megabytes * 990_000
                    shutil.rmtree(place)
                    shutil.rmtree(beside)
                ratios.append(found[True] / found[False])
                extra.append(found[True] - found[False])
                load.append(os.getloadavg()[0])
                print(
                    f"  {found[False]:.2f} s -> {found[True]:.2f} s, ratio {ratios[-1]:.4f}, load {load[-1]:.1f}",
                    flush=True,
                )
        finally:
            stage.close()
    if not ratios:
        return
    print(
        f"{arguments.megabytes} MB kept / written beside: {median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}, "
        f"{len(ratios)} pairs), {median(extra):+.2f} s; load {min(load):.1f} to {max(load):.1f}"
    )


if __name__ == "__main__":
    main()
