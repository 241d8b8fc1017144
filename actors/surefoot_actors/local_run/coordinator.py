"""The one trainer of `run_local`: it owns every sub-task, and merges in its own process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from surefoot._paths import why_not
from surefoot.errors import UserError
from surefoot.events import LedgerRow
from surefoot.local import LocalResult
from surefoot_actors.engine.exchange.contribution import Contribution
from surefoot_actors.engine.exchange.merge import merge_round
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.types import Merged, Node, Position, Range, StateImage
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.local_run.checkpoints import LocalCheckpoints

__all__ = ["LocalCoordinator"]


class LocalCoordinator:
    """One trainer that owns every sub-task. Implements `ports.Coordinator`."""

    generation = 1
    trainers = 1
    # nobody else computes anything
    is_own, is_compared = True, False

    def __init__(
        self,
        num_sub_tasks: int,
        *,
        keep_state: bool = False,
        checkpoints: LocalCheckpoints | None = None,
        output: str | os.PathLike[str] | None = None,
    ) -> None:
        """`output`: the folder for files; None: a new one, if the code asks for it."""
        self._output = None if output is None else Path(output).absolute()
        self._num_sub_tasks = num_sub_tasks
        self._keep_state, self._checkpoints = keep_state, checkpoints
        self._store = NodeStore(num_sub_tasks)
        self._pool = BufferPool()
        self._next = 0
        self._position = Position(0, 0, 0)
        # the boundary after the last step
        self._reached = self._position
        self._merged: Merged | None = None
        self._owner: StateOwner | None = None
        self.rows: list[LedgerRow] = []
        self.digest = b""
        self.state: StateImage | None = None
        # state_dicts of the tracked modules after the last step
        self.models: dict[str, dict[str, torch.Tensor]] = {}

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        self._owner = state
        if self._checkpoints is not None:
            self._position, self.rows = self._checkpoints.begin(state, num_steps)
            self._reached = self._position
        return self._position

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        prepare()

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        prepare()

    def output_dir(self) -> Path:
        if self._output is None:
            self._output = Path(tempfile.mkdtemp(prefix="surefoot-output-"))
        try:
            self._output.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"output_dir {self._output} cannot be made: {why_not(error)}; name another folder"
            ) from None
        return self._output

    def elected(self) -> bool:
        return True

    @property
    def written_to(self) -> Path | None:
        """The folder for files, if there is one."""
        return self._output if self._output is not None and os.path.isdir(self._output) else None

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        self._position = position
        self._next = 0

    def next_sub_task(self) -> int | None:
        if self._next < self._num_sub_tasks:
            self._next += 1
            return self._next - 1
        self._merge()
        return None

    def _merge(self) -> None:
        if self._merged is not None:
            self._pool.give(self._merged)
        result = merge_round(
            None,
            Contribution(
                round=self._position.round,
                step=self._position.step,
                num_sub_tasks=self._num_sub_tasks,
                covers=((Range(0, self._num_sub_tasks),),),
                nodes=self._store.nodes(),
            ),
            pool=self._pool,
        )
        self._merged = result.merged
        self._store.clear()

    def show(self, sub_task: int, digest: bytes) -> None:
        """Nobody compares it."""

    def put_leaf(self, leaf: Node) -> None:
        self._store.put(leaf)

    def merged(self) -> Merged:
        assert self._merged is not None
        return self._merged

    def end_step(self, row: LedgerRow) -> None:
        self.rows.append(row)
        self._reached = Position(self._position.round + 1, row.result.step + 1, 0)
        if self._checkpoints is not None:
            assert self._owner is not None
            self._checkpoints.end_step(self._owner, self._reached, self.rows)

    def set_num_steps(self, num_steps: int) -> None:
        if self._checkpoints is not None:
            self._checkpoints.num_steps = num_steps

    def finish(self, num_steps: int) -> None:
        self.set_num_steps(num_steps)
        assert self._owner is not None
        self.digest = self._owner.digest()
        if isinstance(self._owner, Tracked):
            self.models = {name: _copied(module.state_dict()) for name, module in self._owner.modules.items()}
        if self._checkpoints is not None:
            self._checkpoints.finish(self._owner, self._reached, self.rows)
        if self._keep_state:
            image = self._owner.capture()
            self.state = StateImage(skeleton=image.skeleton, tensors=[t.clone() for t in image.tensors])

    def result(self) -> LocalResult:
        """Return what the run has left, once it has ended."""
        return LocalResult(
            rows=tuple(self.rows),
            digest=self.digest.hex(),
            models=self.models,
            state=self.state,
            output_dir=self.written_to,
        )


def _copied(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, as they are now; extra state that a module keeps beside them is its own."""
    return {name: value.detach().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
