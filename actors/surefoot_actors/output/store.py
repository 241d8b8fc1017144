"""The job's files in its place: manifests, objects, and who writes. Blocks: for threads. Raises CheckpointError where storage is away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from surefoot.errors import DamagedError, MissingError
from surefoot.output import (
    FOLDER,
    MANIFESTS,
    OBJECTS,
    WRITER,
    ManifestName,
    OutputManifest,
    as_of,
    dump_output,
    load_output,
    manifest_names,
)
from surefoot_actors.checkpoint.store import CheckpointStore

__all__ = ["FencedError", "OutputStore", "WriterId"]

# So many of the newest manifests stay, whatever checkpoints there are: a checkpoint that is being made may want one of them.
_KEEP = 8
# So many objects are removed at a time: the rest goes the next time.
_MOST_REMOVED = 200
# Objects are read side by side.
_NUM_READERS = 8


class FencedError(Exception):
    """A later trainer was elected: this one writes no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterId:
    """Who writes. Later attempts and generations come after earlier ones."""

    attempt: int
    generation: int
    trainer: str

    @property
    def name(self) -> str:
        return f"a{self.attempt}g{self.generation}{self.trainer}"

    def comes_before(self, noted: str) -> bool:
        """Whether what is noted names a later writer."""
        try:
            attempt, generation, _ = noted.split()
            return (self.attempt, self.generation) < (int(attempt), int(generation))
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"{self.attempt} {self.generation} {self.trainer}"


class OutputStore:
    """One job's files. There is a single writer at a time, the newest: it has said so before it looks what there is."""

    def __init__(self, url: str, me: WriterId) -> None:
        self._place, self._me = CheckpointStore(url), me
        self._storage = self._place.storage.below(FOLDER)
        # what there is, the newest first
        self.names: list[ManifestName] = []
        self.objects: set[str] = set()
        # objects of a manifest that was read or written here, by its name; what the last look found nobody to need
        self._needs: dict[str, frozenset[str]] = {}
        self._unneeded: frozenset[str] = frozenset()

    def take_over(self) -> None:
        """Be the writer from now on, and look what there is. Raises FencedError."""
        noted = self._noted()
        if self._me.comes_before(noted):
            raise FencedError
        if noted != str(self._me):
            self._storage.write(WRITER, [str(self._me).encode()])
        self.names = manifest_names(self._storage.sizes(MANIFESTS))
        self.objects = set(self._storage.sizes(OBJECTS))

    def _check(self) -> None:
        if self._noted() != str(self._me):
            raise FencedError

    def _noted(self) -> str:
        try:
            return self._storage.read_small(WRITER).decode(errors="replace")
        except MissingError:
            return ""

    def read(self, name: str) -> OutputManifest:
        """Read a manifest. Raises DamagedError."""
        try:
            manifest = load_output(name, self._storage.read_small(f"{MANIFESTS}/{name}"))
        except ValueError as error:
            raise DamagedError(str(error)) from error
        self._needs[name] = _objects_of(manifest)
        return manifest

    def put(self, data: memoryview | bytes) -> str:
        """Have an object with these bytes there; return its name."""
        name = xxhash.xxh3_128_hexdigest(data)
        if name not in self.objects:
            self._storage.write(f"{OBJECTS}/{name}", [data])
            self.objects.add(name)
        return name

    def get(self, names: Iterable[str]) -> Iterable[tuple[str, bytes]]:
        """Read objects, every byte verified. Raises DamagedError for one that is missing or corrupt."""
        with ThreadPoolExecutor(_NUM_READERS, "read-files") as pool:
            asked: deque[Future[tuple[str, bytes]]] = deque()
            try:
                for name in names:
                    asked.append(pool.submit(self._get, name))
                    # no further ahead than is read side by side: all of them together may be larger than this machine's memory
                    if len(asked) >= _NUM_READERS:
                        yield asked.popleft().result()
                while asked:
                    yield asked.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _get(self, name: str) -> tuple[str, bytes]:
        data = self._storage.read_small(f"{OBJECTS}/{name}")
        if xxhash.xxh3_128_hexdigest(data) != name:
            raise DamagedError(f"{self._storage.name(f'{OBJECTS}/{name}')} is corrupt")
        return name, data

    def commit(self, manifest: OutputManifest, at: int) -> None:
        """Make it the newest manifest, in one act. Raises FencedError where a later writer has come."""
        self._check()
        seq = self.names[0].seq + 1 if self.names else 1
        name, body = dump_output(manifest, seq=seq, at=at, writer=self._me.name)
        self._storage.write(f"{MANIFESTS}/{name}", [body])
        self._needs[name] = _objects_of(manifest)
        self.names = manifest_names([name, *(n.name for n in self.names)])

    def prune(self) -> None:
        """Remove manifests that no checkpoint and nobody else may want, and objects that nobody has needed since the last time.

        Raises FencedError before anything goes that a later writer counts on: what is there already, it does not write again.
        """
        if len(self.names) > _KEEP:
            for name in self._unwanted():
                self._check()
                self._storage.remove(f"{MANIFESTS}/{name.name}")
                self.names.remove(name)
                self._needs.pop(name.name, None)
        unneeded = self.objects - self._needed()
        for gone in sorted(unneeded & self._unneeded)[:_MOST_REMOVED]:
            self._check()
            self.objects.discard(gone)
            self._storage.remove(f"{OBJECTS}/{gone}")
        self._unneeded = frozenset(unneeded & self.objects)

    def _unwanted(self) -> list[ManifestName]:
        wanted = set(self.names[:_KEEP])
        for found in self._place.found():
            wanted.update(as_of(self.names, found.step)[:1])
        return [name for name in self.names if name not in wanted]

    def _needed(self) -> set[str]:
        """The objects of all manifests. One that is damaged needs nothing any more."""
        for name in [n.name for n in self.names if n.name not in self._needs]:
            try:
                self.read(name)
            except DamagedError:
                self._needs[name] = frozenset()
        return set().union(*self._needs.values())


def _objects_of(manifest: OutputManifest) -> frozenset[str]:
    return frozenset(piece[0] for file in manifest.files for piece in file.pieces)
