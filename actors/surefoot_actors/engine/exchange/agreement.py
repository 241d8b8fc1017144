"""What members have to agree on before they add anything: the state they start from, and the layout of their leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from surefoot.errors import ContractError, DriftError
from surefoot_actors.engine.types import Bucket, Gathered, Layout, Node, StateTable
from surefoot_actors.engine.vector.digest import without_source

__all__ = [
    "DriftedRanksError",
    "Held",
    "UnlikeSubTaskError",
    "agree",
    "drifted_names",
    "drifted_ranks",
    "held_layouts",
    "pack_held",
    "read_held",
]

_MOST_NAMES = 6


class DriftedRanksError(DriftError):
    """Members hold different state. `ranks` are those that differ from the most (of equals, from the lowest rank)."""

    def __init__(self, ranks: tuple[int, ...], size: int, step: int, names: tuple[str, ...] = ()) -> None:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        where = f" It is in: {', '.join(names[:_MOST_NAMES])}{more}." if names else ""
        super().__init__(
            f"trainers have drifted apart at step {step}: the tracked state of rank {', '.join(map(str, ranks))} of {size} differs "
            f"from the others'.{where} Either the training code changes it by something that is not the same on every trainer (a local "
            "loss, the clock, random numbers from outside), or Surefoot has a fault: `surefoot check` on this train function tells "
            "which"
        )
        self.ranks, self.size, self.step, self.names = ranks, size, step, names

    def __reduce__(self) -> tuple[Any, ...]:
        return DriftedRanksError, (self.ranks, self.size, self.step, self.names)


class UnlikeSubTaskError(DriftError):
    """Two members have computed one sub-task, out of the same tracked state, to other bits."""

    def __init__(self, sub_task: int, step: int, subject: int, witness: int, size: int) -> None:
        super().__init__(
            f"sub-task {sub_task} of step {step} was computed on two trainers (ranks {subject} and {witness} of {size}), and came out with "
            f"other bits, though their tracked state is the same: what the training code computes with is not the same on every trainer. "
            f"It may be a value that the loop changes where Surefoot does not see it (an object of a library, a cache, a file, what a "
            f'function made out of reach): keep it in a dict and track it, `run.track(mine={{"stage": 0}})`; one that is carried from '
            f"one batch to the next, as each trainer computes other batches; something that was made otherwise in each process (random "
            f"numbers from outside, the clock, other data); or hardware that computes wrongly. This is compared where a trainer joins, in "
            f"steps 2, 4, 8, ..., 256, in each 256th and in the last one: what was trained since may be touched by it too. `surefoot "
            f"check` on this train function tells more"
        )
        self.arguments = sub_task, step, subject, witness, size

    def __reduce__(self) -> tuple[Any, ...]:
        return UnlikeSubTaskError, self.arguments


def drifted_ranks(digests: Sequence[bytes]) -> tuple[int, ...]:
    """Return the ranks whose digests (by rank) are not those of the most."""
    usual = _usual(digests)
    return tuple(r for r, d in enumerate(digests) if d != usual)


def _usual(digests: Sequence[bytes]) -> bytes:
    return Counter(digests).most_common(1)[0][0]  # of equal counts, the first met


def drifted_names(digests: Sequence[bytes], tables: Sequence[StateTable]) -> tuple[str, ...]:
    """Return the names of what the drifted ranks hold otherwise; of buffers only if there is nothing else."""
    usual = tables[list(digests).index(_usual(digests))]
    others = [tables[rank] for rank in drifted_ranks(digests)]
    certain = {name for table in others for name in _differing(usual.digests, table.digests)}
    return tuple(sorted(certain or {name for table in others for name in _differing(usual.buffers, table.buffers)}))


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A layout, and the first sub-task that has it."""

    sub_task: int
    layout: Layout


def held_layouts(nodes: Collection[Node]) -> list[Held]:
    """Return the distinct layouts of a rank's nodes: one, unless sub-tasks differ on this rank already."""
    found: dict[bytes, Held] = {}
    for node in sorted(nodes, key=lambda node: node.range):
        found.setdefault(node.layout.signature, Held(sub_task=node.range.lo, layout=node.layout))
    return list(found.values())


@lru_cache(maxsize=64)  # asked every round, though the layouts hardly ever change
def pack_held(held: tuple[Held, ...]) -> bytes:
    """Return layouts as bytes; none at all as no bytes."""
    if not held:
        return b""
    return json.dumps([[h.sub_task, _to_json(h.layout)] for h in held], separators=(",", ":")).encode()


def read_held(data: bytes) -> list[Held]:
    """Read what `pack_held` made."""
    return [Held(sub_task=sub_task, layout=_from_json(fields)) for sub_task, fields in json.loads(data or b"[]")]


def _to_json(layout: Layout) -> dict[str, Any]:
    return {
        "buckets": [[str(b.dtype).removeprefix("torch."), b.numel, b.chunk_numel] for b in layout.buckets],
        "num_presence": layout.num_presence,
        "scalars": layout.scalars,
        "exact_bytes": layout.exact_bytes,
        "gathers": [[g.name, str(g.dtype).removeprefix("torch."), g.row_shape] for g in layout.gathers],
        "description": layout.description,
        "signature": layout.signature.hex(),
    }


def _from_json(fields: dict[str, Any]) -> Layout:
    return Layout(
        buckets=tuple(Bucket(dtype=getattr(torch, d), numel=n, chunk_numel=c) for d, n, c in fields["buckets"]),
        num_presence=fields["num_presence"],
        scalars=tuple(fields["scalars"]),
        exact_bytes=fields["exact_bytes"],
        gathers=tuple(Gathered(n, getattr(torch, d), tuple(shape)) for n, d, shape in fields["gathers"]),
        description=tuple(fields["description"]),
        signature=bytes.fromhex(fields["signature"]),
    )


def agree(held: Sequence[Held], step: int) -> Layout:
    """Return the layout that all members' nodes have.

    Raises ContractError, the same on every rank that is given the same, naming the first line that differs.
    """
    first, *others = sorted(held, key=lambda h: h.sub_task)
    for other in others:
        if other.layout.signature != first.layout.signature:
            raise ContractError(_difference(first, other, step))
    return first.layout


def _difference(a: Held, b: Held, step: int) -> str:
    only_a, only_b = _only(a.layout, b.layout), _only(b.layout, a.layout)
    if only_a and only_b:
        what = f"sub-task {a.sub_task} has {only_a!r} where sub-task {b.sub_task} has {only_b!r}"
    elif only_a or only_b:
        has, lacks = (a, b) if only_a else (b, a)
        what = f"sub-task {has.sub_task} has {only_a or only_b!r}, sub-task {lacks.sub_task} has not"
    else:
        what = f"sub-tasks {a.sub_task} and {b.sub_task} have the same, but in another order or with other types"
    return (
        f"the sub-tasks of step {step} do not give the merge the same: {what}. Every sub-task of a round has to take "
        "its samples from the same dataset, log the same names in the same order, and give gradients and buffers of the same "
        "shapes and dtypes: "
        "move what is conditional out of the condition (log a neutral value where there is none)"
    )


def _only(a: Layout, b: Layout) -> str | None:
    """Return the first line of `a` that `b` has not, with its source."""
    known = {without_source(line) for line in b.description}
    return next((line for line in a.description if without_source(line) not in known), None)
