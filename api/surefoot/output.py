"""The files that training writes into `run.output_dir`: how they are kept, and how they are told.

Below the place of the job's checkpoints lie

    files/manifests/SEQ-AT-WRITER-DIGEST.json   one a synchronisation: what there was as a step began. Written last, in one act
    files/objects/DIGEST                        what files consist of: a part of a big one, or several small ones end to end
    files/writers/ORDER                         who has begun to write: earlier ones write no more
    files/writers/ORDER-AFTER                   the newest manifest that it has found: later ones of earlier writers do not count

Trainers write them, trainers and the control plane read them: nothing here touches a storage. No name is written to twice with other bytes,
and which manifests count is a function of names alone: a storage need know no locks and no conditions, and a trainer that was frozen for
an hour between a look and a write, while another was elected, changes nothing that the other one has written or goes on from.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

__all__ = [
    "AFTER_ALL",
    "DEFAULT_MAX_OUTPUT_BYTES",
    "FOLDER",
    "MANIFESTS",
    "MAX_FILES",
    "MAX_MANIFEST_BYTES",
    "MAX_MANIFEST_VALUES",
    "MAX_MODIFIED_NS",
    "MAX_OBJECT_BYTES",
    "OBJECTS",
    "WRITERS",
    "FileList",
    "FileView",
    "KeptFile",
    "ManifestName",
    "OutputManifest",
    "WriterName",
    "as_of",
    "counted",
    "dump_output",
    "load_output",
    "manifest_cost",
    "manifest_names",
    "path_fault",
    "writer_names",
]

FOLDER, MANIFESTS, OBJECTS, WRITERS = "files", "manifests", "objects", "writers"
#: so many files of a job are kept
MAX_FILES = 10_000
#: what is kept of a job, in bytes, unless the settings say otherwise
DEFAULT_MAX_OUTPUT_BYTES = 10 * 1024**3
#: a manifest that is larger is none of ours, nor one with more values: to read those would take more memory than there may be
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_MANIFEST_VALUES = 1_000_000
#: an object's bytes, at most
MAX_OBJECT_BYTES = 8 * 1024 * 1024
#: the `at` of what was left when its trainer ended in the midst of a step: shown, never gone on from
AFTER_ALL = 999_999_999_999

#: the latest moment that a file may have been modified at: in the year 2262
MAX_MODIFIED_NS = 2**63 - 1

_MAX_PATH_BYTES, _MAX_NAME_BYTES = 1024, 255
_MAX_LEFT_OUT = 20

_NAME = re.compile(r"^(\d{9,15})-(\d{12,15})-([a-z0-9]{1,60})-([0-9a-f]{16})\.json$")
_WROTE = re.compile(r"^a(\d{1,15})g(\d{1,15})([a-z][a-z0-9]*)$")
_WRITER = re.compile(r"^(\d{6,15})-(\d{9,15})-(\d{3,15})-([a-z][a-z0-9]{0,39})(?:-(\d{9,15}))?$")
_MOST_SEQ = 10**15 - 1


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KeptFile(_Value):
    """One file, as it was."""

    path: Annotated[str, Field(min_length=1, max_length=_MAX_PATH_BYTES)]
    bytes: Annotated[int, Field(ge=0, le=2**53)]
    # when it was modified, in nanoseconds since 1970
    modified_ns: Annotated[int, Field(ge=0, le=MAX_MODIFIED_NS)]
    # (object, where in it, how many bytes), end to end
    pieces: Annotated[
        tuple[
            tuple[
                Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")],
                Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)],
                Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)],
            ],
            ...,
        ],
        FailFast(),
    ]


class OutputManifest(_Value):
    """All files of a job, as a step began. It exists once this is written."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    # the step that was to begin, and whether it is after the train function has returned
    step: Annotated[int, Field(ge=0, le=2**53)]
    ended: bool = False
    # unix time
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
    files: Annotated[tuple[KeptFile, ...], FailFast(), Field(max_length=MAX_FILES)]
    # what is not kept, and why: sentences, the first few
    left_out: Annotated[tuple[Annotated[str, Field(max_length=2000)], ...], Field(max_length=_MAX_LEFT_OUT)] = ()


class ManifestName(NamedTuple):
    """What a manifest's name says. They sort by what was written last."""

    # counts on over all writers of a job
    seq: int
    # the files are as they were when this step began; one more than the last step: after the code after the loop
    at: int
    name: str


class WriterName(NamedTuple):
    """A writer that has begun. They sort by who was elected last."""

    attempt: int
    generation: int
    # among those that were elected in one generation
    turn: int
    trainer: str
    # the newest manifest that it found; None: it has not looked yet
    after: int | None = None

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Where it stands among writers."""
        return self[:4]

    @property
    def wrote(self) -> str:
        """How its manifests name it."""
        return f"a{self.attempt}g{self.generation}{self.trainer}"

    @property
    def name(self) -> str:
        """What says so."""
        begun = f"{self.attempt:06d}-{self.generation:09d}-{self.turn:03d}-{self.trainer}"
        return begun if self.after is None else f"{begun}-{self.after:09d}"


def manifest_names(names: Iterable[str]) -> list[ManifestName]:
    """Return those of these names that are manifests', the newest first."""
    found = (m for name in names if (m := _NAME.match(name)))
    return sorted((ManifestName(int(m[1]), int(m[2]), m[0]) for m in found), reverse=True)


def writer_names(names: Iterable[str]) -> list[WriterName]:
    """Return those of these names that are writers'; the one that was elected last comes last."""
    found = (m for name in names if (m := _WRITER.match(name)))
    writers = (WriterName(int(m[1]), int(m[2]), int(m[3]), m[4], int(m[5]) if m[5] else None) for m in found)
    return sorted(writers, key=lambda writer: writer.order)


def counted(names: Iterable[ManifestName], writers: Iterable[WriterName]) -> list[ManifestName]:
    """Return the manifests that count, in the order given: all but those that a writer wrote that no later writer has found."""
    begun = sorted((w for w in writers if w.after is not None), key=lambda writer: writer.order)
    orders = [writer.order for writer in begun]
    turns = {writer.wrote: writer.turn for writer in begun}
    # by place: the newest manifest that this one and all later writers have found; last, what counts where there is no later one
    afters = [w.after for w in begun if w.after is not None]
    found = [*accumulate((_MOST_SEQ, *reversed(afters)), min)][::-1]
    return [name for name in names if name.seq <= found[bisect_right(orders, _order(name, turns))]]


def _order(name: ManifestName, turns: Mapping[str, int]) -> tuple[int, int, int, str]:
    """Where who wrote this stands among writers; one that an earlier version wrote is known by its attempt and generation alone."""
    wrote = name.name.split("-")[2]
    parts = _WROTE.match(wrote)
    return (int(parts[1]), int(parts[2]), turns.get(wrote, -1), parts[3]) if parts else (-1, -1, -1, "")


def as_of(names: Iterable[ManifestName], step: int) -> list[ManifestName]:
    """Return those that whoever begins this step may go on from, the best first: none knows of what is yet to be written."""
    return [name for name in names if name.at <= step]


def dump_output(manifest: OutputManifest, *, seq: int, at: int, writer: str) -> tuple[str, bytes]:
    """Return the manifest's name and file. Raises ValueError where there can be no more."""
    if seq > _MOST_SEQ:
        raise ValueError(f"a manifest is numbered {_MOST_SEQ}: there can be none after that")
    body = manifest.model_dump_json().encode()
    if fault := _size_fault(body):
        raise ValueError(f"the list of its files {fault}")
    return f"{seq:09d}-{at:012d}-{writer}-{_digest(body)}.json", body


def load_output(name: str, body: bytes) -> OutputManifest:
    """Read a manifest's file. Raises ValueError for one that is damaged, or not what it says it is."""
    found = _NAME.match(name)
    if found is None or _digest(body) != found[4]:
        raise ValueError(f"{name} is corrupt: its digest is not that of what it holds")
    if fault := _size_fault(body):
        raise ValueError(f"{name} {fault}")
    try:
        manifest = OutputManifest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(f"{name} is not of format 1, the one that is known here") from error
    for file in manifest.files:
        fault = path_fault(file.path)
        if fault or sum(piece[2] for piece in file.pieces) != file.bytes:
            raise ValueError(f"{name} names a file that cannot be: {file.path!r}: {fault or 'its pieces do not fit'}")
    if twice := _twice([file.path for file in manifest.files]):
        raise ValueError(f"{name} names a file that cannot be: {twice!r} is there twice, or is a file and a folder")
    return manifest


def manifest_cost(path: str, num_pieces: int) -> tuple[int, int]:
    """Return how many bytes and values a file takes of a manifest, at most."""
    return 2 * len(path.encode()) + 150 + 60 * num_pieces, _values(path.encode()) + 10 + 4 * num_pieces


def _size_fault(body: bytes) -> str:
    """Say why this is too much to be read. Counted without reading it, so that it costs no more than its bytes."""
    if len(body) > MAX_MANIFEST_BYTES:
        return f"has more than {MAX_MANIFEST_BYTES} bytes"
    return f"has more than {MAX_MANIFEST_VALUES} values" if _values(body) > MAX_MANIFEST_VALUES else ""


def _values(text: bytes) -> int:
    return sum(map(text.count, (b",", b"[", b"{")))


def _twice(paths: Sequence[str]) -> str:
    """Return a path that is named twice, or is the folder of another one; empty: there is none."""
    seen: set[str] = set()
    folders = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}
    for path in paths:
        if path in seen or path in folders:
            return path
        seen.add(path)
    return ""


def path_fault(path: str) -> str:
    """Say why this is no path of a file below a folder; empty: it is one, everywhere."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size > _MAX_PATH_BYTES:
        return f"its path has more than {_MAX_PATH_BYTES} bytes"
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path):
        return "its name has a backslash or a control character"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its path leads out of the folder, or is none"
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        return f"its name has more than {_MAX_NAME_BYTES} bytes"
    return ""


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


# ---- as it is told to people


class FileView(BaseModel):
    """A file that training wrote."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    """Its path in the folder, with slashes."""
    bytes: int
    """Its size."""
    modified: datetime
    """When it was modified last."""


class FileList(BaseModel):
    """Some files of a job, by path, as they were synchronised last."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    files: tuple[FileView, ...] = ()
    """The files that were asked for, as far as this page goes."""
    more: bool = False
    """Whether there are more: `after` of the next page is the last one's path."""
    version: str = ""
    """Names this synchronisation: to read its files although another one follows. Empty: there was none yet."""
    step: int | None = None
    """The files are as they were when this step began; null: there was no synchronisation yet."""
    ended: bool = False
    """Whether they are as the train function left them."""
    synchronised: datetime | None = None
    """When."""
    total_files: int = 0
    """How many files there are."""
    total_bytes: int = 0
    """Their sizes, together."""
    left_out: tuple[str, ...] = ()
    """What lies in the folder and is not kept, and why: the first few."""
