"""Final models: found where training put them, and streamed from there as they are. Nothing in them is read, let alone unpickled.

Where that is was told by training code. It is opened only below the job's own place for checkpoints, and local files without following a
link, so that no file of somebody else is handed out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

import fsspec

from surefoot_service.checkpoints.places import Place, RefusedUrlError, read_place
from surefoot_service.errors import ConflictError, DomainError, InvalidError, NotFoundError, StorageError
from surefoot_service.waiting import HungError, Kind, Patience, Waiting

__all__ = ["LINKED", "STORAGE_S", "ModelFile", "Source", "find_model", "open_folder", "open_plain", "said"]

_SUFFIX = ".safetensors"
_CHUNK_BYTES = 1024 * 1024
# how long a storage may take to open a model, or to give the next part of it; clients tell a timeout of their own after a minute
STORAGE_S = 30.0
# what the system says of a link that is not to be followed
LINKED = (errno.ELOOP, errno.ENOTDIR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a job's model is looked for."""

    # a folder, or a file, as training code told it
    url: str
    # the folder that all of the job's checkpoints lie in
    place: str
    # the name of the storage, for waiting: what hangs is the place's, not the job's
    storage: str
    protocols: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One module's file, open: whoever has it streams it to its end, or closes it."""

    # "model.safetensors"
    name: str
    num_bytes: int
    file: BinaryIO
    storage: str

    async def chunks(self, waiting: Waiting) -> AsyncIterator[bytes]:
        """Yield the file's bytes, then close it. Raises what the storage raises, so that a cut answer is seen as cut."""
        # one that has begun is not cut off because others begin
        patience = Patience(of=self.storage, queue_s=STORAGE_S, within_s=STORAGE_S)
        try:
            while chunk := await waiting.run_with(patience, Kind.STORAGE, self.file.read, _CHUNK_BYTES):
                yield chunk
        finally:
            # not waited for: whoever asked may be gone, and the storage may hang
            waiting.leave(Kind.STORAGE, self.storage, self.file.close)


async def find_model(waiting: Waiting, source: Source, module: str | None) -> ModelFile:
    """Open the file at the source's URL, or in the folder there the one that is named, or the only one.

    Raises NotFoundError for no such module, ConflictError where the model is no longer there, or not below the job's place,
    InvalidError where there are several to choose from, StorageError where the storage does not answer; and BusyError.
    """
    opening = _opening(source, module)
    try:
        return await waiting.run_with(Patience(of=source.storage, within_s=STORAGE_S), Kind.STORAGE, opening)
    except HungError as error:
        raise StorageError(f"the storage of {source.url} has not answered for {STORAGE_S:g} s") from error


def _opening(source: Source, module: str | None) -> Callable[[], ModelFile]:
    """What opens it. Raises ConflictError where that may not be."""
    try:
        place, found = (read_place(url, source.protocols) for url in (source.place, source.url))
    except RefusedUrlError as error:
        raise ConflictError(f"the model is not opened: {error}") from error
    if not place.holds(found):
        raise ConflictError(
            f"the model is not opened: {source.url!r} is not below the job's own place, {source.place!r}"
        )
    look = partial(_local, place, found) if found.protocol == "file" else _remote
    return lambda: _located(source, module, look)


def _located(source: Source, module: str | None, look: Callable[[Source, str | None], ModelFile]) -> ModelFile:
    try:
        return look(source, module)
    except FileNotFoundError as error:
        raise ConflictError(f"the model was saved at {source.url}, and is no longer there") from error
    except DomainError:
        raise
    except Exception as error:
        # The boundary to whatever storage is behind fsspec, each with errors of its own.
        raise StorageError(f"the storage of {source.url} does not give the model: {said(error)}") from error


# ---- stores, by fsspec


def _remote(source: Source, module: str | None) -> ModelFile:
    system, path = fsspec.core.url_to_fs(source.url)
    # what an earlier look saw may be old
    system.invalidate_cache()
    chosen = _choose(_files(system, path), module)
    return ModelFile(
        name=_name(chosen),
        num_bytes=int(system.size(chosen)),
        file=cast(BinaryIO, system.open(chosen, "rb")),
        storage=source.storage,
    )


def _files(system: Any, path: str) -> list[str]:
    if path.endswith(_SUFFIX):
        return [path]
    found = [str(f["name"]) for f in system.ls(path, detail=True) if f["type"] == "file"]
    return sorted(f for f in found if f.endswith(_SUFFIX))


# ---- folders, by file descriptors, so that nothing can be put in a link's place between two looks


def _local(place: Place, found: Place, source: Source, module: str | None) -> ModelFile:
    """Open it below the folder that the job's place lies in, which somebody in charge chose, and may have reached by links."""
    base, below = f"/{'/'.join(place.parts[:-1])}", list(found.parts[len(place.parts) - 1 :])
    named = [below.pop()] if below[-1].endswith(_SUFFIX) else None
    try:
        with open_folder(base, below) as folder:
            names = named or sorted(n for n in os.listdir(folder) if n.endswith(_SUFFIX))
            name = _choose(names, module)
            file = open_plain(folder, name, "model")
            return ModelFile(name=name, num_bytes=os.fstat(file.fileno()).st_size, file=file, storage=source.storage)
    except OSError as error:
        if error.errno not in LINKED:
            raise
        raise ConflictError(
            f"the model is not opened: on the way to {source.url!r} there is a link, or no folder"
        ) from error


@contextmanager
def open_folder(base: str, below: Sequence[str]) -> Iterator[int]:
    """Yield the folder's descriptor. Below `base` no link is followed."""
    folder = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in below:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def open_plain(folder: int, name: str, what: str) -> BinaryIO:
    """Open a file in this folder, a plain one of its own. Raises ConflictError for whatever else it is."""
    # not blocking: a pipe in the file's place must not be waited for
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(handle)
        raise ConflictError(
            f"the {what} is not opened: {name!r} is no plain file of its own, but a link, pipe or the like"
        )
    return os.fdopen(handle, "rb")


# ---- what both share


def _choose(files: Sequence[str], module: str | None) -> str:
    if not files:
        raise FileNotFoundError
    names = [_name(f).removesuffix(_SUFFIX) for f in files]
    if module is not None:
        if module not in names:
            raise NotFoundError("module", module)
        return files[names.index(module)]
    if len(files) > 1:
        raise InvalidError("query.module", f"the model has several modules, name one: {', '.join(names)}")
    return files[0]


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def said(error: Exception) -> str:
    """What a storage's error says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
