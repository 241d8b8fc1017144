"""Trainers that were elected to keep a job's files, and what lies at the job's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from surefoot.output import OutputManifest, counted, load_output, manifest_names, writer_names
from surefoot_actors.output.store import WriterId
from surefoot_actors.output.sync import OutputSync

WAIT_S = 180.0


class Elected:
    """A trainer that was elected at a step, and its folder."""

    def __init__(self, place: Path | str, trainer: str = "t0", generation: int = 1, most: int = 2**40) -> None:
        self.told: list[str] = []
        self.me = WriterId(attempt=1, generation=generation, trainer=trainer)
        self.sync = OutputSync(str(place), lambda: self.me, most_bytes=most, warn=self.told.append, check=lambda: None)
        self.folder = self.sync.folder()

    def begin(self, step: int = 0) -> Elected:
        self.sync.ready(step)
        return self

    def write(self, path: str, data: bytes, mode: str = "wb") -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / path).open(mode) as file:
            file.write(data)

    def keep(self, step: int) -> bool:
        return self.sync.sync(step, WAIT_S)

    @property
    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}


# makes another one for the test's job: see `elected` in conftest.py
Elect = Callable[..., Elected]


def objects(place: Path) -> dict[str, int]:
    folder = place / "files" / "objects"
    return {p.name: p.stat().st_size for p in folder.iterdir()} if folder.is_dir() else {}


def manifests(place: Path) -> list[str]:
    """Those that count, the newest first."""
    there, writers = (sorted(p.name for p in (place / "files" / f).glob("*")) for f in ("manifests", "writers"))
    return [n.name for n in counted(manifest_names(there), writer_names(writers))]


def kept(place: Path) -> dict[str, bytes]:
    """What the newest manifest says."""
    return {
        file.path: b"".join(
            (place / "files" / "objects" / obj).read_bytes()[at : at + size] for obj, at, size in file.pieces
        )
        for file in newest(place).files
    }


def newest(place: Path) -> OutputManifest:
    name = manifests(place)[0]
    return load_output(name, (place / "files" / "manifests" / name).read_bytes())
