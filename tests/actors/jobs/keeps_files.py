"""Trains as `small` does; whoever is elected appends a line a step to rows.csv, and writes state.json anew."""

import json
import os
import signal
import time

import torch.nn.functional as F
from small import Numbers, hold, make, note

from surefoot.output import manifest_names
from surefoot_actors.output import sync

if "SYNC_S" in os.environ:
    sync.SYNC_S, sync._LOOKS = float(os.environ["SYNC_S"]), 0.0


def die_if_elected(run, step):
    """Once, in the midst of a sub-task, when files are kept: the file in config["dies"] tells which process, and as of which step."""
    at, path, manifests = run.config.get("dies", (-1, "", ""))
    if step.number == at and run.elected and not os.path.exists(path):
        os.makedirs(manifests, exist_ok=True)
        # the first checkpoint has them kept, before step 5
        while (kept := max((name.at for name in manifest_names(os.listdir(manifests))), default=0)) < 5:
            time.sleep(0.01)
        with open(path, "x") as file:
            file.write(f"{os.getpid()} {kept}")
        os.kill(os.getpid(), signal.SIGKILL)


def train(run):
    model, optimizer = make(run.config)
    run.track(model=model, optimizer=optimizer)
    data = Numbers()
    for step in run.steps(run.config["steps"]):
        for x, y, index in step.batches(data):
            note(run, step, index)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            hold(run, step)
            die_if_elected(run, step)
        optimizer.step()
        if run.elected:
            with (run.output_dir / "rows.csv").open("a") as file:
                file.write(f"{step.number}\n")
            (run.output_dir / "deep").mkdir(exist_ok=True)
            (run.output_dir / "deep" / "state.json").write_text(json.dumps({"step": step.number, "pid": os.getpid()}))
    assert run.elected
    (run.output_dir / "end").write_text((run.output_dir / "rows.csv").read_text())
