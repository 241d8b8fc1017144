"""small.train, with data: notes what each trainer was given, and at a step has the data changed."""

import os
from pathlib import Path

import small

import surefoot


def train(run: surefoot.Run) -> None:
    place = run.data["train"]
    run.node_once(lambda: (run.cache_dir / "made").write_text(str(os.getpid())))
    note = f"{place} {(place / 'a.bin').read_text()} {(run.cache_dir / 'made').read_text()}\n"
    handle = os.open(run.config["seen"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, note.encode())
    os.close(handle)
    small.train(run)


def changed(run: surefoot.Run) -> None:
    """The node loses its copies, and what they are copied of is changed, once training goes on."""
    hold = small.hold

    def held(run: surefoot.Run, step: surefoot.Step) -> None:
        if step.number == 1 and Path(run.config["origin"], "a.bin").read_text() == "abc":
            Path(run.config["origin"], "a.bin").write_text("abcd")
            for file in Path(os.environ["SUREFOOT_CACHE_DIR"]).glob("*/data/*.json"):
                file.unlink()
        hold(run, step)

    small.hold = held
    train(run)
