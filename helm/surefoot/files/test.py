"""`helm test`: submit a job through the Service, kill one of its trainers, and wait for its success."""

import os
import sys
import tempfile
import time
from pathlib import Path

from surefoot import Client

STEPS, KILL_AFTER = 60, 5
TRAINERS, LIMIT_S = int(os.environ["TRAINERS"]), float(os.environ["LIMIT_S"])


def main() -> None:
    deadline = time.monotonic() + LIMIT_S
    with tempfile.TemporaryDirectory() as folder, Client(url=os.environ["URL"], token=os.environ["TOKEN"]) as client:
        (Path(folder) / "train.py").write_text(os.environ["TRAIN"])
        job = client.submit(
            "train:train",
            folder=folder,
            name="helm-test",
            batch_size=8,
            sub_tasks=4,
            trainers=TRAINERS,
            min_trainers=1,
            config={"steps": STEPS},
        )
        print(f"submitted {job.id}", flush=True)
        try:
            for row in job.rows(follow=True):
                if row.result.step >= KILL_AFTER:
                    break
            job.inject_fault("trainer")
            print("killed a trainer", flush=True)
            view = job.wait(timeout=max(1.0, deadline - time.monotonic()))
        except BaseException:
            job.cancel()
            raise
        check(job, view)


def check(job, view) -> None:
    """Every step once, and the loss of a trainer among the events."""
    steps = [row.result.step for row in job.rows()]
    kinds = [str(event.kind) for event in job.events()]
    if steps != list(range(STEPS)):
        sys.exit(f"the ledger has {len(steps)} rows of {STEPS}")
    if "trainer_lost" not in kinds:
        sys.exit(f"no trainer was lost: {sorted(set(kinds))}")
    print(f"{view.state}: {STEPS} steps, each once; digest {view.digest}")


main()
