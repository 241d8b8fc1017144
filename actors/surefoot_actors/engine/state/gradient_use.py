"""What `.grad` of the tracked parameters holds between rounds, and whether anybody has used it: no merge is dropped unseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import user_line

__all__ = ["Gradients"]

_ADVICE = (
    "call optimizer.step() after each inner loop; or say that gradients add up, step.batches(dataset, accumulate=True); or, where "
    "they are not wanted or were read by hand, call step.discard_gradients()"
)


class Gradients:
    """Follows a merge from its delivery to the optimizer that uses it.

    A merge counts as used once any tracked optimizer has stepped (or a GradScaler was asked to, and skipped), or a parameter was
    changed by hand. Without tracked optimizers nothing can be told of use, so nothing is said.

    At a step's begin there are gradients only where they are state: a merge that nobody has used, or the run accumulates. Everything
    else is taken away there, as a trainer that joins at that step has none either.
    """

    def __init__(
        self, parameters: Sequence[tuple[str, torch.Tensor]], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> None:
        self._named = list(parameters)
        self._parameters = [p for _, p in parameters]
        self._optimizers = optimizers
        #: whether any round so far has accumulated: from then on what is in `.grad` is state
        self.accumulates = False
        #: whether a merge was delivered that nobody has used
        self.unused = False
        #: the line of this step's inner loop that has left no gradients at all, if one has
        self.without = ""
        #: whether the step under way is the run's first
        self.is_first_step = False
        # the optimizer that did not step in a step whose rounds gave its parameters gradients, if there is one
        self._idle: str | None = None
        # the line of the loop that delivered last
        self._loop = "an earlier loop"
        self._present: list[torch.Tensor] = []
        self._version = 0
        # by id: optimizers that stepped in this step, and parameters whose gradients were cleared since the delivery
        self._stepped: set[int] = set()
        self._cleared: set[int] = set()
        # parameters that the optimizers of the last step have used
        self._served: set[int] = set()
        self._optimized: set[int] = set()
        self._num_optimized = -1

    # ---- steps and rounds

    def begin_step(self) -> None:
        """A step begins: take away what is no state."""
        self._stepped.clear()
        self.without = ""
        if not self.is_state:
            self._clear()

    def end_step(self) -> None:
        """A step ends: find optimizers that let this step's gradients lie while others used theirs."""
        if not self.unused and 0 < len(self._stepped) < len(self._optimizers):
            groups = [g for o in self._optimizers.values() if id(o) in self._stepped for g in o.param_groups]
            self._served = {id(p) for group in groups for p in group["params"]}
            self._idle = next((name for name in self._optimizers if self._lies_idle(name)), None)

    def open(self, line: str, *, accumulate: bool) -> None:
        """A training round begins at this line. Raises ContractError where it would drop a merge."""
        if accumulate:
            self.accumulates = True
            return
        if self.unused and not self._changed_by_hand():
            raise ContractError(self._lost(line))
        if self._idle is not None and self._lies_idle(self._idle):
            raise ContractError(self._idles(line, self._idle))
        self.unused, self._idle = False, None

    def take(self, *, accumulate: bool) -> dict[int, torch.Tensor]:
        """Take all gradients off the parameters. Return those that the round's merge is added to, by id of the parameter."""
        before = {id(p): p.grad for p in self._parameters if p.grad is not None} if accumulate else {}
        self._clear()
        return before

    def delivered(self, line: str, present: list[torch.Tensor]) -> None:
        """The merge of the loop at this line is in `.grad` of these parameters."""
        self._cleared.clear()
        self.without = "" if present else line
        optimized = self._optimized_ids()
        if not any(id(p) in optimized for p in present):
            return
        self._loop, self._present, self.unused = line, present, True
        self._version = sum([p._version for p in self._parameters])

    # ---- what becomes of a merge

    def check_there(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise ContractError when all that was delivered for this optimizer was cleared before it steps."""
        if not self.unused:
            if self.is_first_step and self.without and all(p.grad is None for p in self._parameters):
                raise ContractError(
                    f"optimizer.step() at {user_line()} finds no gradients: the inner loop at {self.without} has left none. Call "
                    f"backward() in the body of the inner loop, for each batch by itself"
                )
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # nearly always the first
                if parameter.grad is not None and id(parameter) not in self._cleared:
                    return
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) in own for p in self._present):
            raise ContractError(
                f"optimizer.step() at {user_line()} finds no gradients: those that the inner loop at {self._loop} delivered were cleared "
                f"in between; clear gradients after optimizer.step(), or before the inner loop"
            )

    def check_backward(self, line: str) -> None:
        """A backward pass begins outside of the inner loops. Raises ContractError where it is there in place of one inside."""
        if self.without:
            raise ContractError(
                f"the backward pass at {line} is outside of the inner loop at {self.without}, which has left no gradients: what is "
                f"computed of batches there is merged with nobody's. Call backward() in the body of the inner loop, for each batch by "
                f"itself (not on losses kept from batch to batch, nor on batches that were collected in a list)"
            )

    def used(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer steps, or was asked to by a GradScaler."""
        self._stepped.add(id(optimizer))
        self.unused = False

    def cleared(self, parameters: Iterable[torch.Tensor], what: str, line: str) -> None:
        """`what` is about to clear these parameters' gradients. Raises ContractError when it takes all of an unused merge."""
        self._cleared.update(map(id, parameters))
        if not self.unused or self._changed_by_hand():
            return
        optimized = self._optimized_ids()
        left = [p for p in self._present if p.grad is not None and id(p) in optimized and id(p) not in self._cleared]
        if not left:
            raise ContractError(
                f"{what} at {line} clears the gradients that the inner loop at {self._loop} delivered, and no optimizer has used "
                f"them: it belongs after optimizer.step(), or before the inner loop. Otherwise {_ADVICE}"
            )

    def discard(self) -> None:
        """The user wants none of what was delivered."""
        self._clear()
        self.unused, self._idle = False, None

    # ---- gradients as state

    @property
    def is_state(self) -> bool:
        """Whether what is in `.grad` is part of the run's state at a step boundary."""
        return self.accumulates or self.unused or self._idle is not None

    def present(self) -> list[tuple[str, torch.Tensor]]:
        """Return the gradients that there are, by the parameter's name."""
        return [(name, p.grad) for name, p in self._named if p.grad is not None]

    def flags(self) -> tuple[bool, bool, str | None]:
        """Return the plain values that go with gradients as state."""
        return self.accumulates, self.unused, self._idle

    def restore(self, flags: tuple[bool, bool, str | None], grads: Mapping[str, torch.Tensor]) -> None:
        """Take over gradients and flags from another trainer or a checkpoint."""
        self.accumulates, self.unused, self._idle = flags
        self._present = []
        for name, parameter in self._named:
            parameter.grad = grads.get(name)
            if parameter.grad is not None:
                self._present.append(parameter)
        self._version = sum([p._version for p in self._parameters])

    # ----

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _changed_by_hand(self) -> bool:
        return sum([p._version for p in self._parameters]) != self._version

    def _optimized_ids(self) -> set[int]:
        groups = [group["params"] for o in self._optimizers.values() for group in o.param_groups]
        num = sum(map(len, groups))
        if num != self._num_optimized:
            self._num_optimized = num
            self._optimized = {id(p) for group in groups for p in group}
        return self._optimized

    def _lies_idle(self, name: str) -> bool:
        """Whether an optimizer's parameters have gradients that no optimizer of the step has used."""
        groups = self._optimizers[name].param_groups
        done = self._served | self._cleared
        return any(p.grad is not None and id(p) not in done for group in groups for p in group["params"])

    def _lost(self, line: str) -> str:
        if all(p.grad is None for p in self._present):
            return (
                f"the gradients that the inner loop at {self._loop} delivered were cleared, and no optimizer has used them before "
                f"the inner loop at {line}: {_ADVICE}"
            )
        return (
            f"the inner loop at {line} would overwrite the gradients that the inner loop at {self._loop} delivered, and no "
            f"optimizer has used them: {_ADVICE}"
        )

    def _idles(self, line: str, name: str) -> str:
        return (
            f"the inner loop at {line} would overwrite gradients that the inner loop at {self._loop} delivered for {name}, which has "
            f"not stepped in that step. Where they are not wanted, clear them after the step, {name}.zero_grad(); where they add up "
            f"till {name} steps, say so at every inner loop: step.batches(dataset, accumulate=True)"
        )
