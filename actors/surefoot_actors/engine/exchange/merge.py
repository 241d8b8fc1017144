"""One round's merge: all V sub-task leaves of a step into one vector, the same bytes whoever holds them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_

import torch

from surefoot_actors.engine.exchange.agreement import (
    DriftedRanksError,
    UnlikeSubTaskError,
    agree,
    drifted_names,
    drifted_ranks,
    held_layouts,
    pack_held,
    read_held,
)
from surefoot_actors.engine.exchange.alone import finish, head_of, merge_alone
from surefoot_actors.engine.exchange.contribution import NO_DIGEST, Contribution, MergeResult
from surefoot_actors.engine.exchange.gathering import Rows, join_rows, own_rows, pack_rows, read_rows
from surefoot_actors.engine.exchange.header import ELSEWHERE, ExchangeError, Header, check_rounds
from surefoot_actors.engine.exchange.messages import AllGather, Exchange, Parts, exchange_bytes, post_exchange
from surefoot_actors.engine.exchange.plan import Plan, plan_exchange
from surefoot_actors.engine.exchange.reduce import merge_heads, merge_part
from surefoot_actors.engine.group.group import Group, UnexpectedMessageError
from surefoot_actors.engine.group.wire import Message, Tag
from surefoot_actors.engine.types import Node, Range, StateTable
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.faults import points as faults

__all__ = ["merge_round", "say_done"]


def merge_round(
    group: Group | None,
    contribution: Contribution,
    *,
    on_met: Callable[[], None] = lambda: None,
    on_exchanged: Callable[[], None] = lambda: None,
    pool: BufferPool | None = None,
) -> MergeResult:
    """Merge a round with the other members of `group` (None: alone). The same bytes on all of them.

    `on_met` is called once all members have come to this round, `on_exchanged` once all their nodes are here; the merged vector is made
    in memory of `pool`.

    Raises, on every member alike: ContractError where the sub-tasks differ in layout or in integer buffers or have no weight,
    DriftedRanksError where members hold different state, UnlikeSubTaskError where two have computed a sub-task to other bits. Raises
    GroupClosedError when the generation is over. The group is of no use after an error.
    """
    if group is None or group.size == 1:
        faults.point("exchange", contribution.step)
        result = merge_alone(contribution, pool)
        on_exchanged()
        faults.point("gather", contribution.step)
        return result
    return _merge_together(group, contribution, on_met, on_exchanged, pool or BufferPool())


def _merge_together(
    group: Group,
    contribution: Contribution,
    on_met: Callable[[], None],
    on_exchanged: Callable[[], None],
    pool: BufferPool,
) -> MergeResult:
    nodes, num_sub_tasks, step = contribution.nodes, contribution.num_sub_tasks, contribution.step
    covers = tuple(map(tuple, contribution.covers))
    assert tuple(sorted(nodes)) == covers[group.rank], "the nodes given are not those of the rank's cover"
    faults.point("exchange", step)
    plan, exchange, headers = _settle(group, plan_exchange(contribution.agreed, covers), contribution)
    # after layouts, which say more where members do other things
    _cross_check(headers, contribution)
    on_met()
    assert plan.layout is not None
    heads = {r: head for rank, own in headers.items() for r, head in zip(covers[rank], own.heads, strict=True)}
    head = merge_heads(heads, plan.layout, num_sub_tasks)
    buckets = pool.take(plan.layout, group.device)
    all_gather = None if plan.one_phase else AllGather(group, plan, buckets)
    gathered = _gather_rows(group, plan, nodes, headers)
    exchange.wait_received()
    on_exchanged()
    parts = {**exchange.parts, **_own_parts(plan, group.rank, nodes)}
    digests = _merge_own(plan, group.rank, parts, buckets, head[0], num_sub_tasks)
    faults.point("gather", step)
    if all_gather is not None:
        digests = all_gather.run(digests)
    exchange.wait()
    return MergeResult(
        merged=finish(contribution.round, plan.layout, buckets, head, digests, gathered),
        signals=reduce(or_, (h.signals for h in headers.values())),
        layout=plan.layout,
    )


def say_done(group: Group) -> None:
    """Send every other member a header of no round: one that waits for this one's part in a round raises ExchangeError."""
    done = torch.zeros(1, dtype=torch.uint8)
    group.post([Message(done, rank, Tag.HEADER) for rank in range(group.size) if rank != group.rank], [])


def _settle(group: Group, plan: Plan, contribution: Contribution) -> tuple[Plan, Exchange, dict[int, Header]]:
    """Exchange by the agreed layout, or agree on one and exchange then. Returns the exchange that counts, and all headers by rank."""
    nodes, step = contribution.nodes, contribution.step
    held = pack_held(tuple(held_layouts(nodes.values())))
    header = Header(
        round=contribution.round,
        signals=contribution.signals,
        misfit=False,
        drift=contribution.drift,
        shown=contribution.shown,
        layouts_bytes=len(held),
    )
    exchange, headers = _exchange(group, plan, header, nodes, Tag.HEADER)
    check_rounds([headers[rank] for rank in range(group.size)])
    _check_drift(group, [headers[rank].drift for rank in range(group.size)], step, contribution.look)
    if plan.layout is not None and not any(h.misfit for h in headers.values()):
        return plan, exchange, headers
    # Every rank has seen the same headers, so every rank is here.
    exchange.wait()
    sizes = [headers[rank].layouts_bytes for rank in range(group.size)]
    all_held = [h for data in exchange_bytes(group, held, sizes, Tag.LAYOUT) for h in read_held(data)]
    plan = plan_exchange(agree(all_held, step), plan.covers)
    return plan, *_exchange(group, plan, header, nodes, Tag.AGREED_HEADER)


def _check_drift(group: Group, drifts: Sequence[bytes], step: int, look: Callable[[], StateTable] | None) -> None:
    """Raise DriftedRanksError, the same on every rank, unless all have told the same. All ranks are here then: they say what they hold."""
    ranks = drifted_ranks(drifts)
    if not ranks:
        return
    own = b"" if look is None else pickle.dumps(look())
    sizes = [
        int.from_bytes(size, "little")
        for size in exchange_bytes(group, len(own).to_bytes(8, "little"), [8] * group.size, Tag.TABLE_BYTES)
    ]
    told = exchange_bytes(group, own, sizes, Tag.TABLE)
    tables = [pickle.loads(data) for data in told if data]  # noqa: S301  from fellow trainers of the same job
    names = drifted_names(drifts, tables) if len(tables) == group.size else ()
    raise DriftedRanksError(ranks, group.size, step, names)


def _cross_check(headers: Mapping[int, Header], contribution: Contribution) -> None:
    """Raise UnlikeSubTaskError, the same on every rank, where two that have computed one sub-task show other bits."""
    for subject, witness, sub_task in contribution.cross_checks:
        own, other = headers[subject].shown.own, headers[witness].shown.other
        if NO_DIGEST not in (own, other) and own != other:
            raise UnlikeSubTaskError(sub_task, contribution.step, subject, witness, len(headers))


def _exchange(
    group: Group, plan: Plan, header: Header, nodes: Mapping[Range, Node], tag: Tag
) -> tuple[Exchange, dict[int, Header]]:
    layout = plan.layout
    fits = layout is not None and all(node.layout.signature == layout.signature for node in nodes.values())
    heads = tuple(head_of(nodes[r]) for r in plan.covers[group.rank]) if fits else ()
    gathered_bytes = len(pack_rows(own_rows(nodes))) if fits and layout is not None and layout.gathers else 0
    own = replace(header, misfit=not fits, heads=heads, gathered_bytes=gathered_bytes)
    try:
        exchange = post_exchange(group, plan, own, nodes if fits else None, tag)
        return exchange, {group.rank: own, **exchange.headers()}
    except UnexpectedMessageError as error:
        raise ExchangeError(ELSEWHERE) from error


def _gather_rows(
    group: Group, plan: Plan, nodes: Mapping[Range, Node], headers: Mapping[int, Header]
) -> dict[str, torch.Tensor]:
    """Return all rows that any member's nodes have gathered; nothing is sent where none has."""
    layout = plan.layout
    if layout is None or not layout.gathers:
        return {}
    sizes = [headers[rank].gathered_bytes for rank in range(group.size)]
    told = exchange_bytes(group, pack_rows(own_rows(nodes)), sizes, Tag.GATHERED)
    rows: dict[Range, Rows] = {}
    for rank, data in enumerate(told):
        rows |= read_rows(data, plan.covers[rank], layout)
    return join_rows(rows, layout)


def _own_parts(plan: Plan, rank: int, nodes: Mapping[Range, Node]) -> Parts:
    bounds = plan.bounds(rank)
    return {(r, i): node.buckets[i][a:b] for r, node in nodes.items() for i, (a, b) in enumerate(bounds)}


def _merge_own(
    plan: Plan, rank: int, parts: Parts, buckets: list[torch.Tensor], weight: float, num_sub_tasks: int
) -> list[bytes]:
    """Merge the part of every bucket that this rank answers for, in place in `buckets`; return the joined chunk digests."""
    assert plan.layout is not None
    digests = []
    for i, (bucket, (start, stop)) in enumerate(zip(plan.layout.buckets, plan.bounds(rank), strict=True)):
        own = {r: part for (r, at), part in parts.items() if at == i}
        out = buckets[i][start:stop]
        digests.append(merge_part(own, out, weight=weight, num_sub_tasks=num_sub_tasks, chunk=bucket.chunk_numel))
    return digests
