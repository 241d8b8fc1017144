"""The final model: each tracked module as one safetensors file, as `load_state_dict` wants it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from surefoot_actors.checkpoint.manifest import FileEntry
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.store import MODEL
from surefoot_actors.checkpoint.tensor_file import Slot, header, lay_out
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of

__all__ = ["export_modules"]


def export_modules(storage: Storage, modules: Mapping[str, nn.Module]) -> tuple[FileEntry, ...]:
    """Write `model/NAME.safetensors` for each module; return the files. A tensor at a time is copied to the host.

    They hold parameters and persistent buffers under their names in `state_dict`. A tied one is there once, under its first
    name; the file's metadata has the others, {"aliases": '{"head.weight": "embedding.weight"}'}: load it with
    `load_state_dict(safetensors.torch.load_file(path), strict=False)`.
    """
    return tuple(_export(storage, f"{MODEL}/{name}.safetensors", module) for name, module in modules.items())


def _export(storage: Storage, path: str, module: nn.Module) -> FileEntry:
    tensors, aliases = _distinct(module)
    slots = lay_out([(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()])
    metadata = {"aliases": json.dumps(aliases)} if aliases else {}
    data = sorted(slots, key=lambda s: (s.start, s.stop))
    return storage.write(path, _chunks(header(slots, metadata), data, tensors), max([s.stop for s in slots], default=0))


def _distinct(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a module's state, tied ones once, and the other names of those."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue  # extra state of plain values, which the format has no place for
        key = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), tuple(value.stride()))
        first = names.setdefault(key, name) if value.numel() else name
        if first == name:
            tensors[name] = value.detach()
        else:
            aliases[name] = first
    return tensors, aliases


def _chunks(head: bytes, slots: list[Slot], tensors: Mapping[str, torch.Tensor]) -> Iterator[Any]:
    yield head
    for slot in slots:
        if slot.stop > slot.start:
            yield memory_of(flat_bytes(tensors[slot.key]))
