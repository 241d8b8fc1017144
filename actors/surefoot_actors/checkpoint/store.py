"""Where a job's checkpoints lie, and which there are.

    URL/step-000000123/<shares>.safetensors, <objects>.pickle, <rows>.jsonl
    URL/step-000000123/manifest.json       written last: without it there is no checkpoint
    URL/model/<tracked module>.safetensors after the last step
    URL/attempt                            the newest attempt that has looked for checkpoints here: an older one writes no more

The names of files tell who wrote them and are never used again, so a fenced trainer's late file is never one that a manifest names.
All of it blocks: it is called in threads, never on an event loop.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from surefoot.errors import CheckpointError, DamagedError
from surefoot_actors.checkpoint.manifest import Manifest, dump_manifest, load_manifest
from surefoot_actors.checkpoint.storage import Storage

__all__ = ["MANIFEST", "MODEL", "CheckpointStore", "Found", "folder_of", "is_at", "read_manifest"]

MANIFEST, MODEL = "manifest.json", "model"
# holds the number of the job's attempt that writes here
_ATTEMPT = "attempt"
_FOLDER = re.compile(r"^step-(\d{9,})$")


class Found(NamedTuple):
    """A checkpoint that has a manifest. Whether its files are whole is found out by reading them."""

    url: str
    step: int


def folder_of(step: int) -> str:
    """Return the folder of a step's checkpoint."""
    return f"step-{step:09d}"


def is_at(url: str, place: str) -> bool:
    """Whether a checkpoint is one of the job whose checkpoints lie at `place`, and not one that another job made."""
    return bool(place) and url.startswith(f"{place.rstrip('/')}/")


def read_manifest(url: str) -> Manifest:
    """Read the manifest of the checkpoint at this URL. Raises DamagedError, RefusedError, or CheckpointError."""
    storage = Storage(url)
    return load_manifest(storage.read_small(MANIFEST), storage.name(MANIFEST))


class CheckpointStore:
    """One job's checkpoints, of all its attempts. Raises CheckpointError where the storage cannot be reached, or is full."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.url = self.storage.url

    def found(self) -> list[Found]:
        """Return the checkpoints that have a manifest, newest first; the URL itself may be one."""
        if self.storage.exists(MANIFEST):
            return [Found(self.url, read_manifest(self.url).step)]
        folders = [(name, step) for name, step in self._folders() if self.storage.exists(f"{name}/{MANIFEST}")]
        return [Found(f"{self.url}/{name}", step) for name, step in sorted(folders, key=lambda f: f[1], reverse=True)]

    def take_over(self, attempt: int) -> None:
        """Note that this attempt writes here now, if that can be written."""
        with contextlib.suppress(CheckpointError):
            if attempt > self.newest_attempt():
                self.storage.write(_ATTEMPT, [str(attempt).encode()])

    def newest_attempt(self) -> int:
        """The attempt that was noted last; 0: none."""
        try:
            return int(self.storage.read_small(_ATTEMPT))
        except (DamagedError, ValueError):
            return 0

    def commit(self, manifest: Manifest) -> str:
        """Make the checkpoint exist, in one act; return its URL. Its files must be there: raises CheckpointError naming one that is not."""
        folder = folder_of(manifest.step)
        sizes = self.storage.sizes(folder)
        for file in manifest.files:
            if sizes.get(file.path) != file.bytes:
                raise CheckpointError(f"{self.storage.name(folder)}/{file.path} was written, but is not there any more")
        self.storage.write(f"{folder}/{MANIFEST}", [dump_manifest(manifest)])
        return f"{self.url}/{folder}"

    def retain(self, committed: str, keep: int, best: str | None = None) -> None:
        """Remove what need not be kept, now that `committed` is there: all of its step and before but the newest `keep` and `best`.

        Torn leftovers of earlier steps go too. What is of later steps stays: it is being written, or was damaged and will be
        made again.
        """
        found = self.found()
        step = next((f.step for f in found if f.url == committed), None)
        if step is None:
            return
        past = [f for f in found if f.step <= step]
        kept = {f.url for f in past[:keep]} | {best}
        for name, at in self._folders():
            if at > step or f"{self.url}/{name}" in kept:
                continue
            # the manifest first: what is half removed is no checkpoint
            self.storage.remove(f"{name}/{MANIFEST}")
            self.storage.remove(name)

    def model_url(self, manifest: Manifest) -> str:
        """Return the folder of the exported modules, or nothing where none were exported."""
        return f"{self.url}/{MODEL}" if manifest.head.model else ""

    def _folders(self) -> Iterator[tuple[str, int]]:
        for name in self.storage.sizes(""):
            match = _FOLDER.match(name)
            if match:
                yield name, int(match[1])
