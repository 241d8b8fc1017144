"""Sees that sub-tasks leave the tracked state alone: what one changes would depend on who computes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import xxhash
from torch import nn

from surefoot.errors import ContractError
from surefoot_actors.engine.state.digest import canonical
from surefoot_actors.engine.state.tracked import GRADIENTS, Tracked
from surefoot_actors.engine.vector.memory import flat_bytes, memory_of

__all__ = ["Unchanged", "sample"]

# The state is looked at thoroughly around so many sub-tasks of each of the first so many steps of this process.
_NUM_STEPS = 2
_NUM_SUB_TASKS = 2
# Afterwards, once a round: the learning rates, and whether any of so many parameters was written, in turn.
_WINDOW = 8
_FLAGS = "'s training flags"
# Of a tensor so many elements are compared.
_SAMPLE = 1024


class Unchanged:
    """Compares the state before and after sub-tasks: thoroughly at first, then a little of it a round, in turn."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._optimizers = tuple(tracked.optimizers.values())
        modules = [named for name, m in tracked.modules.items() for named in m.named_parameters(prefix=name)]
        self._parameters = list({id(p): (name, p) for name, p in (*modules, *tracked.parameters())}.values())
        self._roots = tuple(tracked.modules.values())
        self._steps: set[int] = set()
        # parts of modules that were in eval mode when the round began, as an evaluation may leave them, with all their flags
        self._modes: list[tuple[nn.Module, bool]] = []
        #: how many of the next sub-tasks are looked at thoroughly
        self.left = 0
        self._at = 0
        # the state as the sub-task found it, where it is looked at thoroughly
        self.before: dict[str, bytes] | None = None

    def open(self, step: int) -> None:
        """A round of this step begins here."""
        if len(self._steps) < _NUM_STEPS or step in self._steps:
            self._steps.add(step)
            self.left = _NUM_SUB_TASKS
        self._modes = [(part, part.training) for root in self._roots if not root.training for part in root.modules()]
        self._rates = self._learning_rates()
        self._window = self._parameters[self._at : self._at + _WINDOW]
        self._versions = [p._version for _, p in self._window]

    def begin(self) -> None:
        """A sub-task begins: in the modes that the first one found, where that has switched to training itself."""
        for part, mode in self._modes:
            part.training = mode
        if self.left:
            self._look()

    def _look(self) -> None:
        self.left -= 1
        self.before = dict(self._state())

    def check(self, line: str) -> None:
        """Raise ContractError when the sub-task that ends, in the inner loop at this line, has changed the state since `begin`."""
        before, self.before = self.before, None
        for name, digest in self._state():
            if before is not None and _differs(name, before.get(name, digest), digest):
                raise ContractError(
                    self._rate(line) if self._learning_rates() != self._rates else self._changed(name, line)
                )

    def close(self, line: str) -> None:
        """The round's last sub-task has ended. Raises ContractError where the round has changed what can be looked at in passing."""
        if self._learning_rates() != self._rates:
            raise ContractError(self._rate(line))
        if [p._version for _, p in self._window] != self._versions:
            # Written, perhaps with what it held before: the next sub-tasks are compared by content.
            self.left = _NUM_SUB_TASKS
        else:
            self._at = self._at + _WINDOW if self._at + _WINDOW < len(self._parameters) else 0

    def _learning_rates(self) -> list[Any]:
        return [group.get("lr") for optimizer in self._optimizers for group in optimizer.param_groups]

    @torch.no_grad()
    def _state(self) -> Iterator[tuple[str, bytes]]:
        """Yield what of the state a sub-task must not change, as digests by name; buffers are merged, so they may."""
        survey = self._tracked.survey()
        for name, module in self._tracked.modules.items():
            yield f"{name}{_FLAGS}", bytes([part.training for part in module.modules()])
        for name, tree in survey.objects.items():
            if name not in self._tracked.modules and name != GRADIENTS:
                yield f"{name}'s values", canonical(tree)
        merged = {id(b) for module in self._tracked.modules.values() for b in module.buffers()}
        merged.update(id(grad) for _, grad in self._tracked.gradients.present())
        for entry in survey.entries:
            if id(entry.tensor) not in merged:
                yield entry.name, sample(entry.tensor)

    def _rate(self, line: str) -> str:
        return (
            f"a learning rate changed inside the inner loop at {line}, which turns once a sub-task: it would change more often the fewer "
            f"trainers there are; step schedulers and set learning rates after the loop"
        )

    def _changed(self, name: str, line: str) -> str:
        owner = self._owner(name)
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) and owner.max_norm is not None:
            return (
                f"{name} changed in the inner loop at {line}: an embedding with max_norm={owner.max_norm} scales its rows whenever they "
                f"are looked up, so they depend on who computes which sub-task; leave max_norm out, and scale the rows after "
                f"optimizer.step()"
            )
        return (
            f"{name} changed inside the inner loop at {line}. Sub-tasks start from the same state, whoever computes them: change tracked "
            f"objects after the loop (clamp weights, step schedulers, update averages there), by what is merged"
        )

    def _owner(self, name: str) -> nn.Module | None:
        first, _, path = name.partition(".")
        module = self._tracked.modules.get(first)
        inside = path.rpartition(".")[0]
        return dict(module.named_modules()).get(inside) if module is not None else None


def _differs(name: str, before: bytes, now: bytes) -> bool:
    """Whether this has changed. `model.train()` in every sub-task is in order: each begins as the first one did."""
    if name.endswith(_FLAGS):
        return any(was and not flag for was, flag in zip(before, now, strict=True))
    return before != now


def sample(tensor: torch.Tensor) -> bytes:
    """Return a digest of elements spread over a tensor; empty: it has none."""
    if tensor.is_meta:
        return b""
    flat = tensor.detach().resolve_conj().reshape(-1)
    some = flat[:: max(1, flat.numel() // _SAMPLE)]
    return xxhash.xxh3_128_digest(memory_of(flat_bytes(some))) if some.numel() else b""
