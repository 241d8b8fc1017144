"""The loop over steps, as the engine drives it: the step and the round that are open, and the rules that hold while they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose
from surefoot_actors.engine.contract.context import RoundContext
from surefoot_actors.engine.contract.finite import FiniteCheck
from surefoot_actors.engine.contract.graphs import Graphs
from surefoot_actors.engine.contract.hooks import watching
from surefoot_actors.engine.contract.length import Length
from surefoot_actors.engine.contract.local_values import check_local_values
from surefoot_actors.engine.contract.optimizer_guard import OptimizerGuard
from surefoot_actors.engine.contract.settings import forget_casts
from surefoot_actors.engine.contract.step_record import StepRecord
from surefoot_actors.engine.contract.stepped import Place, Stepped
from surefoot_actors.engine.contract.sub_task import SubTask
from surefoot_actors.engine.contract.untracked import UntrackedModules
from surefoot_actors.engine.contract.untracked_state import UntrackedState
from surefoot_actors.engine.state.structure import fixed_structure
from surefoot_actors.engine.types import Merged, Position
from surefoot_actors.faults import points as faults
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import user_line

__all__ = ["Loop", "OpenRound", "check_mode"]

# In how many steps to look through the graph of every backward pass inside the inner loops.
_STEPS_OF_GRAPHS = 2


class OpenRound(Protocol):
    """An inner loop, as the loop over steps knows it."""

    #: the user's line that began it
    line: str
    #: the sub-task that the user's code computes right now
    sub_task: SubTask | None

    @property
    def keeps_gradients(self) -> bool:
        """Whether `.grad` stays as it is."""

    @property
    def repeats(self) -> bool:
        """Whether the sub-task under way is computed only for what it shows."""

    def abandon(self) -> None:
        """The run ends without the round's merge: put back what the round has set."""


class Loop:
    """Opens and closes steps and rounds, in the order that the contract allows, and holds them to its rules."""

    def __init__(
        self,
        context: RoundContext,
        length: Length,
        *,
        line: str,
        proves: bool,
        on_warning: Callable[[str], None] | None,
        on_epoch: Callable[[int], None] | None,
    ) -> None:
        self._context, self._proves, self._on_epoch = context, proves, on_epoch
        self.line = line
        #: where the graphs of sub-tasks were built
        self.graphs = Graphs()
        #: how many steps there are to be
        self.length = length
        #: where training is
        self.position = Position(0, 0, 0)
        #: of the step under way
        self.record: StepRecord | None = None
        #: the inner loop under way
        self.open: OpenRound | None = None
        #: whether the last step is made
        self.is_over = False
        self._begun = False
        self._guard = OptimizerGuard(context.tracked.gradients)
        self._finite_check = FiniteCheck(on_warning)
        self._untracked_state = UntrackedState(context.tracked, line, on_warning)
        #: modules that train without being tracked
        self.untracked = UntrackedModules(context.tracked, context.parameters, self._untracked_state.leave_alone)
        self._looks_at_attributes = False
        # the step in which this trainer began, and the inner loops that were gone through
        self._first_step = 0
        self._lines: set[str] = set()
        self._watching = contextlib.ExitStack()
        self._hooks: list[Any] = []

    # ---- steps

    def next_step(self) -> StepRecord | None:
        """End the step before, if there is one, and begin the next. Returns its record, None when there is none to be made."""
        if not self._begun:
            self._begin()
        elif self.record is not None:
            self._end_step(self.record)
        number = self.position.step
        if self.length.is_over(number):
            return None
        self.record = StepRecord(number)
        self._context.tracked.gradients.is_first_step = number == 0
        self._guard.begin_step()
        forget_casts()
        self._context.streams.start(Purpose.OUTSIDE, number, 0)
        return self.record

    def _begin(self) -> None:
        context, tracked = self._context, self._context.tracked
        self._guard.attach(tracked.optimizers.values())
        self._arm_faults()
        self._stepped = Stepped(tracked, context.settings, place=self._place, loop=self._line, graphs=self.graphs)
        self._watching.enter_context(watching(self._stepped))
        self._watching.enter_context(fixed_structure(tracked.modules.items()))
        for frame in user_frames():
            check_local_values(frame)
        tracked.begin()
        context.settings.begin_first_step()
        self.graphs.begin()
        asked = self.length.num_steps
        self.position = context.coordinator.admit(tracked, asked)
        if asked is None and self.length.num_steps is not None:  # others have learned how long an epoch is
            context.coordinator.set_num_steps(self.length.num_steps)
        tracked.attributes.refresh()
        self._first_step = self.position.step
        self._begun = True

    def _end_step(self, record: StepRecord) -> None:
        context, tracked, number = self._context, self._context.tracked, record.number
        self.check_no_round("the step ends")
        if not record.num_rounds:
            raise ContractError(
                f"step {number} had no inner loop: every step needs `for batch in step.batches(dataset): ...`, "
                f"as that is where trainers meet"
            )
        tracked.check_structure(f"at the end of step {number}")
        self._stepped.end_step()
        context.settings.check_kernels(f"in step {number} of the loop at {self.line}")
        if number == 1:
            tracked.rehearse()  # once more: now optimizers and averages have a state
        self._finite_check.check_state(context.parameters, number)
        tracked.attributes.end_step(number)
        self._untracked_state.look(number)
        tracked.gradients.end_step()
        self.length.values["logged"] = record.logged_outside
        self._look_at_target(record)
        coordinator = context.coordinator
        coordinator.end_step(
            record.row(
                batch_size=context.batch_size,
                generation=coordinator.generation,
                trainers=coordinator.trainers,
                epoch_samples=int(self.length.values["epoch_length"]),
                nondeterministic=context.settings.allowed,
            )
        )
        self.position = Position(self.position.round, number + 1, 0)

    def _look_at_target(self, record: StepRecord) -> None:
        """Before the step is told, so that a checkpoint of it knows that it was the last."""
        target = self.length.target
        if target is not None and target.name in record.logged_outside:
            raise ContractError(
                f"the job's target {target} is of a value that step {record.number} logs outside of its inner loops, where it is not "
                f"merged: log {target.name} in the body of `for batch in step.batches(...)` or `step.evaluate(...)`"
            )
        self.length.look_at(record.values)

    def stop(self, line: str) -> None:
        """The step under way is to be the last, the user's code says at this line."""
        self.check_no_round(
            f"run.stop() is called at {line}, where only this trainer has come to; decide by step.merged"
        )
        self.length.values["stopped"] = True

    def leave(self) -> None:
        """The user's code has left the loop over steps: the step under way is the last, and ends here."""
        self.check_no_round("the loop over run.steps() is left")
        assert self.record is not None
        self.length.values["stopped"] = True
        if self.record.num_rounds:
            self._end_step(self.record)

    def finish(self) -> None:
        """After the last step, return on the trainer that is to run the code after the loop; raise TrainerExit on the others."""
        self._context.settings.check("")
        self.record = None
        self.is_over = True
        self._guard.detach()
        self._watching.close()
        self._context.coordinator.finish(self.position.step)

    def close(self) -> None:
        """Take hooks off the user's objects, however the run has ended. Doubled calls do nothing."""
        if self.open is not None:
            self.open.abandon()
        self._watching.close()
        self._guard.detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    # ---- rounds

    def open_round(self, round_: OpenRound) -> Position:
        """Begin a round at the inner loop's first turn. Returns where training is."""
        attributes = self._context.tracked.attributes
        self._looks_at_attributes, proves = attributes.looks, self.proves(round_.line)
        if self._looks_at_attributes or proves:
            attributes.begin_round(tries=proves)
        self.untracked.open()
        self.open = round_
        self.graphs.open(round_.line)
        self.graphs.thorough = self.position.step < _STEPS_OF_GRAPHS
        self._guard.open(round_.line, keeps_gradients=round_.keeps_gradients)
        self._context.coordinator.open_round(self.position, checks=self._proves and not round_.keeps_gradients)
        return self.position

    def close_round(self, round_: OpenRound, merged: Merged) -> None:
        """End the round: its merge is committed and delivered."""
        assert self.record is not None
        position = self.position
        self.open = None
        self.graphs.close()
        if self._looks_at_attributes:
            self._context.tracked.attributes.end_round()
        elif self.proves(round_.line):
            self._context.tracked.attributes.end_late_round()
        self._lines.add(round_.line)
        self._context.settings.check(round_.line)
        forget_casts()
        self._guard.close(delivered=not round_.keeps_gradients)
        if merged.gathered:
            self._context.tracked.gradients.without = (
                ""  # what is gathered is the same everywhere, and may be trained on
            )
        self._finite_check.check_merge(merged, position.step)
        self.record.add_round(position.phase, merged, round_.line)
        self.position = Position(position.round + 1, position.step, position.phase + 1)
        self._context.streams.start(Purpose.OUTSIDE, position.step, position.phase + 1)

    @property
    def is_nondeterministic(self) -> bool:
        """Whether the user's code has allowed an operation in this step that may give other bits each time."""
        return bool(self._context.settings.allowed or (self.record is not None and self.record.allowed))

    def proves(self, line: str) -> bool:
        """Whether the first sub-task of a round is computed twice: of those of the first step, and of inner loops that begin later.

        Of those that a trainer finds under way when it joins, others have done so.
        """
        step = self.position.step
        return self._proves and (step == 0 or (step > self._first_step and line not in self._lines))

    def tries_as_joiner(self, line: str) -> bool:
        """Whether a round's first sub-task is computed again with what a trainer has that joins."""
        return self._proves and self._context.tracked.attributes.left.is_untried(line)

    def learn_epoch(self, length: int) -> None:
        """A training round takes its samples from epochs of this length: the first one says how long the run's epochs are."""
        if self._on_epoch is not None:
            self._on_epoch(length)
        if self.length.learn(length) and (num_steps := self.length.num_steps) is not None:
            self._context.coordinator.set_num_steps(num_steps)

    # ---- rules

    def check_no_round(self, what: str) -> None:
        """Raise ContractError when an inner loop has not ended."""
        if self.open is not None:
            raise ContractError(
                f"the inner loop at {self.open.line} has not ended, but {what}. An inner loop must run to its end, as every "
                f"sub-task of the round is merged: take the break out of it, and do not nest inner loops"
            )

    def check_current(self, record: StepRecord) -> None:
        """Raise ContractError unless this step is the one under way and between rounds."""
        if self.record is not record:
            raise ContractError(
                f"step {record.number} is used at {user_line(3)}, but it is over; use the step of the present turn"
            )
        self.check_no_round(f"another begins at {user_line(3)}")

    def _place(self) -> Place:
        sub_task = None if self.open is None else self.open.sub_task
        return self.position.step, self.position.round, -1 if sub_task is None else sub_task.number

    def _line(self) -> str | None:
        return None if self.open is None else self.open.line

    def _arm_faults(self) -> None:
        if faults.armed("backward"):
            for _, parameter in self._context.parameters:
                if parameter.requires_grad:
                    self._hooks.append(parameter.register_hook(self._in_backward))  # type: ignore[no-untyped-call]

    def _in_backward(self, _: torch.Tensor) -> None:
        faults.point("backward", self.position.step)


def check_mode(where: str) -> None:
    """Raise ContractError in inference mode, where nothing can be trained."""
    if torch.is_inference_mode_enabled():
        raise ContractError(
            f"{where} is inside torch.inference_mode(): what is made there can never be trained; leave the mode before it, "
            f"and put only what is evaluated inside"
        )
