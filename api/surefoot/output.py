"""The files that training writes into `run.output_dir`: how they are kept, and how they are told.

Below the place of the job's checkpoints lie

    files/manifests/SEQ-AT-WRITER-DIGEST.json   one a synchronisation: what there was as a step began. Written last, in one act
    files/objects/DIGEST                        what files consist of: a part of a big one, or several small ones end to end
    files/writer                                who writes here now: an earlier one writes no more

Trainers write them, trainers and the control plane read them: nothing here touches a storage.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "AFTER_ALL",
    "DEFAULT_MAX_OUTPUT_BYTES",
    "FOLDER",
    "MANIFESTS",
    "MAX_FILES",
    "MAX_MANIFEST_BYTES",
    "MAX_OBJECT_BYTES",
    "OBJECTS",
    "WRITER",
    "FileList",
    "FileView",
    "KeptFile",
    "ManifestName",
    "OutputManifest",
    "as_of",
    "dump_output",
    "load_output",
    "manifest_names",
    "path_fault",
]

FOLDER, MANIFESTS, OBJECTS, WRITER = "files", "manifests", "objects", "writer"
#: so many files of a job are kept
MAX_FILES = 10_000
#: what is kept of a job, in bytes, unless the settings say otherwise
DEFAULT_MAX_OUTPUT_BYTES = 10 * 1024**3
#: a manifest that is larger is none of ours
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
#: an object's bytes, at most
MAX_OBJECT_BYTES = 8 * 1024 * 1024
#: the `at` of what was left when its trainer ended in the midst of a step: shown, never gone on from
AFTER_ALL = 999_999_999_999

_MAX_PATH_BYTES, _MAX_NAME_BYTES = 1024, 255
_MAX_LEFT_OUT = 20

_NAME = re.compile(r"^(\d{9})-(\d{12})-([a-z0-9]{1,60})-([0-9a-f]{16})\.json$")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KeptFile(_Value):
    """One file, as it was."""

    path: Annotated[str, Field(min_length=1, max_length=_MAX_PATH_BYTES)]
    bytes: Annotated[int, Field(ge=0, le=2**53)]
    # when it was modified, in nanoseconds since 1970
    modified_ns: Annotated[int, Field(ge=0, le=2**63)]
    # (object, where in it, how many bytes), end to end
    pieces: tuple[
        tuple[
            Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")],
            Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)],
            Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)],
        ],
        ...,
    ]


class OutputManifest(_Value):
    """All files of a job, as a step began. It exists once this is written."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    # the step that was to begin, and whether it is after the train function has returned
    step: Annotated[int, Field(ge=0, le=2**53)]
    ended: bool = False
    # unix time
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
    files: Annotated[tuple[KeptFile, ...], Field(max_length=MAX_FILES)]
    # what is not kept, and why: sentences, the first few
    left_out: Annotated[tuple[Annotated[str, Field(max_length=2000)], ...], Field(max_length=_MAX_LEFT_OUT)] = ()


class ManifestName(NamedTuple):
    """What a manifest's name says. They sort by what was written last."""

    # counts on over all writers of a job
    seq: int
    # the files are as they were when this step began; one more than the last step: after the code after the loop
    at: int
    name: str


def manifest_names(names: Iterable[str]) -> list[ManifestName]:
    """Return those of these names that are manifests', the newest first."""
    found = (m for name in names if (m := _NAME.match(name)))
    return sorted((ManifestName(int(m[1]), int(m[2]), m[0]) for m in found), reverse=True)


def as_of(names: Iterable[ManifestName], step: int) -> list[ManifestName]:
    """Return those that whoever begins this step may go on from, the best first: none knows of what is yet to be written."""
    return [name for name in names if name.at <= step]


def dump_output(manifest: OutputManifest, *, seq: int, at: int, writer: str) -> tuple[str, bytes]:
    """Return the manifest's name and file."""
    body = manifest.model_dump_json().encode()
    return f"{seq:09d}-{at:012d}-{writer}-{_digest(body)}.json", body


def load_output(name: str, body: bytes) -> OutputManifest:
    """Read a manifest's file. Raises ValueError for one that is damaged, or not what it says it is."""
    found = _NAME.match(name)
    if found is None or _digest(body) != found[4]:
        raise ValueError(f"{name} is corrupt: its digest is not that of what it holds")
    try:
        manifest = OutputManifest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(f"{name} is not of format 1, the one that is known here") from error
    for file in manifest.files:
        fault = path_fault(file.path)
        if fault or sum(piece[2] for piece in file.pieces) != file.bytes:
            raise ValueError(f"{name} names a file that cannot be: {file.path!r}: {fault or 'its pieces do not fit'}")
    return manifest


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
