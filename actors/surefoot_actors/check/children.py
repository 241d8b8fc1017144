"""Starts the processes that perform probes, and gathers what they saw."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

from surefoot.spec import JobSpec
from surefoot_actors.check.child import IMPORTED, Errand
from surefoot_actors.check.pins import Factor
from surefoot_actors.check.probe import Failure, Probe, Seen
from surefoot_actors.environment import trainer_env

__all__ = ["AGAIN", "BACKWARDS", "HASHES", "JOINER", "REFERENCE", "VARIED", "imported", "run_probes"]

REFERENCE, AGAIN, HASHES = "one trainer", "again in a fresh process", "another PYTHONHASHSEED"
BACKWARDS, JOINER = "sub-tasks in another order", "a joiner's state"
VARIED = {
    Factor.ENTROPY: "other entropy",
    Factor.CLOCK: "at another time",
    Factor.IDENTITY: "another pid and host name",
}
_COMMAND = [sys.executable, "-P", "-c", "from surefoot_actors.check.child import main; main()"]


def run_probes(spec: JobSpec, steps: int, folder: Path, out: Path, patience_s: float) -> dict[str, Seen]:
    """Perform every probe; return what they saw, by name, the reference first and without the rest where that failed."""
    at = steps // 2
    state = str(out / "state")
    main = (
        Probe(name=REFERENCE, at=at, state=state),
        *(Probe(name=name, varied=factor) for factor, name in VARIED.items()),
        Probe(name=BACKWARDS, backwards=True),
        Probe(name=JOINER, at=at, state=state, joins=True),
    )
    abreast = max(1, (os.cpu_count() or 2) - 1)
    children = [
        _Child(spec, steps, folder, out / "main", main, abreast=abreast),
        _Child(spec, steps, folder, out / "again", (Probe(name=AGAIN),)),
        _Child(spec, steps, folder, out / "hashes", (Probe(name=HASHES),), hash_seed="1"),
    ]
    try:
        for child in children:
            child.wait(patience_s)
    finally:
        for child in children:
            child.end()
    return {name: seen for child in children for name, seen in child.gather().items()}


def imported(out: Path) -> list[str]:
    """Return the libraries that probes of the user's code have imported without harm."""
    return (out / "main" / IMPORTED).read_text().split()


class _Child:
    """One process with its probes, in a folder of its own."""

    def __init__(
        self,
        spec: JobSpec,
        steps: int,
        folder: Path,
        out: Path,
        probes: tuple[Probe, ...],
        *,
        abreast: int = 1,
        hash_seed: str = "0",
    ) -> None:
        out.mkdir()
        self._out, self._probes = out, probes
        errand = Errand(spec=spec, steps=steps, folder=str(folder), probes=probes, abreast=abreast, parent=os.getpid())
        (out / "errand").write_bytes(pickle.dumps(errand))
        with (out / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_COMMAND, str(out / "errand")],
                cwd=out,
                env={**os.environ, **trainer_env(spec), "PYTHONHASHSEED": hash_seed},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started us, who then ends us
            )

    def wait(self, patience_s: float) -> None:
        """Wait until it has ended, no longer than `patience_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)

    def end(self) -> None:
        """Kill what still runs of it: all that it has forked dies with it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def gather(self) -> dict[str, Seen]:
        """Return what the probes saw, up to the first that left nothing although it was its turn."""
        found: dict[str, Seen] = {}
        for probe in self._probes:
            file = self._out / f"{probe.name}.json"
            if file.exists():
                found[probe.name] = Seen.from_json(file.read_text())
            elif probe is self._probes[0] or found[self._probes[0].name].failure is None:
                found[probe.name] = Seen(failure=self._died(probe))
        return found if len(self._probes) == 1 or found[self._probes[0].name].failure is None else _first(found)

    def _died(self, probe: Probe) -> Failure:
        texts = [
            (self._out / name).read_text(errors="replace")
            for name in ("log", f"{probe.name}.log")
            if (self._out / name).exists()
        ]
        tail = "\n".join(texts).strip()[-2000:]
        return Failure(
            kind="died",
            message="its process died, or did not end in time"
            + (f"; it last wrote: {tail.splitlines()[-1]}" if tail else ""),
            line="",
            traceback=tail,
        )


def _first(found: dict[str, Seen]) -> dict[str, Seen]:
    name, seen = next(iter(found.items()))
    return {name: seen}
