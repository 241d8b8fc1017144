"""Files below one URL: a local folder, or anything that fsspec reaches. Writes are atomic. Blocks: for threads, never an event loop.

Credentials and endpoints come from the environment, as each backend knows them (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import fsspec
import numpy as np
import xxhash
from fsspec.implementations.local import LocalFileSystem

from surefoot.errors import CheckpointError, DamagedError, MissingError
from surefoot_actors.checkpoint.manifest import FileEntry

__all__ = ["CHUNK_BYTES", "Storage"]

# What is written and hashed at a time; what is read at a time by one of NUM_READERS threads.
CHUNK_BYTES = 8 << 20
NUM_READERS = 8
# The parts of an S3 upload are 10,000 at most.
_PART_BYTES, _MOST_PARTS = 16 << 20, 9_000

# A file of which the system says this will not be better the next time.
_LOST = (errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM)


class Storage:
    """All methods raise CheckpointError naming file and cause; paths are relative to the URL. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        with self._telling("reach", ""):
            # What others write is to be seen at once, and the environment to be read anew.
            options = {"skip_instance_cache": True, "use_listings_cache": False}
            self._fs, root = fsspec.core.url_to_fs(self.url, **options)
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def below(self, path: str) -> Storage:
        """Return a folder of this one, over the same connections."""
        inner = copy(self)
        inner.url, inner._root = f"{self.url}/{path}", f"{self._root}/{path}"
        return inner

    def name(self, path: str) -> str:
        """The file's whole name, for messages."""
        return f"{self.url}/{path}" if path else self.url

    def write(self, path: str, chunks: Iterable[Any], num_bytes: int = 0) -> FileEntry:
        """Write a file, whole or not at all; `num_bytes`: about how large it will be. Returns its entry."""
        digest, count = xxhash.xxh3_128(), 0

        def passing() -> Iterator[Any]:
            nonlocal count
            for chunk in chunks:
                digest.update(chunk)
                count += len(chunk)
                yield chunk

        with self._telling("write", path):
            if self._local:
                _write_local(self._at(path), passing())
            else:
                self._write_remote(self._at(path), passing(), num_bytes)
        return FileEntry(path=path, bytes=count, digest=digest.hexdigest())

    def _write_remote(self, at: str, chunks: Iterator[Any], num_bytes: int) -> None:
        file = self._fs.open(at, "wb", block_size=max(_PART_BYTES, num_bytes // _MOST_PARTS))
        try:
            for chunk in chunks:
                file.write(chunk)
            file.close()
        except BaseException:
            # or its end would make the part that was written the file; what is told is what went wrong first
            with contextlib.suppress(Exception):
                file.discard()
            file.closed = True
            raise

    def read(self, entries: Sequence[FileEntry]) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
        """Read files side by side and verify them. Raises DamagedError naming one that is missing, cut or changed."""
        files = [np.empty(entry.bytes, dtype=np.uint8) for entry in entries]
        with ThreadPoolExecutor(NUM_READERS, "read-checkpoint") as pool:
            list(pool.map(self._check_size, entries))
            pieces = [
                pool.submit(self._read_piece, entry.path, at, into.data[at : at + CHUNK_BYTES])
                for entry, into in zip(entries, files, strict=True)
                for at in range(0, entry.bytes, CHUNK_BYTES)
            ]
            try:
                for piece in pieces:
                    piece.result()
            finally:
                pool.shutdown(cancel_futures=True)
        for entry, data in zip(entries, files, strict=True):
            digest = xxhash.xxh3_128_hexdigest(data.data)
            if digest != entry.digest:
                raise DamagedError(
                    f"{self.name(entry.path)} is corrupt: its digest is {digest}, {entry.digest} was written"
                )
        return files

    def _check_size(self, entry: FileEntry) -> None:
        with self._telling("read", entry.path):
            size = self._fs.info(self._at(entry.path))["size"]
        if size != entry.bytes:
            raise DamagedError(f"{self.name(entry.path)} is corrupt: it has {size} bytes, {entry.bytes} were written")

    def _read_piece(self, path: str, at: int, into: memoryview) -> None:
        with self._telling("read", path):
            if self._local:
                with open(self._at(path), "rb", buffering=0) as file:
                    count = os.preadv(file.fileno(), [into], at)
            else:
                data = self._fs.cat_file(self._at(path), start=at, end=at + len(into))
                count = len(data)
                into[:count] = data
            if count != len(into):
                raise DamagedError(f"{self.name(path)} is cut off at byte {at + count}")

    def read_small(self, path: str) -> bytes:
        """Read a file whole."""
        with self._telling("read", path):
            return bytes(self._fs.cat_file(self._at(path)))

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        with self._telling("look for", path):
            try:
                self._fs.info(self._at(path))
            except FileNotFoundError:
                return False
            return True

    def sizes(self, path: str) -> dict[str, int | None]:
        """What lies in a folder, by name: a file's bytes, or None for a folder. Nothing where there is no such folder."""
        with self._telling("list", path):
            try:
                found = self._fs.ls(self._at(path), detail=True)
            except FileNotFoundError:
                return {}
        entries = ((str(f["name"]).rstrip("/").rpartition("/")[2], f) for f in found)
        return {name: None if f["type"] == "directory" else f["size"] for name, f in entries if name}

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it. One that is not there is removed already."""
        with self._telling("remove", path), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or "/"

    @contextlib.contextmanager
    def _telling(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            if verb == "read":
                raise MissingError(f"{self.name(path)} is missing") from error
            raise CheckpointError(f"could not {verb} {self.name(path)}: {error}") from error
        except Exception as error:  # the edge to the storage: each backend has errors of its own
            lost = verb == "read" and self._local and isinstance(error, OSError) and error.errno in _LOST
            kind = DamagedError if lost else CheckpointError
            raise kind(f"could not {verb} {self.name(path)}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ImportError):
        return f"{error}; install what this kind of URL needs (S3: pip install 'surefoot[s3]')"
    return str(error) or type(error).__name__


def _write_local(at: str, chunks: Iterator[Any]) -> None:
    """Write under another name, make it durable, and rename: whoever reads finds all of it or nothing."""
    folder, _, name = at.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    part = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
    try:
        with open(part, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            _leave_memory(file.fileno())
        os.replace(part, at)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _leave_memory(file: int) -> None:
    """Have the system forget its copy of a durable file: memory is for what training reads, and taking more of it costs time."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
