"""What a checkpoint consists of: the manifest, and the entries that trainers give for it. Values only: no files, no tensors.

A manifest's first line holds the digest of all that follows it, so that no bit of it changes unseen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from surefoot.errors import CheckpointError, DamagedError, RefusedError, UnfitError
from surefoot_actors.node_data.listing import DATA_KEY

__all__ = [
    "FORMAT",
    "FileEntry",
    "Head",
    "Identity",
    "Manifest",
    "Point",
    "ShareEntry",
    "TensorEntry",
    "check_fits",
    "dump_manifest",
    "load_manifest",
    "make_manifest",
]

FORMAT = 1
_FIRST_LINE = re.compile(rb'\{"digest": "([0-9a-f]{32})",\n')

Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
# a manifest comes from a URL that a user gave: what it names stays below that URL
Path = Annotated[str, Field(pattern=r"^[\w][\w.-]*(/[\w][\w.-]*)?$", max_length=300)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Identity(_Value):
    """Of whose training it is: as `JobSpec.identity`."""

    entrypoint: str
    package: str
    config: dict[str, JsonValue]
    seed: int
    batch_size: int
    sub_tasks: int
    threads: int
    # it is written only where there is one, so that older versions read the rest
    target: str | None = Field(default=None, exclude_if=lambda target: target is None)


class FileEntry(_Value):
    # relative to the checkpoint's folder; those of the exported model, to the folder of all checkpoints
    path: Path
    bytes: Annotated[int, Field(ge=0)]
    # xxh3-128 of the whole file
    digest: Hex128


class TensorEntry(_Value):
    """A tensor, or some rows of a big one, in a share's file."""

    # the tensor's place in the state, and its key in the file
    number: Annotated[int, Field(ge=0)]
    name: str
    # as "float32"; and the whole tensor's shape
    dtype: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    # [start, stop) along dim 0; None: all of it
    rows: tuple[int, int] | None = None


class Point(_Value):
    """The ledger's last row before the checkpoint."""

    step: int
    digest: Hex128
    # merged logged values
    values: dict[str, float] = Field(default_factory=dict)


class Head(_Value):
    """What share 0 gives besides its tensors."""

    # the plain Python values of the state, pickled: only ever unpickled in trainers, which run the user's code anyway
    objects: FileEntry
    # ledger rows that the control plane has not acknowledged, a line of JSON each
    rows: FileEntry
    # what must be equal on every trainer, as sorted (name, value) pairs; how long the run is
    fingerprint: tuple[tuple[str, str], ...]
    num_steps: int | None
    num_tensors: int
    # None before the first step
    last: Point | None = None
    # unix time of the snapshot
    taken_at: float
    # the tracked modules as safetensors, exported after the last step
    model: tuple[FileEntry, ...] = ()


class ShareEntry(_Value):
    """One trainer's share of a state: what `Saved.entry` holds as JSON."""

    trainer: str
    generation: int
    # that training goes on with
    step: int
    round: int
    share: int
    of: int
    file: FileEntry
    tensors: tuple[TensorEntry, ...]
    # of share 0; in a manifest it stands outside
    head: Head | None = None


class Manifest(_Value):
    """A whole checkpoint. It exists once this is written."""

    format: Literal[1] = 1
    identity: Identity
    # that training goes on with
    step: int
    round: int
    generation: int
    # why it was made, for people
    reason: str = ""
    head: Head
    shares: tuple[ShareEntry, ...]

    @property
    def bytes(self) -> int:
        """Of all files, but the exported model and the manifest itself."""
        return sum(file.bytes for file in self.files)

    @property
    def values(self) -> Mapping[str, float]:
        """Merged values of the last step before it."""
        return self.head.last.values if self.head.last else {}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All in the checkpoint's folder, but the manifest."""
        return (self.head.objects, self.head.rows, *(share.file for share in self.shares))


def make_manifest(identity: Mapping[str, Any], entries: Sequence[str], reason: str = "") -> Manifest:
    """Make the manifest of these shares (`Saved.entry` of each). Raises CheckpointError unless they are one whole state."""
    shares = sorted((ShareEntry.model_validate_json(entry) for entry in entries), key=lambda share: share.share)
    _check_whole(shares)
    first = shares[0]
    assert first.head is not None
    return Manifest(
        identity=Identity.model_validate(identity),
        step=first.step,
        round=first.round,
        generation=first.generation,
        reason=reason,
        head=first.head,
        shares=tuple(share.model_copy(update={"head": None}) for share in shares),
    )


def _check_whole(shares: Sequence[ShareEntry]) -> None:
    places = {(s.step, s.round, s.generation, s.of) for s in shares}
    if len(places) != 1 or [s.share for s in shares] != list(range(shares[0].of)):
        told = [f"{s.share} of {s.of} at step {s.step} (round {s.round}, generation {s.generation})" for s in shares]
        raise CheckpointError(f"these shares do not make a checkpoint together: {'; '.join(told) or 'none'}")
    head = shares[0].head
    if head is None:
        raise CheckpointError("share 0 lacks the plain values of the state")
    _check_tensors([t for share in shares for t in share.tensors], head.num_tensors)


def _check_tensors(tensors: Sequence[TensorEntry], num_tensors: int) -> None:
    """Raise CheckpointError unless every tensor is there, whole, once: trainers whose tensors differ chose other shares."""
    parts: dict[int, list[TensorEntry]] = {}
    for tensor in tensors:
        parts.setdefault(tensor.number, []).append(tensor)
    wrong = sorted(set(range(num_tensors)) ^ parts.keys())
    wrong += [number for number, own in parts.items() if not _makes_one(own)]
    if wrong:
        raise CheckpointError(
            f"the shares do not hold every tensor of the state once: {wrong[:4]} of {num_tensors}; "
            "the trainers' tracked objects have different tensors"
        )


def _makes_one(parts: Sequence[TensorEntry]) -> bool:
    first = parts[0]
    if any((p.dtype, p.shape) != (first.dtype, first.shape) for p in parts):
        return False
    if first.rows is None:
        return len(parts) == 1
    rows = sorted(p.rows or (0, 0) for p in parts)
    joined = all(a[1] == b[0] for a, b in pairwise(rows))
    return joined and rows[0][0] == 0 and rows[-1][1] == first.shape[0]


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's file."""
    body = f'"manifest": {manifest.model_dump_json(indent=1)}}}\n'.encode()
    return f'{{"digest": "{xxhash.xxh3_128_hexdigest(body)}",\n'.encode() + body


def load_manifest(data: bytes, name: str) -> Manifest:
    """Read a manifest's file, `name` for messages. Raises DamagedError; RefusedError for one of a later version's format."""
    first = _FIRST_LINE.match(data)
    body = data[first.end() :] if first else b""
    if first is None or xxhash.xxh3_128_hexdigest(body).encode() != first[1] or not body.startswith(b'"manifest": '):
        raise DamagedError(f"{name} is corrupt: its digest is not that of what it holds")
    text = body.removeprefix(b'"manifest": ').removesuffix(b"}\n")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise RefusedError(
            f"{name} is not of format {FORMAT}, the one that is known here ({error.error_count()} fields are wrong): "
            "restore it with the version of Surefoot that made it, or a later one"
        ) from error


_ADVICE = {
    "seed": "the same seed",
    "batch_size": "the same batch_size",
    "sub_tasks": "the same number of sub_tasks",
    "threads": "the same number of threads",
}


def check_fits(
    manifest: Manifest,
    name: str,
    identity: Mapping[str, Any],
    fingerprint: Sequence[tuple[str, str]],
    *,
    own: bool = True,
) -> None:
    """Raise RefusedError or UnfitError unless what would come after this checkpoint is the bits that were to come.

    Code and config may differ, and the data where it is not the job's `own`: training longer, or with a mistake mended, is why
    people restore.
    """
    saved = manifest.identity.model_dump()
    for field, advice in _ADVICE.items():
        if saved[field] != identity[field]:
            raise RefusedError(
                f"the checkpoint {name} was made with {field} {saved[field]}, this job has {field} {identity[field]}: it would "
                f"not go on with the same bits; submit the job with {advice}, or without `restore`, to begin from step 0"
            )
    made, here = (
        {key: value for key, value in each if own or not key.startswith(DATA_KEY)}
        for each in (manifest.head.fingerprint, fingerprint)
    )
    if made != here:
        differ = [
            f"{key}: {made.get(key)} then, {here.get(key)} here"
            for key in sorted(made.keys() | here.keys())
            if made.get(key) != here.get(key)
        ]
        raise UnfitError(
            f"the checkpoint {name} was made on another kind of machine, or with other data ({'; '.join(differ)})"
        )
