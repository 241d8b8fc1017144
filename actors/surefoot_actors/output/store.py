"""The job's files in its place: manifests, objects, and who writes. Blocks: for threads. Raises CheckpointError where storage is away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import xxhash

from surefoot.errors import CheckpointError, DamagedError
from surefoot.output import (
    FOLDER,
    MANIFESTS,
    OBJECTS,
    WRITERS,
    ManifestName,
    OutputManifest,
    WriterName,
    as_of,
    counted,
    dump_output,
    load_output,
    manifest_names,
    writer_names,
)
from surefoot_actors.checkpoint.store import CheckpointStore

__all__ = ["FencedError", "OutputStore", "Put", "WriterId"]

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
        """In words."""
        return f"{self.trainer} of generation {self.generation}, attempt {self.attempt}"

    def among(self, writers: Sequence[WriterName]) -> WriterName:
        """Return this writer as one of these: the last of its generation, unless it has begun already."""
        beside = [w for w in writers if (w.attempt, w.generation) == (self.attempt, self.generation)]
        begun = [w.turn for w in beside if w.trainer == self.trainer]
        turn = begun[0] if begun else max((w.turn for w in beside), default=-1) + 1
        return WriterName(self.attempt, self.generation, turn, self.trainer)


class Put(NamedTuple):
    """An object that is there."""

    name: str
    # of what was put; the object may hold more behind that
    digest: str


class OutputStore:
    """One job's files. There is a single writer at a time, the newest; what an earlier one still does harms nothing that it counts on.

    A writer says that it has begun before it looks which manifests there are, and every commit ends with a look at who has begun. So a
    commit that was well is one that all later writers have found, and one that they have not found counts for nobody. What an earlier
    writer may be about to remove, for it may be frozen on the way from a look to the removal, is not counted on: beside the objects of
    the manifest that it goes on from, a writer counts on those alone that it has put there, under names that are no earlier writer's.
    """

    def __init__(self, url: str, me: WriterId) -> None:
        self._place = CheckpointStore(url)
        self._storage = self._place.storage.below(FOLDER)
        self._id = me
        self._me = me.among(())
        self._begun = False
        # what there is, the newest first
        self.names: list[ManifestName] = []
        # manifests that do not count
        self._late: list[str] = []
        # objects that are there; those that are counted on, by the digest of what they begin with
        self.objects: set[str] = set()
        self._puts: dict[str, str] = {}
        # stands behind what is put: so its digest is another than of what an earlier writer has put
        self._mark = b""
        # objects of a manifest that was read or written here, by its name; what the last look found nobody to need
        self._needs: dict[str, frozenset[str]] = {}
        self._unneeded: frozenset[str] = frozenset()

    def take_over(self) -> None:
        """Be the writer from now on, and look what there is. Raises FencedError."""
        self._me = self._id.among(self._writers())
        self._begin(self._me)
        there = manifest_names(self._storage.sizes(MANIFESTS))
        self.names = counted(there, self._writers())
        self._late = sorted({name.name for name in there}.difference(name.name for name in self.names))
        self._begin(self._me._replace(after=self.names[0].seq if self.names else 0))
        self.objects = set(self._storage.sizes(OBJECTS))
        if self.objects or any(writer.order != self._me.order for writer in self._writers()):
            self._mark = f"\0{self._me.name}".encode()
        self._begun = True

    def is_empty(self) -> bool:
        """Whether nothing was ever kept here: then a writer may begin later, when it can be written to."""
        return not self._storage.sizes(MANIFESTS)

    def begin_if_not_yet(self) -> None:
        """Take over now, where it could not be done before. Raises FencedError where others have written since."""
        if not self._begun:
            self.take_over()
            if self.names:
                raise FencedError

    def _begin(self, me: WriterName) -> None:
        self._check()
        self._storage.write(f"{WRITERS}/{me.name}", [me.name.encode()])
        self._check()

    def _check(self) -> None:
        """Raise FencedError where a later writer has begun."""
        if any(writer.order > self._me.order for writer in self._writers()):
            raise FencedError

    def _writers(self) -> list[WriterName]:
        return writer_names(self._storage.sizes(WRITERS))

    def count_on(self, objects: Iterable[Put]) -> None:
        """Have these objects, of the manifest that is gone on from, there already. To all earlier writers they are wanted as well."""
        self._puts.update({put.digest: put.name for put in objects})

    def read(self, name: str) -> OutputManifest:
        """Read a manifest. Raises DamagedError."""
        try:
            manifest = load_output(name, self._storage.read_small(f"{MANIFESTS}/{name}"))
        except ValueError as error:
            raise DamagedError(str(error)) from error
        self._needs[name] = _objects_of(manifest)
        return manifest

    def put(self, data: memoryview | bytes) -> Put:
        """Have an object there that begins with these bytes."""
        found = xxhash.xxh3_128(data)
        digest = found.hexdigest()
        if digest not in self._puts:
            found.update(self._mark)
            name = found.hexdigest()
            self._storage.write(f"{OBJECTS}/{name}", [data, self._mark])
            self.objects.add(name)
            self._puts[digest] = name
        return Put(self._puts[digest], digest)

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
        """Make it the newest manifest, in one act. Raises FencedError where a later writer has begun, and may not have found it."""
        self._check()
        seq = self.names[0].seq + 1 if self.names else 1
        try:
            name, body = dump_output(manifest, seq=seq, at=at, writer=self._me.wrote)
        except ValueError as error:
            raise CheckpointError(f"the files at {self._storage.url} cannot be kept: {error}") from error
        self._storage.write(f"{MANIFESTS}/{name}", [body])
        self._check()
        self._needs[name] = _objects_of(manifest)
        self.names = manifest_names([name, *(n.name for n in self.names)])

    def prune(self) -> None:
        """Remove manifests that no checkpoint and nobody else may want, and objects that nobody has needed since the last time.

        Raises FencedError where a later writer has begun.
        """
        self._check()
        for late in self._late[:_MOST_REMOVED]:
            self._storage.remove(f"{MANIFESTS}/{late}")
        del self._late[:_MOST_REMOVED]
        if len(self.names) > _KEEP:
            for old in self._unwanted():
                self._storage.remove(f"{MANIFESTS}/{old.name}")
                self.names.remove(old)
                self._needs.pop(old.name, None)
        unneeded = self.objects - self._needed()
        gone = sorted(unneeded & self._unneeded)[:_MOST_REMOVED]
        self.objects.difference_update(gone)
        self._puts = {digest: name for digest, name in self._puts.items() if name in self.objects}
        for name in gone:
            self._storage.remove(f"{OBJECTS}/{name}")
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
