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
from surefoot_actors.engine.digest import without_source
from surefoot_actors.engine.types import Bucket, Gathered, Layout, Node

__all__ = ["DriftedRanksError", "Held", "agree", "check_drift", "held_layouts", "pack_held", "read_held"]


class DriftedRanksError(DriftError):
    """Members hold different state. `ranks` are those that differ from the most (of equals, from the lowest rank)."""

    def __init__(self, ranks: tuple[int, ...], size: int, step: int) -> None:
        super().__init__(
            f"trainers have drifted apart at step {step}: the tracked state of rank {', '.join(map(str, ranks))} of {size} differs "
            "from the others'; something that is not a pure function of the merged gradients changes it "
            "(a local loss, the clock, randomness outside the seeded streams)"
        )
        self.ranks, self.size, self.step = ranks, size, step

    def __reduce__(self) -> tuple[Any, ...]:
        return DriftedRanksError, (self.ranks, self.size, self.step)


def check_drift(digests: Sequence[bytes], step: int) -> None:
    """Raise DriftedRanksError, the same on every rank, unless all digests (by rank) are equal."""
    ((usual, count), *_) = Counter(digests).most_common()  # of equal counts, the first met
    if count < len(digests):
        raise DriftedRanksError(tuple(r for r, d in enumerate(digests) if d != usual), len(digests), step)


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
