"""Final models: found where training put them, and streamed from there as they are. Nothing in them is read, let alone unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import fsspec

from surefoot_service.problems import ProblemError, conflict, not_found, unprocessable

__all__ = ["ModelFile", "locate"]

_SUFFIX = ".safetensors"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One module's file, open: whoever has it streams it to its end, or closes it."""

    # "model.safetensors"
    name: str
    num_bytes: int
    file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes, then close it. Raises what the storage raises, so that a cut answer is seen as cut."""
        with closing(self.file) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


def locate(url: str, module: str | None) -> ModelFile:
    """Open the file at `url`, or in the folder at `url` the one that is named, or the only one. Blocks: for a thread.

    Raises problems: 404 no such module, 409 the model is no longer there, 422 several to choose from, 502 the storage does not answer.
    """
    try:
        system, path = fsspec.core.url_to_fs(url)
        # what an earlier look saw may be old
        system.invalidate_cache()
        chosen = _choose(_files(system, path), module)
        return ModelFile(
            name=_name(chosen), num_bytes=int(system.size(chosen)), file=cast(BinaryIO, system.open(chosen, "rb"))
        )
    except FileNotFoundError as error:
        raise conflict(f"the model was saved at {url}, and is no longer there") from error
    except ProblemError:
        raise
    except Exception as error:
        # The boundary to whatever storage is behind fsspec, each with errors of its own.
        raise ProblemError(502, f"the storage of {url} does not give the model: {_words(error)}") from error


def _files(system: Any, path: str) -> list[str]:
    if path.endswith(_SUFFIX):
        return [path]
    found = [str(f["name"]) for f in system.ls(path, detail=True) if f["type"] == "file"]
    return sorted(f for f in found if f.endswith(_SUFFIX))


def _choose(files: Sequence[str], module: str | None) -> str:
    if not files:
        raise FileNotFoundError
    names = [_name(f).removesuffix(_SUFFIX) for f in files]
    if module is not None:
        if module not in names:
            raise not_found("module", module)
        return files[names.index(module)]
    if len(files) > 1:
        raise unprocessable("query.module", f"the model has several modules, name one: {', '.join(names)}")
    return files[0]


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _words(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
