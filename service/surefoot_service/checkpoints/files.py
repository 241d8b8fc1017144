"""The files that a job's training wrote, as they are kept in the job's place: listed, and streamed from there.

Trainers wrote what is read here, and with them the user's code. A file is looked up by its path in a manifest and put together from
objects, which are opened by their digests alone, below the job's own place, and of local files without following a link: no path of a
user's, and none that a manifest has, is ever opened.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, cast

import fsspec

from surefoot.output import (
    FOLDER,
    MANIFESTS,
    MAX_MANIFEST_BYTES,
    OBJECTS,
    WRITERS,
    KeptFile,
    ManifestName,
    OutputManifest,
    counted,
    load_output,
    manifest_names,
    writer_names,
)
from surefoot_service.checkpoints.models import LINKED, STORAGE_S, open_folder, open_plain, said
from surefoot_service.checkpoints.places import RefusedUrlError, read_place
from surefoot_service.errors import ConflictError, DomainError, InvalidError, NotFoundError, StorageError
from surefoot_service.waiting import HungError, Kind, Patience, Waiting

__all__ = ["JobFiles", "Span", "find_files"]

_ANEW = "these files have been synchronised anew since, and some are gone: list them again"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from the first up to and without the last."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """What is kept of a job's files at one moment."""

    # names the moment: the manifest
    version: str
    manifest: OutputManifest
    place: str
    # the name of the storage, for waiting
    storage: str
    protocols: tuple[str, ...]

    def file(self, path: str) -> KeptFile:
        """Raises NotFoundError."""
        found = next((file for file in self.manifest.files if file.path == path), None)
        if found is None:
            raise NotFoundError("file", path)
        return found

    async def chunks(self, waiting: Waiting, file: KeptFile, span: Span) -> AsyncIterator[bytes]:
        """Yield these bytes of a file. Raises what the storage raises, so that a cut answer is seen as cut."""
        patience = Patience(of=self.storage, queue_s=STORAGE_S, within_s=STORAGE_S)
        for name, start, size in _pieces(file, span):
            where = (self.place, self.protocols, name, start, size)
            yield await waiting.run_with(patience, Kind.STORAGE, _read_object, *where)


async def find_files(
    waiting: Waiting, place: str, protocols: tuple[str, ...], version: str | None = None
) -> JobFiles | None:
    """Return what is kept below the job's place, the newest, or that of a version; None: nothing yet.

    Raises ConflictError for a version that is there no more, InvalidError for what is none, StorageError where the storage does not answer.
    """
    names = manifest_names([version]) if version is not None else None
    if names == []:
        raise InvalidError("query.version", "this is no version: take it from the list of files")
    storage = place.rpartition("/")[0]
    try:
        found = await waiting.run_with(
            Patience(of=storage, within_s=STORAGE_S), Kind.STORAGE, _find, place, protocols, names
        )
    except HungError as error:
        raise StorageError(f"the storage of {place} has not answered for {STORAGE_S:g} s") from error
    if found is None:
        return None
    name, manifest = found
    return JobFiles(version=name, manifest=manifest, place=place, storage=storage, protocols=protocols)


def _find(
    place: str, protocols: tuple[str, ...], asked: list[ManifestName] | None
) -> tuple[str, OutputManifest] | None:
    with_version = asked is not None
    for name in asked or _counted(place, protocols):
        try:
            return name.name, _manifest(place, protocols, name.name)
        except FileNotFoundError as error:
            if with_version:
                raise ConflictError(_ANEW) from error
        except ValueError as error:
            raise StorageError(f"the list of the files at {place} cannot be read: {error}") from error
    return None


# A manifest's name has its digest: it never changes.
@lru_cache(maxsize=4)
def _manifest(place: str, protocols: tuple[str, ...], name: str) -> OutputManifest:
    return load_output(name, _read(place, protocols, (MANIFESTS, name), 0, MAX_MANIFEST_BYTES))


def _pieces(file: KeptFile, span: Span) -> Iterator[tuple[str, int, int]]:
    """Yield which part of which object these bytes are."""
    at = 0
    for name, start, size in file.pieces:
        first, last = max(span.start, at), min(span.stop, at + size)
        if first < last:
            yield name, start + first - at, last - first
        at += size


# ---- the storage: blocks


def _counted(place: str, protocols: tuple[str, ...]) -> list[ManifestName]:
    there = manifest_names(_names(place, protocols, MANIFESTS))
    return counted(there, writer_names(_names(place, protocols, WRITERS))) if there else []


def _names(place: str, protocols: tuple[str, ...], inner: str) -> list[str]:
    with _telling(place):
        try:
            base, below = _local(place, protocols)
            if base:
                with open_folder(base, [*below, FOLDER, inner]) as folder:
                    return os.listdir(folder)
            system, root = _remote(place)
            return [
                str(f["name"]).rstrip("/").rpartition("/")[2]
                for f in system.ls(f"{root}/{FOLDER}/{inner}", detail=True)
            ]
        except FileNotFoundError:
            return []


def _read_object(place: str, protocols: tuple[str, ...], name: str, start: int, size: int) -> bytes:
    """Read so many bytes of an object, all of them. Raises ConflictError where it is there no more."""
    try:
        data = _read(place, protocols, (OBJECTS, name), start, size)
    except FileNotFoundError as error:
        raise ConflictError(_ANEW) from error
    if len(data) != size:
        raise StorageError(f"a part of the file is cut off at {place}")
    return data


def _read(place: str, protocols: tuple[str, ...], inner: tuple[str, str], start: int, size: int) -> bytes:
    """Read so many bytes of a manifest or an object, or up to its end. Raises FileNotFoundError."""
    with _telling(place):
        base, below = _local(place, protocols)
        if base:
            with open_folder(base, [*below, FOLDER, inner[0]]) as folder, open_plain(folder, inner[1], "file") as file:
                file.seek(start)
                data = file.read(size)
        else:
            system, root = _remote(place)
            with cast(BinaryIO, system.open(f"{root}/{FOLDER}/{inner[0]}/{inner[1]}", "rb")) as file:
                file.seek(start)
                data = file.read(size)
    return bytes(data)


def _local(place: str, protocols: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the folder that the job's own lies in, and the job's; nothing for a place that is no folder of this machine."""
    try:
        found = read_place(place, protocols)
    except RefusedUrlError as error:
        raise ConflictError(f"the files are not opened: {error}") from error
    if found.protocol != "file":
        return "", []
    return f"/{'/'.join(found.parts[:-1])}", list(found.parts[-1:])


def _remote(place: str) -> tuple[Any, str]:
    system, root = fsspec.core.url_to_fs(place)
    # what an earlier look saw may be old
    system.invalidate_cache()
    return system, str(root).rstrip("/")


class _telling:
    """Makes an error of the service's of whatever the storage raises, but for what is not there."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, FileNotFoundError | DomainError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.errno in LINKED:
            raise ConflictError(
                f"the files are not opened: on the way to {self._place!r} there is a link, or no folder"
            ) from error
        raise StorageError(f"the storage of {self._place} does not give the files: {said(error)}") from error
