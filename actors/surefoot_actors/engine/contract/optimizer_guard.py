"""Optimizers step on merged gradients only: a guard in front of every tracked optimizer's `step()`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.state.gradient_use import Gradients
from surefoot_actors.user_code.lines import user_line

__all__ = ["OptimizerGuard"]


class OptimizerGuard:
    """Knows whether `.grad` holds a merge, and refuses `optimizer.step()` when it does not."""

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients
        # the line of the inner loop that is under way, if one is
        self._loop: str | None = None
        self._delivered = False
        self._handles: list[Any] = []

    def attach(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Stand in front of these optimizers until `detach`."""
        # a wrapper that has never called Optimizer.__init__ has no hooks: the optimizer inside it has
        hooked = [o for o in optimizers if hasattr(o, "_optimizer_step_pre_hooks")]
        self._handles = [o.register_step_pre_hook(self._before_step) for o in hooked]

    def detach(self) -> None:
        """Take the hooks away: the optimizers are the user's own again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin_step(self) -> None:
        """A step begins: nothing is merged yet."""
        self._delivered = False
        self._gradients.begin_step()

    def open(self, loop: str, *, keeps_gradients: bool) -> None:
        """A round begins in the inner loop at this line; an evaluation's keeps the gradients as they are."""
        self._loop = loop
        self._delivered = self._delivered and keeps_gradients

    def close(self, *, delivered: bool) -> None:
        """The round is merged; `delivered`: its merge is in `.grad`."""
        self._loop = None
        self._delivered = self._delivered or delivered

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # the first argument is the optimizer itself
        if any(callable(a) for a in args[1:]) or callable(kwargs.get("closure")):
            raise ContractError(
                f"optimizer.step(closure) at {user_line()}: a closure computes gradients that no other trainer merges; "
                f"compute them in the inner loop and call optimizer.step() without a closure after it"
            )
        if self._loop is not None:
            raise ContractError(
                f"optimizer.step() at {user_line()}, but the inner loop at {self._loop} has not ended, so its gradients are not "
                f"merged. If the call stands inside the loop, move it after the loop; if the inner loop was left early by break, "
                f"let it run to its end"
            )
        if not self._delivered:
            raise ContractError(
                f"optimizer.step() at {user_line()}, but no merge was delivered in this step: run an inner loop first, "
                f"`for batch in step.batches(dataset): ...; loss.backward()`, and call optimizer.step() after it"
            )
        self._gradients.check_there(optimizer)
        self._gradients.used(optimizer)
