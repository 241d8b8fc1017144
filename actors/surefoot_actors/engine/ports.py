"""What the engine's Run asks of whoever coordinates it: a trainer among others, or `run_local` alone.

The training thread is the only caller. Every call may raise `TrainerExit` (this trainer is to end without a result).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

from surefoot.events import LedgerRow
from surefoot_actors.engine.state.survey import Survey
from surefoot_actors.engine.types import Merged, Node, Position, StateImage, StateTable

__all__ = ["Coordinator", "StateOwner", "TrainerExit"]


class TrainerExit(BaseException):
    """Raised through the user's train function on a trainer that is to end: it left, was fenced, or another one was elected.

    Not an Exception, so that a user's `except Exception` does not swallow it.
    """


class StateOwner(Protocol):
    """The tracked objects, as the coordinator sees them."""

    def capture(self) -> StateImage:
        """Return the tracked state as it is now. Tensors may alias the live ones: they are read before training goes on."""

    def restore(self, image: StateImage) -> None:
        """Overwrite the tracked state, bit for bit. Raises ContractError where the tracked objects are of another shape."""

    def digest(self) -> bytes:
        """16 bytes over all of the tracked state."""

    def stripe_digest(self, index: int) -> bytes:
        """16 bytes over stripe `index % num_stripes` of the tracked state; index -1: over all of it."""

    def survey(self) -> Survey:
        """List every tensor and plain value of the state, as it is now. Tensors are the live ones."""

    def check_image(self, image: StateImage) -> None:
        """Raise ContractError where the tracked objects are not those of the image, naming what differs. Changes nothing."""

    def models(self) -> dict[str, nn.Module]:
        """The tracked modules, by name."""

    def table(self, index: int) -> StateTable:
        """The digests of what is in that stripe, and of all plain values, by name: to tell where trainers have drifted apart."""

    def tensor_digests(self) -> dict[str, bytes]:
        """16 bytes a tensor: to name the one that drifted."""


class Coordinator(Protocol):
    """Membership, as the training loop sees it."""

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        """Block until this trainer is a member and `state` holds the run's state. Return where to go on, at a step boundary.

        `num_steps` is how long the run is; None while that is not known.
        """

    def set_num_steps(self, num_steps: int) -> None:
        """It is known now how long the run is."""

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of the job has called `prepare` and it has returned: this one, or another. May block."""

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        """Return when one trainer of this node has. May block."""

    def output_dir(self) -> Path:
        """Return the folder for files; on whoever is elected it has the job's. May block."""

    def elected(self) -> bool:
        """Whether this trainer is the one whose folder is kept. May block: where it is, the job's files are in the folder then."""

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        """Begin a round. `checks`: its sub-tasks may be computed on two trainers, to be compared."""

    def next_sub_task(self) -> int | None:
        """Return the next sub-task to compute here, or None when the round's merge is committed on this trainer.

        Blocks in the exchange; hands out more sub-tasks when another trainer is lost.
        """

    @property
    def is_own(self) -> bool:
        """Whether the sub-task handed out last is this trainer's, so that its leaf is put; another's is only compared."""

    @property
    def is_compared(self) -> bool:
        """Whether the sub-task handed out last is compared with another trainer's: its bits are to be shown."""

    def show(self, sub_task: int, digest: bytes) -> None:
        """Hand over what a compared sub-task has come to, 16 bytes; of its own before the leaf."""

    def put_leaf(self, leaf: Node) -> None:
        """Hand over a computed leaf (range of one sub-task); the fold may consume it."""

    def merged(self) -> Merged:
        """The round's merge, after `next_sub_task` returned None. Not to be modified."""

    def end_step(self, row: LedgerRow) -> None:
        """The commit of a step: record its row; joins, leaves and snapshots happen here. May block."""

    def finish(self, num_steps: int) -> None:
        """After the last of so many steps, return on the trainer elected to run the code after the loop, raise TrainerExit elsewhere."""

    @property
    def generation(self) -> int:
        """The present generation's number, for the circumstances."""

    @property
    def trainers(self) -> int:
        """How many members it has."""
