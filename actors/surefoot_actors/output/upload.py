"""From a look at the folder to a manifest: what is new is uploaded, in parts; what is known already costs nothing again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from surefoot.output import (
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_VALUES,
    MAX_MODIFIED_NS,
    KeptFile,
    OutputManifest,
    manifest_cost,
)
from surefoot_actors.output.look import SMALL_BYTES, Look, Seen, take
from surefoot_actors.output.store import OutputStore, Put

__all__ = ["Known", "Uploader"]

# What a big file is cut into; small files are laid end to end up to this.
PART_BYTES = 4 * 1024 * 1024
# Beside what is needed, so much of packs may be of files that are gone or other by now, before small files are packed anew.
_MOST_WASTE = 64 * 1024 * 1024
# A file that was being changed each time it was read, so many times in a row, is told of.
_RESTLESS = 4
# What all files may take of a manifest; the rest of it says what is left out.
_MOST_LISTED = MAX_MANIFEST_BYTES - 1024 * 1024, MAX_MANIFEST_VALUES - 100_000
_MOST_TOLD = 20

Piece = tuple[str, int, int]


@dataclass(slots=True)
class Known:
    """What is kept of a file."""

    # what the system told of it; None: it is to be read again
    seen: Seen | None
    # the version that is kept; None: none yet
    kept: KeptFile | None
    # the file that it was read from, and the digests and sizes of its parts: if it is the beginning of what is read next, it only grows
    inode: int = 0
    parts: tuple[tuple[str, int], ...] = ()
    restless: int = 0


class _ChangedError(Exception):
    """The file was changed while it was read."""


@dataclass(slots=True)
class _Pack:
    """Small files, laid end to end."""

    data: bytearray = field(default_factory=bytearray)
    files: list[tuple[Seen, int]] = field(default_factory=list)


class Uploader:
    """Knows what is kept of each file. Used by one thread at a time, but for `is_known`."""

    def __init__(self, store: OutputStore, folder: Path, most_bytes: int, pause: Callable[[float], None]) -> None:
        """`pause` is told the seconds of CPU that a part has taken: so that whoever computes is not held up."""
        self._store, self._folder, self._most_bytes, self._pause = store, folder, most_bytes, pause
        self.known: dict[str, Known] = {}
        self._buffer = bytearray(PART_BYTES)

    def puts(self) -> Iterator[Put]:
        """Objects that begin with what is in a file, or a part of it."""
        for known in self.known.values():
            pieces = known.kept.pieces if known.kept else ()
            for (name, start, _), (digest, _) in zip(pieces, known.parts, strict=False):  # an empty file has no piece
                if not start:
                    yield Put(name, digest)

    def is_known(self, seen: Seen) -> bool:
        """Whether what is kept of this file is what it holds."""
        known = self.known.get(seen.path)
        return known is not None and known.seen == seen

    def upload(self, look: Look, step: int, *, ended: bool = False) -> OutputManifest:
        """Have everything that fits there; return the manifest. Raises CheckpointError."""
        left_out = list(look.odd)
        chosen = self._chosen(look, left_out)
        # what could not be looked into has not gone
        stays = {path: known for path, known in self.known.items() if any(_is_in(path, f) for f in look.unread)}
        self.known = stays | {seen.path: self.known.get(seen.path) or Known(None, None) for seen in chosen}
        fresh = [seen for seen in chosen if not self.is_known(seen)]
        unread = self._pack([s for s in fresh if s.bytes <= SMALL_BYTES], look)
        for seen in [*unread, *(s for s in fresh if s.bytes > SMALL_BYTES)]:
            self._upload_big(seen, look, left_out)
        self._repack_if_wasteful()
        kept = [known.kept for known in self.known.values() if known.kept is not None]
        return OutputManifest(
            step=step,
            ended=ended,
            at=look.at_ns / 1e9,
            files=tuple(sorted(kept, key=lambda file: file.path)),
            left_out=tuple(text[:2000] for text in left_out[:_MOST_TOLD]),
        )

    def _chosen(self, look: Look, left_out: list[str]) -> list[Seen]:
        """Those within the bounds: what was kept before comes first."""
        chosen: list[Seen] = []
        left: tuple[int, ...] = (MAX_FILES, self._most_bytes, *_MOST_LISTED)
        beyond: list[str] = []
        for seen in sorted(look.files, key=lambda s: (s.path not in self.known, s.path)):
            cost = (1, seen.bytes, *manifest_cost(seen.path, 1 + seen.bytes // PART_BYTES))
            if all(a <= b for a, b in zip(cost, left, strict=True)):
                chosen.append(seen)
                left = tuple(b - a for a, b in zip(cost, left, strict=True))
            else:
                beyond.append(seen.path)
        if beyond:
            left_out.insert(
                0,
                f"{len(beyond)} files are beyond what is kept of a job ({MAX_FILES} files, {self._most_bytes} bytes): "
                f"{', '.join(map(repr, sorted(beyond)[:5]))}; remove what is not needed, or have the bound raised "
                "(SUREFOOT_MAX_OUTPUT_BYTES)",
            )
        return chosen

    # ---- small files

    def _pack(self, files: Iterable[Seen], look: Look) -> list[Seen]:
        """Lay small files end to end; return those that could not be read as they were, or at all."""
        pack, unread = _Pack(), []
        for seen in files:
            data = look.contents.get(seen.path)
            if data is None and (data := self._read_small(seen)) is None:
                unread.append(seen)
                continue
            if len(pack.data) + len(data) > PART_BYTES:
                self._close(pack, look)
                pack = _Pack()
            pack.files.append((seen, len(pack.data)))
            pack.data += data
        self._close(pack, look)
        return unread

    def _read_small(self, seen: Seen) -> bytes | None:
        """What is in a file that was not read as the step began; None where it is not as it was then."""
        try:
            handle = take(self._folder / seen.path)
        except OSError:
            return None
        try:
            data = os.pread(handle, seen.bytes, 0)
            now = os.fstat(handle)
        finally:
            os.close(handle)
        unchanged = (now.st_ino, now.st_size, now.st_mtime_ns) == (seen.inode, seen.bytes, seen.modified_ns)
        return data if unchanged and len(data) == seen.bytes else None

    def _close(self, pack: _Pack, look: Look) -> None:
        name = self._put(memoryview(pack.data)).name if pack.data else ""
        for seen, start in pack.files:
            pieces = ((name, start, seen.bytes),) if seen.bytes else ()
            digest = xxhash.xxh3_128_hexdigest(memoryview(pack.data)[start : start + seen.bytes])
            self._keep(seen, pieces, ((digest, seen.bytes),), look)

    def _repack_if_wasteful(self) -> None:
        """Have small files read again the next time, where packs hold much that nobody needs."""
        small = [known for known in self.known.values() if known.kept and known.kept.bytes <= SMALL_BYTES]
        packs = {piece[0] for known in small if known.kept for piece in known.kept.pieces}
        needed = sum(known.kept.bytes for known in small if known.kept)
        if len(packs) * PART_BYTES > _MOST_WASTE and len(packs) * SMALL_BYTES > 2 * needed:
            for known in small:
                known.seen = None

    # ---- big files

    def _upload_big(self, seen: Seen, look: Look, left_out: list[str]) -> None:
        known = self.known[seen.path]
        try:
            puts = self._parts(seen, known)
        except _ChangedError:
            known.restless += 1
            if known.restless >= _RESTLESS:
                left_out.append(
                    f"{seen.path!r}: it is changed each time it is read, so an earlier version is kept, or none"
                )
            return
        except FileNotFoundError:
            return  # gone meanwhile
        except OSError as error:
            left_out.append(f"{seen.path!r}: it cannot be read: {error.strerror}")
            return
        pieces = tuple((put.name, 0, size) for put, size in puts)
        self._keep(seen, pieces, tuple((put.digest, size) for put, size in puts), look)

    def _keep(self, seen: Seen, pieces: tuple[Piece, ...], parts: tuple[tuple[str, int], ...], look: Look) -> None:
        modified_ns = min(max(0, seen.modified_ns), MAX_MODIFIED_NS)
        kept = KeptFile(path=seen.path, bytes=seen.bytes, modified_ns=modified_ns, pieces=pieces)
        self.known[seen.path] = Known(seen if look.is_settled(seen) else None, kept, seen.inode, parts)

    def _parts(self, seen: Seen, known: Known) -> list[tuple[Put, int]]:
        """Upload the file's first bytes, as many as it had. Raises _ChangedError where they are not those that it had."""
        handle = take(self._folder / seen.path)
        try:
            if os.fstat(handle).st_ino != seen.inode:
                raise _ChangedError
            goes_on, puts = known.inode == seen.inode and bool(known.parts), []
            for at in range(0, seen.bytes, PART_BYTES):
                part = self._read(handle, at, min(PART_BYTES, seen.bytes - at))
                goes_on = goes_on and _begins(part, known.parts[at // PART_BYTES :][:1])
                puts.append((self._put(part), len(part)))
            now = os.fstat(handle)
        finally:
            os.close(handle)
        unchanged = (now.st_size, now.st_mtime_ns) == (seen.bytes, seen.modified_ns)
        # only appended to: what it had when the step began are its first bytes still
        if not unchanged and not (goes_on and now.st_size > seen.bytes):
            raise _ChangedError
        return puts

    def _read(self, handle: int, at: int, size: int) -> memoryview:
        part = memoryview(self._buffer)[:size]
        if os.preadv(handle, [part], at) != size:
            raise _ChangedError
        return part

    def _put(self, part: memoryview) -> Put:
        began = time.thread_time()
        put = self._store.put(part)
        self._pause(time.thread_time() - began)
        return put


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _begins(part: memoryview, before: tuple[tuple[str, int], ...]) -> bool:
    """Whether a part of the file begins with what was there before."""
    return all(size <= len(part) and xxhash.xxh3_128_hexdigest(part[:size]) == digest for digest, size in before)
