"""Module buffers around sub-tasks: each starts from the round's start values, and what it wrote is found by content.

By content, because `batch_norm` writes running statistics without telling autograd's version counter, `.data` does too, and code may
register another tensor under the same name.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import nn

from surefoot.errors import ContractError
from surefoot_actors.engine.vector.exact_buffers import Rule, header
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of, write_into
from surefoot_actors.engine.vector.observers import derive, fit, may_grow, merge_rule

__all__ = ["BufferWatch", "Slot"]

# A float buffer up to this size is always part of the vector, written or not: whether BatchNorm's statistics moved in one sub-task
# may depend on its data (all zeros, say). Larger ones, such as masks, only if written.
_SMALL_NUMEL = 16_384

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Slot:
    """One buffer: where it is registered, its tensor, and its value at the round's start."""

    __slots__ = (
        "_headers",
        "address",
        "always",
        "bits",
        "grows",
        "key",
        "name",
        "owner",
        "rule",
        "start",
        "start_bits",
        "tensor",
        "written",
    )

    def __init__(
        self,
        name: str,
        owner: dict[str, torch.Tensor | None],
        key: str,
        tensor: torch.Tensor,
        rule: Rule,
        *,
        grows: bool = False,
    ) -> None:
        self.name, self.owner, self.key, self.tensor = name, owner, key, tensor
        self.address = tensor.data_ptr()
        self.rule, self.grows = rule, grows
        # by whether it was written
        self._headers: tuple[bytes, ...] = ()
        #: whether leaves carry it though it was not written: whether it is may depend on a sub-task's data, and the layout must not
        small = _SMALL_NUMEL if rule is Rule.MEAN else 1
        self.always = tensor.numel() <= small or rule in (Rule.LARGEST, Rule.SMALLEST)
        self.bits = _bits(tensor)
        self.start = tensor.detach().clone()
        self.start_bits = _bits(self.start)
        self.written = False

    @property
    def in_vector(self) -> bool:
        return self.rule is Rule.MEAN and (self.always or self.written)

    @property
    def is_exact(self) -> bool:
        """Whether a node carries it beside the vector."""
        return self.rule not in (Rule.MEAN, Rule.DERIVED) and (self.always or self.written)

    def is_live(self) -> bool:
        """Whether the registered tensor is the one known here, in the same memory."""
        return registered(self.owner, self.key) is self.tensor and self.tensor.data_ptr() == self.address

    def note(self) -> None:
        """Take the present value as the round's start value."""
        if self.start.shape != self.tensor.shape:
            self.start = self.tensor.detach().clone()
            self.start_bits = _bits(self.start)
        write_into(self.start, self.tensor)
        self.written = False

    def put_back(self) -> None:
        """Give the registered tensor its start value again."""
        if registered(self.owner, self.key) is not self.tensor:
            self.owner[self.key] = self.tensor
        if self.grows:
            self.fit(self.start.shape)
        write_into(self.tensor, self.start)
        self.written = False

    def fit(self, shape: Sequence[int]) -> None:
        """Give a buffer that may grow this shape."""
        if self.grows and self.tensor.shape != torch.Size(shape):
            fit(self.tensor, shape)
            self.bits, self.address = _bits(self.tensor), self.tensor.data_ptr()

    def segment(self) -> bytes:
        """Return the buffer as a node carries it beside the vector."""
        value = _bytes_of(self.bits)
        if self.grows:
            return header(self.rule, self.written, self.tensor.dtype, len(value)) + value
        if not self._headers:
            self._headers = tuple(
                header(self.rule, written, self.tensor.dtype, len(value)) for written in (False, True)
            )
        return self._headers[self.written] + value


def registered(owner: dict[str, torch.Tensor | None], key: str) -> torch.Tensor | None:
    """Return the buffer that is registered; a scripted module's owner is no dict and has no `get`."""
    return owner[key] if key in owner else None  # noqa: SIM401


class BufferWatch:
    """All buffers of the tracked modules, non-persistent ones too, in a fixed order."""

    def __init__(self, modules: Collection[tuple[str, nn.Module]]) -> None:
        self._owners = _owners(modules)
        self._modules = {id(part._buffers): part for _, module in modules for part in module.modules()}
        self._slots: list[Slot] = []
        self._num_registered = -1
        # those that are registered as None: code may fill them when they are first needed
        self._empty: list[tuple[dict[str, torch.Tensor | None], str]] = []

    def open(self) -> list[Slot]:
        """Take the buffers' present values as the round's start values. Return the slots."""
        if not self._slots and not self._owners:
            return self._slots
        with torch.no_grad():
            return self._open()

    def _open(self) -> list[Slot]:
        if self._num_registered != self._count() or not all(slot.is_live() for slot in self._slots):
            self._slots = self._find()
            self._num_registered = self._count()
        else:
            for slot in self._changed():
                slot.note()
        return self._slots

    def restore(self) -> None:
        """Give every buffer that the last sub-task wrote its start value again."""
        written = [slot for slot in self._slots if slot.written]
        if written:
            with torch.no_grad():
                for slot in written:
                    slot.put_back()

    def harvest(self) -> None:
        """Mark the slots that the sub-task wrote, reading a tensor registered in a known one's place as its new value.

        Raises ContractError for a buffer that appeared, vanished, or changed shape or dtype.
        """
        if not self._slots and not self._owners:
            return
        if self._count() != self._num_registered:
            raise ContractError(self._appeared())
        dead = [slot for slot in self._slots if not slot.is_live()]
        if dead:
            with torch.no_grad():
                for slot in dead:
                    _adopt(slot)
        for slot in self._changed():
            slot.written = True

    def derive(self, merged: Iterable[Slot]) -> None:
        """Compute anew what follows from buffers that were merged."""
        derive({id(slot.owner) for slot in merged}, self._modules.values())

    def _changed(self) -> list[Slot]:
        slots = self._slots
        if slots and slots[0].tensor.device.type != "cpu":
            grown = [slot for slot in slots if slot.bits.shape != slot.start_bits.shape]
            rest = [slot for slot in slots if slot.bits.shape == slot.start_bits.shape]
            # one wait for the device instead of one a buffer
            differs = torch.stack([torch.ne(s.bits, s.start_bits).any() for s in rest]).tolist() if rest else []
            return grown + [slot for slot, changed in zip(rest, differs, strict=True) if changed]
        return [slot for slot in slots if not torch.equal(slot.bits, slot.start_bits)]

    def _count(self) -> int:
        filled = [1 for owner, key in self._empty if registered(owner, key) is not None]
        return sum([len(buffers) for _, buffers in self._owners]) + len(filled)

    def _find(self) -> list[Slot]:
        known = {id(slot.tensor): slot for slot in self._slots if slot.is_live()}
        seen: set[int] = set()
        slots = []
        for prefix, buffers in self._owners:
            for key, tensor in buffers.items():
                if tensor is None or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                slot = known.get(id(tensor))
                if slot is None:
                    module = self._modules[id(buffers)]
                    rule, grows = merge_rule(module, key, tensor), may_grow(module, key)
                    slot = Slot(prefix + key, buffers, key, tensor, rule, grows=grows)
                else:
                    slot.note()
                slots.append(slot)
        self._empty = [(buffers, key) for _, buffers in self._owners for key, t in buffers.items() if t is None]
        return slots

    def _appeared(self) -> str:
        known = {slot.name for slot in self._slots}
        here = {prefix + key for prefix, buffers in self._owners for key, t in buffers.items() if t is not None}
        names = ", ".join(sorted(known ^ here)) or "one that is None"
        return (
            f"buffers appeared or vanished inside a sub-task: {names}. Register every buffer before run.steps(), so that "
            f"every trainer has it, whichever sub-tasks it computes; one made in the first forward pass is there after a call "
            f"of the model before run.steps()"
        )


def _owners(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, dict[str, torch.Tensor | None]]]:
    owners = []
    seen: set[int] = set()
    for name, module in modules:
        for path, part in module.named_modules():
            if id(part) not in seen:
                seen.add(id(part))
                owners.append((f"{name}.{path}." if path else f"{name}.", part._buffers))
    return owners


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as integers: so equality is of bits (NaN equals itself, -0.0 is not 0.0)."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach().resolve_conj())
    return tensor.detach().view(_BITS[tensor.itemsize])


def _bytes_of(bits: torch.Tensor) -> bytes:
    if not bits.ndim:  # a counter, most often
        return int(bits.item()).to_bytes(bits.itemsize, sys.byteorder, signed=bits.dtype is not torch.uint8)
    return memory_of(flat_bytes(bits)).tobytes()


def _adopt(slot: Slot) -> None:
    """Copy the value of a tensor that user code put in a buffer's place into the tensor known here."""
    tensor = registered(slot.owner, slot.key)
    reshaped = tensor is not None and tensor.shape != slot.start.shape and not slot.grows
    if tensor is None or reshaped or tensor.dtype != slot.start.dtype:
        now = "None" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
        raise ContractError(
            f"buffer {slot.name} changed from {slot.start.dtype} {tuple(slot.start.shape)} to {now} inside a sub-task; "
            f"buffers must keep their shape and dtype, as sub-tasks are averaged"
        )
    if tensor is slot.tensor:  # same object, its memory was exchanged (`.data = ...`)
        slot.bits, slot.address = _bits(tensor), tensor.data_ptr()
    else:
        slot.fit(tensor.shape)
        write_into(slot.tensor, tensor)
        slot.owner[slot.key] = slot.tensor
