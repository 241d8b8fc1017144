"""The header of an exchange: all of a rank's part in a round that is not in buckets, so that every rank can compute it itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from surefoot.errors import ContractError
from surefoot_actors.engine.exchange.contribution import NOTHING_SHOWN, Shown
from surefoot_actors.engine.exchange.reduce import NodeHead
from surefoot_actors.engine.exchange.signals import Signals
from surefoot_actors.engine.types import Layout

__all__ = ["ELSEWHERE", "ExchangeError", "Header", "check_rounds", "header_bytes", "pack_header", "read_header"]

_MAGIC = b"sf-mrg03"
# magic, round, signals, misfit, drift, shown, signature, layouts_bytes, gathered_bytes
_FIXED = struct.Struct("<8sqB?16s16s16s16sIQ")


class ExchangeError(ContractError):
    """Members of one group are not in the same round of the same step: their code has opened other inner loops."""


_ADVICE = (
    "Every step must have the same inner loops, step.batches() and step.evaluate(), on every trainer: decide by step.number, "
    "step.every(n) or step.merged, never by a local loss, a rank or a clock. What a decision remembers, such as the best loss so far, "
    'is state: run.track(early={"best": ...}) gives it to trainers that join'
)

ELSEWHERE = f"the trainers are not in the same round: another is in another inner loop, or has left the loop over run.steps(). {_ADVICE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    round: int
    signals: Signals
    # holds nodes of another layout than the agreed one, so its payload and heads are zeros
    misfit: bool
    # 16 bytes: digest of this step's stripe of the tracked state
    drift: bytes
    # what came out of sub-tasks that two ranks have computed
    shown: Shown = NOTHING_SHOWN
    # how many bytes the rank's layouts take, should they be asked for; 0 when it holds no node
    layouts_bytes: int
    # how many bytes the rows take that the rank's nodes have gathered; 0 for a misfit
    gathered_bytes: int = 0
    # one a node of the rank's cover, ascending; empty when there is no agreed layout
    heads: tuple[NodeHead, ...] = ()


def header_bytes(layout: Layout | None, num_nodes: int) -> int:
    """Return the size of a header that goes with `num_nodes` nodes: known to all before it is sent."""
    return _FIXED.size + (0 if layout is None else num_nodes * _node_bytes(layout))


def _node_bytes(layout: Layout) -> int:
    return 8 * (1 + len(layout.scalars)) + _presence_bytes(layout) + layout.exact_bytes


def _presence_bytes(layout: Layout) -> int:
    return -(-layout.num_presence // 8)


def pack_header(header: Header, layout: Layout | None, num_nodes: int) -> bytes:
    """Return the header's bytes, `header_bytes` in number."""
    signature = bytes(16) if layout is None else layout.signature
    sizes = header.layouts_bytes, header.gathered_bytes
    digests = header.drift, *header.shown, signature
    fixed = _FIXED.pack(_MAGIC, header.round, header.signals.pack(), header.misfit, *digests, *sizes)
    if layout is None or header.misfit:
        return fixed + bytes(header_bytes(layout, num_nodes) - len(fixed))
    return fixed + b"".join(
        struct.pack(f"<{1 + len(scalars)}d", weight, *scalars)
        + presence.to_bytes(_presence_bytes(layout), "little")
        + exact
        for weight, scalars, presence, exact in header.heads
    )


def read_header(data: bytes, layout: Layout | None, num_nodes: int) -> Header:
    """Read what `pack_header` made for the same layout and number of nodes. Raises ExchangeError for anything else."""
    magic, round, signals, misfit, drift, own, other, signature, *sizes = _FIXED.unpack_from(data)
    layouts_bytes, gathered_bytes = sizes
    if magic != _MAGIC or signature != (bytes(16) if layout is None else layout.signature):
        raise ExchangeError(ELSEWHERE)
    heads: tuple[NodeHead, ...] = ()
    if layout is not None and not misfit:
        size = _node_bytes(layout)
        heads = tuple(_read_head(data[_FIXED.size + i * size :], layout) for i in range(num_nodes))
    return Header(
        round=round,
        signals=Signals.unpack(signals),
        misfit=misfit,
        drift=drift,
        shown=Shown(own, other),
        layouts_bytes=layouts_bytes,
        gathered_bytes=gathered_bytes,
        heads=heads,
    )


def _read_head(data: bytes, layout: Layout) -> NodeHead:
    num_scalars = len(layout.scalars)
    weight, *scalars = struct.unpack_from(f"<{1 + num_scalars}d", data)
    at = 8 * (1 + num_scalars)
    end = at + _presence_bytes(layout)
    return weight, tuple(scalars), int.from_bytes(data[at:end], "little"), bytes(data[end : end + layout.exact_bytes])


def check_rounds(headers: Sequence[Header]) -> None:
    """Raise ExchangeError unless all are of the same round."""
    rounds = [header.round for header in headers]
    if len(set(rounds)) > 1:
        raise ExchangeError(f"the trainers are in different rounds, by rank: {rounds}. {_ADVICE}")
