"""Writing a share, captured in host memory, to the storage."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from surefoot.errors import CheckpointError
from surefoot_actors.checkpoint.capture import Captured
from surefoot_actors.checkpoint.export import export_modules
from surefoot_actors.checkpoint.manifest import FileEntry, Head, ShareEntry
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.store import folder_of
from surefoot_actors.uplink.kept_rows import row_lines

__all__ = ["write_share"]

_Write = Callable[..., FileEntry]


def write_share(storage: Storage, trainer: str, captured: Captured, modules: Mapping[str, nn.Module]) -> ShareEntry:
    """Write what was captured, and export these modules; return the manifest's entry.

    Raises CheckpointError, having removed what was written of the share.
    """
    place = captured.place
    folder = storage.below(folder_of(place.step))
    # never the name of another file, so that a trainer that was fenced changes nothing that a manifest names
    name = f"g{place.generation}-{trainer}-share-{place.share}-of-{place.of}-{secrets.token_hex(4)}"
    written: list[str] = []

    def write(ending: str, chunks: Iterable[Any], num_bytes: int = 0) -> FileEntry:
        written.append(f"{name}.{ending}")
        return folder.write(f"{name}.{ending}", chunks, num_bytes)

    try:
        file = write("safetensors", captured.file.chunks(), captured.file.num_bytes)
        head = _write_head(write, storage, captured, modules) if place.share == 0 else None
    except BaseException:
        for path in written:
            with contextlib.suppress(CheckpointError):
                folder.remove(path)
        raise
    return ShareEntry(
        trainer=trainer,
        generation=place.generation,
        step=place.step,
        round=place.round,
        share=place.share,
        of=place.of,
        file=file,
        tensors=captured.tensors,
        head=head,
    )


def _write_head(write: _Write, storage: Storage, captured: Captured, modules: Mapping[str, nn.Module]) -> Head:
    assert captured.skeleton is not None
    assert captured.facts is not None
    return Head(
        objects=write("pickle", [captured.skeleton]),
        rows=write("jsonl", (line + b"\n" for line in row_lines(captured.facts.rows))),
        fingerprint=captured.facts.fingerprint,
        num_steps=captured.facts.num_steps,
        num_tensors=captured.num_tensors,
        last=captured.facts.last,
        taken_at=captured.taken_at,
        model=export_modules(storage, modules),
    )
