"""The data plane of one generation: a thread that owns its process group and does what the training thread must not wait for alone.

The training thread waits for (result or "generation over"), whichever is first; `close` ends whatever this thread waits for.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from surefoot_actors.checkpoint.manifest import Point
from surefoot_actors.engine.exchange.contribution import Contribution, MergeResult
from surefoot_actors.engine.exchange.merge import merge_round, say_done
from surefoot_actors.engine.exchange.transfer import recv_merged, recv_state, send_merged, send_state
from surefoot_actors.engine.group.group import Group, GroupClosedError
from surefoot_actors.engine.types import Layout, Merged, StateImage
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.faults import points as faults
from surefoot_actors.protocol.member.machine import Form
from surefoot_actors.system_metrics import counters

__all__ = ["DataPlane", "Host", "JoinerHandover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinerHandover:
    """What a joiner needs besides the tracked state."""

    step: int
    agreed: dict[int, Layout]
    # ledger rows that are not acknowledged yet, as JSON lines: the joiner may come to be the only one that has them
    rows: bytes
    # the ledger's last row, for the checkpoints that the joiner has a share in
    last: Point | None
    # whether the first source gives the retained vector after the state
    retained: bool


class Host(Protocol):
    """The trainer, as its data planes see it. Every call says which generation it is about; late ones are ignored."""

    def capture(self) -> tuple[StateImage, JoinerHandover, Merged | None]: ...
    def restore(self, generation: int, image: StateImage, handover: JoinerHandover) -> None: ...
    def retained_vector(self) -> Merged: ...
    def vector_came(self, generation: int, merged: Merged) -> None: ...
    def state_came(self, generation: int, retained: Merged | None) -> None: ...
    def state_served(self, generation: int) -> None: ...
    def exchanged(self, generation: int, pool: BufferPool) -> None: ...
    def gathered(self, generation: int, result: MergeResult) -> None: ...
    def group_broke(self, generation: int, reason: str) -> None: ...
    def plane_failed(self, generation: int, error: Exception) -> None: ...


class DataPlane:
    """One generation's thread and process group, as one member."""

    def __init__(self, host: Host, form: Form, rank: int, *, device: torch.device, address: str) -> None:
        self._host, self._form, self._rank = host, form, rank
        self._generation = form.generation
        self._alone = len(form.generation.members) == 1
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pool = BufferPool()
        self._group = (
            None
            if self._alone
            else Group(
                store=form.generation.store,
                name=f"{form.generation.nonce}-{form.generation.number}",
                rank=rank,
                size=len(form.generation.members),
                device=device,
                host=address,
            )
        )
        self._thread = threading.Thread(target=self._run, name=f"generation-{form.generation.number}", daemon=True)
        self._thread.start()

    def merge(self, contribution: Contribution) -> None:
        """Merge a round when everything before it is done. Never blocks."""
        self._jobs.put(lambda: self._merge(contribution))

    def say_done(self) -> None:
        """Let members that open another round know that this one has left the loop over steps. Never blocks."""
        group = self._group
        if group is not None:
            self._jobs.put(lambda: say_done(group))

    def close(self) -> None:
        """End the thread and the group, whatever they wait for. From any thread, at any time, twice; never blocks for long."""
        self._jobs.put(None)
        if self._group is not None:
            self._group.close()

    def _run(self) -> None:
        number = self._generation.number
        try:
            if self._group is not None:
                self._group.form()
            self._play_role()
            while (job := self._jobs.get()) is not None:
                job()
        except GroupClosedError as error:
            self._host.group_broke(number, str(error))
        except Exception as error:  # noqa: BLE001  the thread's edge: told, so that nobody waits for it
            self._host.plane_failed(number, error)
        finally:
            if self._group is not None:
                self._group.close()

    def _play_role(self) -> None:
        form, group, number = self._form, self._group, self._generation.number
        if group is None:
            return
        if form.role == "joining":
            faults.point("join", self._generation.start)
            self._join(group)
        elif form.role == "behind":
            source = self._generation.members[self._rank].source
            assert source is not None
            self._host.vector_came(number, recv_merged(group, source))
        if form.state_to:
            self._serve(group)
        for rank in form.vector_to:
            send_merged(group, rank, self._host.retained_vector())

    @property
    def _sources(self) -> tuple[int, ...]:
        return tuple(k for k, m in enumerate(self._generation.members) if m.role == "settled")

    def _serve(self, group: Group) -> None:
        number, start = self._generation.number, self._generation.start
        image, handover, retained = self._host.capture()
        joiners, sources = self._form.state_to, self._sources
        send_state(group, joiners, sources, image, number, start, pickle.dumps(handover))
        if retained is not None and self._rank == sources[0]:
            for rank in joiners:
                send_merged(group, rank, retained)
        self._host.state_served(number)

    def _join(self, group: Group) -> None:
        number, start = self._generation.number, self._generation.start
        image, extra = recv_state(group, self._sources, number, start)
        handover: JoinerHandover = pickle.loads(extra)  # noqa: S301  from a fellow trainer of the same job
        retained = recv_merged(group, self._sources[0]) if handover.retained else None
        self._host.restore(number, image, handover)
        self._host.state_came(number, retained)

    def _merge(self, contribution: Contribution) -> None:
        number = self._generation.number
        began = met = time.monotonic()

        def meet() -> None:
            nonlocal met
            met = time.monotonic()

        result = merge_round(
            self._group,
            contribution,
            on_met=meet,
            on_exchanged=lambda: self._host.exchanged(number, self._pool),
            pool=self._pool,
        )
        counters.exchanged(met - began, time.monotonic() - met)
        self._host.gathered(number, result)
