"""What the tracked state consists of: tensors, by name and number, and a tree of plain values an object."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.vector.memory import Spec
from surefoot_actors.user_code.lines import user_line

__all__ = ["Entry", "Saved", "Survey", "TensorOf", "TrackedObject", "dump_tree", "load_tree", "untree"]

# A tensor's place in a tree of plain values is the tuple (_TENSOR, number): exact builtin types, so that trees marshal.
_TENSOR = "\0tensor"

_LEAVES = frozenset(
    (str, int, float, bool, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, torch.memory_format)
)

TensorOf = Callable[[int, torch.Tensor | None], torch.Tensor]
"""Returns a saved tensor by number, the same one every time; given a tensor of its shape and dtype, overwrites and returns that one."""


class Saved(Protocol):
    """A saved state's tensors."""

    @property
    def specs(self) -> list[Spec]:
        """What they are besides their content, by number."""

    def tensor(self, number: int, into: torch.Tensor | None) -> torch.Tensor: ...


class TrackedObject(Protocol):
    """One object that `run.track` was given, or an optimizer inside one."""

    name: str
    # restored in ascending order
    order: int

    def survey(self, survey: Survey) -> None:
        """Add this object's tensors and tree."""

    def check(self, tree: Any, saved: Saved) -> None:
        """Raise ContractError where the state cannot be restored here, naming what differs. Changes nothing."""

    def restore(self, tree: Any, tensor: TensorOf) -> None:
        """Overwrite the state. Raises ContractError naming what is of another shape."""


class Entry(NamedTuple):
    name: str
    tensor: torch.Tensor


class Survey:
    """Tensors in a fixed order, each once however often it is used, and a tree of plain values an object."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.objects: dict[str, Any] = {}
        #: asked for when the state is taken: what goes along without being part of digests
        self.along: Callable[[], Any] = lambda: None
        self._numbers: dict[int, int] = {}
        # numbers by where a tensor lies, when they were first asked for
        self._places: dict[tuple[object, ...], int] | None = None
        # keeps ids valid
        self._kept: list[torch.Tensor] = []

    def number(self, name: str, tensor: torch.Tensor) -> int:
        """Return the tensor's number, new or known."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.entries)
            self.entries.append(Entry(name, tensor))
        return number

    def known(self, tensor: torch.Tensor) -> int | None:
        """Return the tensor's number, if it has one."""
        return self._numbers.get(id(tensor))

    def number_of(self, tensor: torch.Tensor) -> int:
        """Return the number of a tensor that has one. Raises ContractError for one that was made since."""
        known = len(self.entries)
        number = self.number_by_place("", tensor)
        if number >= known:
            raise ContractError(
                "an object in the tracked state makes new tensors each time it is pickled, so that two trainers that hold the same "
                "would never tell the same; have its state_dict return its tensors themselves"
            )
        return number

    def number_by_place(self, name: str, tensor: torch.Tensor) -> int:
        """Return the number of the tensor, or of a known one that is the same memory seen the same way.

        What `state_dict` returns are often new objects over the memory of tensors that are in the state already.
        """
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        if self._places is None:
            self._places = {}
            for number, entry in enumerate(self.entries):
                self._places.setdefault(_place(entry.tensor), number)
        place = _place(tensor)
        known = self._places.get(place) if tensor.numel() else None
        if known is None:
            known = self._places[place] = self.number(name, tensor)
        else:
            self._numbers[id(tensor)] = known
            self._kept.append(tensor)
        return known

    def tree(self, name: str, value: Any, *, by_place: bool = False) -> Any:
        """Return `value` with the tensors in dicts, lists and tuples replaced by their numbers.

        Other objects stay as they are; the tensors that they hold are numbered. Raises ContractError for what cannot be pickled.
        """
        kind = type(value)
        if kind in _LEAVES:
            return value
        if isinstance(value, torch.Tensor):
            return (_TENSOR, self.number_by_place(name, value) if by_place else self.number(name, value))
        if kind is dict or kind is OrderedDict:
            if any(type(k) is int and k in self._numbers for k in value):
                raise ContractError(
                    f"{name}, in the tracked state at {user_line()}, has keys that are id()s of tensors: these are addresses in this "
                    f"process, which mean nothing to a trainer that joins, or that goes on from a checkpoint; take the tensors' names "
                    f"for keys (dict(model.named_parameters()))"
                )
            return kind((k, self.tree(f"{name}.{k}", v, by_place=by_place)) for k, v in value.items())
        if kind is list or kind is tuple:
            return kind(self.tree(f"{name}.{i}", v, by_place=by_place) for i, v in enumerate(value))
        for i, tensor in enumerate(_tensors_in(name, value)):
            self.number_by_place(f"{name}.{i}", tensor)
        return value

    def specs(self) -> list[Spec]:
        """Return what there is to say of the tensors besides their content, by number."""
        first: dict[int, int] = {}
        specs = []
        for number, (name, tensor) in enumerate(self.entries):
            memory = tensor.untyped_storage().data_ptr()
            of = first.setdefault(memory, number) if memory else number
            shares = None if of == number else (of, tensor.data_ptr() - self.entries[of].tensor.data_ptr())
            specs.append(
                Spec(
                    name=name,
                    dtype=tensor.dtype,
                    shape=tuple(tensor.shape),
                    stride=tensor.stride(),
                    on_cpu=tensor.device.type == "cpu",
                    requires_grad=tensor.requires_grad and tensor.is_leaf,
                    is_parameter=isinstance(tensor, torch.nn.Parameter),
                    shares=shares,
                )
            )
        return specs


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device


class _Writer(pickle.Pickler):
    """Pickles all but tensors, which go by `number`."""

    def __init__(self, into: io.BytesIO, number: Callable[[torch.Tensor], int]) -> None:
        super().__init__(into, protocol=5)
        self._number = number

    def persistent_id(self, value: Any) -> int | None:
        return self._number(value) if isinstance(value, torch.Tensor) else None


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, tensor: Callable[[int], torch.Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self._tensor = tensor

    def persistent_load(self, number: Any) -> torch.Tensor:
        return self._tensor(number)


def _tensors_in(name: str, value: Any) -> Iterator[torch.Tensor]:
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> int:
        found.append(tensor)
        return 0

    try:
        _Writer(io.BytesIO(), note).dump(value)
    except Exception as error:  # the edge to the user's objects: whatever their pickling raises
        raise ContractError(
            f"{name} is a {type(value).__name__} that cannot be saved ({error}), so no other trainer could be given it; keep "
            f"numbers, tensors, lists and dicts in what state_dict returns, and make the rest anew before run.steps()"
        ) from error
    return iter(found)


def dump_tree(survey: Survey, name: str) -> bytes:
    """Return an object's tree as bytes, tensors by number."""
    into = io.BytesIO()
    _Writer(into, survey.number_of).dump(survey.objects[name])
    return into.getvalue()


def load_tree(data: bytes, tensor: TensorOf) -> Any:
    """Return a dumped tree; objects in it hold the tensors that `tensor` gives."""
    return _Reader(data, lambda number: tensor(number, None)).load()


def untree(value: Any, tensor: TensorOf, into: Any = None) -> Any:
    """Undo `Survey.tree`, writing tensors into those that `into` has at the same place where they fit."""
    if type(value) is tuple and len(value) == 2 and value[0] == _TENSOR:
        return tensor(value[1], into if isinstance(into, torch.Tensor) else None)
    if type(value) in (dict, OrderedDict):
        old = into if isinstance(into, Mapping) else {}
        return type(value)((k, untree(v, tensor, old.get(k))) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(untree(v, tensor) for v in value)
    return value
