"""Leaves: what a sub-task leaves behind as one flat vector, and how a merged vector comes back to gradients and buffers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.types import Gathered, Layout, Merged, Node, Range
from surefoot_actors.engine.vector.buckets import _numel, _part, accumulation_dtype, cut_buckets
from surefoot_actors.engine.vector.buffers import BufferWatch, Slot
from surefoot_actors.engine.vector.digest import make_layout, without_source
from surefoot_actors.engine.vector.exact_buffers import HEADER_BYTES, unpack
from surefoot_actors.engine.vector.memory import write_into
from surefoot_actors.engine.vector.pools import LeafPool

__all__ = ["LeafMaker", "Logged"]


# Of buckets up to this size, so many keep their views: making them takes as long as filling them. The pool keeps the buckets anyway.
_KNOWN_NUMEL = 1024 * 1024
_MOST_KNOWN = 16

# What torch aligns its own CPU memory to; a device's is aligned to more.
_ALIGNMENT = 64

# A buffer's line in a layout's description: its name and sizes.
_SHAPED = re.compile(r"^(?:buffer|exact) (\S+) \w+\[([\d, ]*)\]$", re.MULTILINE)


class Logged(NamedTuple):
    """What a sub-task logged: value and the line that logged it, by name, and the sub-task's weight."""

    values: dict[str, float | torch.Tensor]
    lines: dict[str, str]
    weight: float
    # rows on the CPU, by name
    gathered: dict[str, torch.Tensor] = {}  # noqa: RUF012  never modified


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A layout and how it maps to this process's tensors. Made once for each set of parts."""

    layout: Layout
    parameters: tuple[torch.Tensor, ...]
    # parameters that are in no leaf of this layout: frozen ones
    frozen: tuple[torch.Tensor, ...]
    floats: tuple[Slot, ...]
    exacts: tuple[Slot, ...]
    # what the exacts' shapes are at a sub-task's end
    exact_shapes: tuple[torch.Size, ...]
    # by bucket: numbers of parts (parameters first, then floats), and meta tensors of their shapes
    members: tuple[tuple[int, ...], ...]
    templates: tuple[list[torch.Tensor], ...]
    # by id: small buckets that come round, and the views into them
    known: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=dict)

    def views(self, buckets: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return one view a part into flat buckets, in the order of the parts."""
        unflatten = torch._C._nn.unflatten_dense_tensors
        if len(buckets) == 1:
            (bucket,) = buckets
            known = self.known.get(id(bucket))
            if known is not None:
                return known[1]
            parts = list(unflatten(bucket, self.templates[0]))
            if bucket.numel() <= _KNOWN_NUMEL:
                if len(self.known) >= _MOST_KNOWN:
                    self.known.clear()
                self.known[id(bucket)] = bucket, parts  # while it is held here, no other can have its id
            return parts
        views: dict[int, torch.Tensor] = {}
        for flat, members, templates in zip(buckets, self.members, self.templates, strict=True):
            views.update(zip(members, unflatten(flat, templates), strict=True))
        return [views[i] for i in range(len(views))]


class LeafMaker:
    """Harvests sub-tasks into leaves and delivers merged vectors. Parameters and buffers are in tracking order, tied ones once."""

    def __init__(
        self, parameters: Sequence[tuple[str, torch.Tensor]], buffers: BufferWatch, device: torch.device, pool: LeafPool
    ) -> None:
        self._names = {id(p): name for name, p in parameters}
        self._parameters = [p for _, p in parameters]
        self._buffers = buffers
        self._device = device
        self._pool = pool
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._plan: _Plan | None = None
        self._slots: list[Slot] = []
        self._growing: list[Slot] = []
        self._data = ""

    def open(self, data: str = "") -> None:
        """Begin a round: present buffer values are its start values. `data` describes its dataset: equal on every trainer."""
        self._data = data
        slots = self._buffers.open()
        if slots is not self._slots:
            self._slots = slots
            self._growing = [slot for slot in slots if slot.grows]
            self._plans.clear()
        self._plan = None

    def begin(self) -> None:
        """Begin a sub-task: no gradients, buffers as at the round's start."""
        for parameter in self._parameters:
            if parameter.requires_grad:
                parameter.grad = None
        self._buffers.restore()

    def make(self, sub_task: int, logged: Logged) -> Node:
        """Return the leaf of the sub-task that just ran.

        Raises ContractError for a sparse gradient, a buffer that changed shape, or a logged value that is no scalar.
        """
        self._buffers.harvest()
        grad_enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # as no_grad does, in a fifth of its time
        try:
            return self._make(sub_task, logged)
        finally:
            torch._C._set_grad_enabled(grad_enabled)

    def _make(self, sub_task: int, logged: Logged) -> Node:
        plan = self._plan = self._plan_for(logged)
        buckets = self._pool.take(plan.layout, self._device)
        presence = self._fill(plan, plan.views(buckets)) if buckets else 0
        scalars = scalar_values([logged.values[name] for name in plan.layout.scalars])
        if logged.weight != 1.0:
            scalars = _weigh(buckets, scalars, logged.weight)
        return Node(
            range=Range(sub_task, sub_task + 1),
            layout=plan.layout,
            buckets=buckets,
            weight=logged.weight,
            scalars=tuple(scalars),
            presence=presence,
            exact=b"".join([slot.segment() for slot in plan.exacts]),
            gathered=tuple([logged.gathered[g.name] for g in plan.layout.gathers]),
        )

    def drop(self, leaf: Node) -> None:
        """Take back the memory of a leaf that nobody else has."""
        self._pool.give(leaf.buckets)

    def _fill(self, plan: _Plan, views: list[torch.Tensor]) -> int:
        """Copy gradients and float buffers into the leaf's views. Return the presence bits."""
        into, sources, presence = [], [], 0
        for i, parameter in enumerate(plan.parameters):
            grad = parameter.grad
            if grad is None:
                views[i].zero_()
                continue
            if grad.layout is not torch.strided:
                raise ContractError(_sparse(self._names[id(parameter)], self._data.partition("  # ")[2]))
            presence |= 1 << i
            into.append(views[i])
            sources.append(torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad)
        for i, slot in enumerate(plan.floats, len(plan.parameters)):
            presence |= slot.written << i
            into.append(views[i])
            sources.append(_real(slot.tensor))
        if into:
            torch._foreach_copy_(into, sources)
        return presence

    @torch.no_grad()
    def deliver(self, merged: Merged, *, in_place: bool, before: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Set every parameter's `.grad` and the written buffers to the merge, in memory of their own.

        `before`, by id of the parameter: gradients that the merge is added to. What is in neither has none: nothing but the merge
        decides what an optimizer sees. Returns the parameters that the merge has a gradient for.

        `in_place`: the present gradients are the merge already (one sub-task of weight 1).
        """
        plan = self._plan_of(merged.layout)
        views = plan.views(merged.buckets) if merged.buckets else []
        self._buffers.restore()
        for parameter in plan.frozen:
            parameter.grad = before.get(id(parameter))
        present = self._deliver_gradients(plan, views, merged.presence, in_place, before)
        for i, slot in enumerate(plan.floats, len(plan.parameters)):
            if merged.presence >> i & 1:
                slot.fit(views[i].shape)
                write_into(_real(slot.tensor), views[i])
        written = [slot for i, slot in enumerate(plan.floats, len(plan.parameters)) if merged.presence >> i & 1]
        for slot, shape, segment in zip(plan.exacts, plan.exact_shapes, unpack(merged.exact), strict=True):
            if segment.written:
                slot.fit(shape)
                write_into(slot.tensor, _tensor_of(segment.value, slot.tensor))
                written.append(slot)
        if written:
            self._buffers.derive(written)
        return present

    def _deliver_gradients(
        self,
        plan: _Plan,
        views: list[torch.Tensor],
        presence: int,
        in_place: bool,
        before: Mapping[int, torch.Tensor],
    ) -> list[torch.Tensor]:
        into, sources, sums, addends, present = [], [], [], [], []
        memory: set[int] = set()
        for i, parameter in enumerate(plan.parameters):
            old = before.get(id(parameter))
            if not presence >> i & 1:
                parameter.grad = old
                continue
            present.append(parameter)
            grad = parameter.grad if old is None else old
            usual = grad is not None and _is_usual(grad, parameter, memory)
            if grad is None or not usual:
                grad = torch.empty_like(parameter, requires_grad=False)
                if old is not None:
                    grad.copy_(old)
            parameter.grad = grad
            memory.add(grad.data_ptr())
            if old is not None:
                sums.append(_real(grad))
                addends.append(views[i])
            elif not (usual and in_place):
                into.append(_real(grad))
                sources.append(views[i])
        if into:
            torch._foreach_copy_(into, sources)
        if sums:
            torch._foreach_add_(sums, addends)
        return present

    def _plan_for(self, logged: Logged) -> _Plan:
        slots = self._slots
        key = (
            tuple([p.requires_grad for p in self._parameters]),
            tuple([s.always or s.written for s in slots]),
            tuple([s.tensor.shape for s in self._growing]),
            tuple(logged.values),
            gathers_of(logged.gathered),
            without_source(self._data),
        )
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) > 64:  # code whose layout never settles
                self._plans.clear()
            for other in self._plans.values():
                other.known.clear()  # its buckets may not come round again
            plan = self._plans[key] = self._make_plan(logged)
        return plan

    def _plan_of(self, layout: Layout) -> _Plan:
        """Return this trainer's plan for the merge's layout; made here if no sub-task of the round ran here."""
        if self._plan is not None and self._plan.layout.signature == layout.signature:
            return self._plan
        for plan in self._plans.values():
            if plan.layout.signature == layout.signature:
                return plan
        shapes = dict(_SHAPED.findall("\n".join(map(without_source, layout.description))) if self._growing else ())
        for slot in self._growing:
            if slot.name in shapes:
                slot.fit([int(size) for size in shapes[slot.name].split(",") if size])
        rows = {g.name: torch.empty(0, *g.row_shape, dtype=g.dtype) for g in layout.gathers}
        plan = self._make_plan(Logged(dict.fromkeys(layout.scalars, 0.0), {}, 1.0, rows))
        if plan.layout.signature != layout.signature:
            raise ContractError("the merged vector is of another layout than this trainer's tracked objects")
        return plan

    def _make_plan(self, logged: Logged) -> _Plan:
        parameters = [p for p in self._parameters if p.requires_grad]
        floats = [s for s in self._slots if s.in_vector]
        exacts = [s for s in self._slots if s.is_exact]
        parts = [_part(self._names[id(p)], p) for p in parameters] + [_part(s.name, s.tensor) for s in floats]
        members = cut_buckets(parts)
        names = sorted(logged.values)
        lines = [self._data] if self._data else []
        lines += [_describe("grad", self._names[id(p)], p) for p in parameters]
        lines += [_describe("buffer", s.name, s.tensor) for s in floats]
        lines += [_describe("exact", s.name, s.tensor) for s in exacts]
        lines += [f"log {name}  # {logged.lines.get(name, '')}" for name in names]
        layout = make_layout(
            buckets=[(accumulation_dtype(parts[m[0]].dtype), sum(_numel(parts[i].shape) for i in m)) for m in members],
            num_presence=len(parts),
            scalars=names,
            exact_bytes=sum(HEADER_BYTES + s.tensor.numel() * s.tensor.itemsize for s in exacts),
            description=lines,
            gathers=gathers_of(logged.gathered),
        )
        return _Plan(
            layout=layout,
            parameters=tuple(parameters),
            frozen=tuple(p for p in self._parameters if not p.requires_grad),
            floats=tuple(floats),
            exacts=tuple(exacts),
            exact_shapes=tuple(s.tensor.shape for s in exacts),
            members=tuple(map(tuple, members)),
            templates=tuple([torch.empty(parts[i].shape, device="meta") for i in m] for m in members),
        )


def gathers_of(rows: Mapping[str, torch.Tensor]) -> tuple[Gathered, ...]:
    """Return what of a layout says what is gathered."""
    if not rows:
        return ()
    return tuple(Gathered(name, rows[name].dtype, tuple(rows[name].shape[1:])) for name in sorted(rows))


def scalar_values(values: Sequence[float | torch.Tensor]) -> list[float]:
    """Return the values as floats, waiting for a device once."""
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(numbers) if isinstance(v, torch.Tensor) else v for v in values]


def _weigh(buckets: list[torch.Tensor], scalars: list[float], weight: float) -> list[float]:
    """Multiply by the weight; weight 0 gives zeros even where a mean over nothing is NaN."""
    if weight == 0.0:
        torch._foreach_zero_(buckets)
        return [0.0] * len(scalars)
    torch._foreach_mul_(buckets, weight)
    return [weight * s for s in scalars]


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _is_usual(grad: torch.Tensor, parameter: torch.Tensor, taken: set[int]) -> bool:
    """Whether autograd's own tensor will do: the parameter's strides, from the start of aligned memory that is in no other's use.

    Kernels may give other bits for another alignment, and who gets autograd's tensor depends on who computed. Two parameters may
    share one (y = a + b.view(...)): then clipping would scale it twice.
    """
    address = grad.data_ptr()
    return (
        address % _ALIGNMENT == 0
        and grad.stride() == parameter.stride()
        and not grad.storage_offset()
        and address not in taken
        and not grad.requires_grad
    )


def _describe(kind: str, name: str, tensor: torch.Tensor) -> str:
    return f"{kind} {name} {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _sparse(name: str, line: str) -> str:
    return (
        f"parameter {name} has a sparse gradient in the inner loop at {line}, which cannot be merged in a fixed order; "
        f"create its layer with sparse=False (torch.nn.Embedding) and use a dense optimizer"
    )


def _tensor_of(data: bytes, like: torch.Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(like.dtype).view(like.shape)
