"""The Run that users see, and `run_training`, which takes a train function through its whole life on one trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from surefoot import contract
from surefoot.contract import TrainFunction
from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose, Streams
from surefoot_actors.engine.contract.evaluation import EvaluationRound
from surefoot_actors.engine.contract.finite import Health
from surefoot_actors.engine.contract.hooks import watching
from surefoot_actors.engine.contract.length import Length
from surefoot_actors.engine.contract.local_values import check_local_values
from surefoot_actors.engine.contract.loop import StepsLoop
from surefoot_actors.engine.contract.once import OnceCalls
from surefoot_actors.engine.contract.optimizer_guard import Gate
from surefoot_actors.engine.contract.rounds import Round, TrainingRound
from surefoot_actors.engine.contract.settings import SettingsWatch, forget_casts, raise_if_nondeterministic
from surefoot_actors.engine.contract.step import TrainStep
from surefoot_actors.engine.contract.stepped import Place, Stepped
from surefoot_actors.engine.contract.unchanged import Unchanged
from surefoot_actors.engine.contract.untracked import check_strays, modules_in_sight
from surefoot_actors.engine.contract.untracked_state import Strangers
from surefoot_actors.engine.data.loader import Loader
from surefoot_actors.engine.data.partition import EvaluationCut, TrainingCut
from surefoot_actors.engine.data.sampler import Sampler
from surefoot_actors.engine.ports import Coordinator
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.structure import fixed_structure
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.types import Merged, Position
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.engine.vector.leaves import LeafMaker
from surefoot_actors.engine.vector.pools import shared_pool
from surefoot_actors.faults import points as faults
from surefoot_actors.user_code.advice import refuse_wrapper
from surefoot_actors.user_code.frames import user_frames
from surefoot_actors.user_code.lines import user_line

__all__ = ["RunOptions", "TrainRun", "run_training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What of the job's spec the engine needs."""

    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    # samples a step; a multiple of sub_tasks
    batch_size: int
    sub_tasks: int = 8
    data_workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # whether a trainer's first sub-task is computed twice, and compared
    proves: bool = True
    # told of what is odd but no error, such as gradients that are not finite
    on_warning: Callable[[str], None] | None = None
    # for `surefoot check`: the run ends after so many steps, or before the step for whose number, and samples an epoch (0: not known
    # yet), this returns True; without the code after the loop
    end_after: int | Callable[[int, int], bool] | None = None


# In how many rounds to see which attributes the objects' own code changes.
_ROUNDS_LOOKED_AT = 3


class _RehearsalOver(BaseException):
    """Raised through the train function where `end_after` ends it: not an Exception, so that the user's code does not swallow it."""


def run_training(train: TrainFunction, options: RunOptions, coordinator: Coordinator) -> TrainRun:
    """Call `train` with a Run and see that it keeps the contract. Returns when it has returned; its hooks and workers are gone then.

    Raises whatever `train` or the coordinator raises; ContractError when `train` did not loop over `run.steps()` to the end.
    """
    run = TrainRun(options, coordinator)
    grad_enabled = torch.is_grad_enabled()
    try:
        run.streams.start(Purpose.SETUP)
        with contextlib.suppress(_RehearsalOver):
            train(run)
        run.check_behaved()
    except RuntimeError as error:
        raise_if_nondeterministic(error)
        raise
    finally:
        torch.set_grad_enabled(grad_enabled)
        run.close()
    return run


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Say where in the user's code a rule was broken."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from error


def _asked_for(num_steps: int | None, epochs: int | None) -> str:
    """Return what run.steps() was asked for, in words. Raises ContractError for anything but one number of at least 0."""
    given = [(name, n) for name, n in (("", num_steps), ("epochs=", epochs)) if n is not None]
    words = ", ".join(f"{name}{n}" for name, n in given)
    if len(given) != 1 or isinstance(given[0][1], bool) or not isinstance(given[0][1], int) or given[0][1] < 0:
        raise ContractError(
            f"run.steps({words}) at {user_line(3)}: give the number of steps, or the number of epochs as run.steps(epochs=...)"
        )
    return words


class TrainRun(contract.Run):
    """The loop over steps, and what rounds share."""

    # set by track()
    tracked: Tracked
    buffers: BufferWatch
    leaves: LeafMaker

    def __init__(self, options: RunOptions, coordinator: Coordinator) -> None:
        self.device = options.device
        self.config = options.config
        self.seed = options.seed
        self.batch_size = options.batch_size
        self.sub_tasks = options.sub_tasks
        self.coordinator = coordinator
        self._end_after, self._proves = options.end_after, options.proves
        self.streams = Streams(options.seed, options.device)
        sampler = Sampler(seed=options.seed, batch_size=options.batch_size, sub_tasks=options.sub_tasks)
        self.training_cut = TrainingCut(sampler, options.sub_tasks)
        self.evaluation_cut = EvaluationCut(options.batch_size // options.sub_tasks, options.sub_tasks)
        self.loader = Loader(self.streams, options.seed, options.data_workers)
        # the step and the round under way
        self.step: TrainStep | None = None
        self.open: Round | None = None
        self.settings = SettingsWatch()
        self._watching = contextlib.ExitStack()
        self._on_warning = options.on_warning
        self._onces = OnceCalls(self.streams)
        self._health = Health(options.on_warning)
        self._hooks: list[Any] = []
        self._position = Position(0, 0, 0)
        self._length = Length(options.batch_size, options.end_after)
        # what run.steps() was asked for, in words; empty: it was not called yet
        self._asked = ""
        self._begun = self._looped = False
        self._looked_for_strays = False
        self._num_rounds_looked_at, self._looks_at_attributes = 0, False

    def track(self, **objects: Any) -> None:
        if hasattr(self, "tracked"):
            raise ContractError(f"run.track() is called a second time at {user_line()}; name everything in one call")
        if self._asked:
            raise ContractError(f"run.track() at {user_line()} comes after run.steps(); call it before")
        for name, thing in objects.items():
            refuse_wrapper(f"{name}, tracked at {user_line()},", thing)
        with _at(f"run.track() at {user_line()}"):
            self.tracked = Tracked(objects, self.device, self._length.values)

    def nondeterministic(self, name: str) -> contextlib.AbstractContextManager[None]:
        if self.step is not None:
            self.step.allowed.add(name)
        return self.settings.nondeterministic(name)

    def once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        self._check_before_steps("once")
        self._onces.make("once", prepare, name, self.coordinator.once)

    def node_once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        self._check_before_steps("node_once")
        self._onces.make("node_once", prepare, name, self.coordinator.node_once)

    def _check_before_steps(self, what: str) -> None:
        if self._asked:
            raise ContractError(
                f"run.{what}() at {user_line(3)} comes after run.steps(): whoever is in a step cannot wait for others there; call it before"
            )

    def steps(self, num_steps: int | None = None, *, epochs: int | None = None) -> Iterator[contract.Step]:
        if not hasattr(self, "tracked"):
            raise ContractError(
                f"run.steps() at {user_line()}, but nothing is tracked: call run.track(model=..., optimizer=...) before it, "
                f"naming everything that training changes"
            )
        if self._asked:
            raise ContractError(
                f"run.steps() is called a second time at {user_line()}; one loop over it is the whole training"
            )
        self._asked, self._steps_line = _asked_for(num_steps, epochs), user_line()
        self._length.ask_for(num_steps, epochs)
        self.check_mode(f"run.steps() at {self._steps_line}")
        self._settle()
        self.settings.begin(self._steps_line)
        return StepsLoop(self)

    def _settle(self) -> None:
        """Take the tracked objects as they are when the loop begins."""
        with _at(f"run.steps() at {self._steps_line}"):
            self.tracked.settle()
            self.tracked.rehearse()
        self._gate = Gate(self.tracked.gradients)
        self.unchanged = Unchanged(self.tracked)
        self.buffers = BufferWatch(self.tracked.modules.items())
        self._parameters = self.tracked.parameters()
        self.leaves = LeafMaker(self._parameters, self.buffers, self.device, shared_pool())

    def _begin(self) -> None:
        self._gate.guard(self.tracked.optimizers.values())
        self._watching.enter_context(
            watching(Stepped(self.tracked, self.settings, place=self._place, loop=self._loop_line))
        )
        self._watching.enter_context(fixed_structure(self.tracked.modules.items()))
        self._strangers = Strangers(self.tracked, self._steps_line, self._on_warning)
        self._arm_faults()
        for frame in user_frames():
            check_local_values(frame)
        self.tracked.begin()
        self._position = self.coordinator.admit(self.tracked, self._length.num_steps)
        self._begun = True

    def next_step(self) -> TrainStep | None:
        if not self._begun:
            self._begin()
        elif self.step is not None:
            self._end_step(self.step)
        number = self._position.step
        if self._length.is_over(number):
            return None
        self.step = TrainStep(self, number)
        self._gate.begin_step()
        forget_casts()
        self.streams.start(Purpose.OUTSIDE, number, 0)
        return self.step

    def _end_step(self, step: TrainStep) -> None:
        self.check_no_round("the step ends")
        if not step.num_rounds:
            raise ContractError(
                f"step {step.number} had no inner loop: every step needs `for batch in step.batches(dataset): ...`, "
                f"as that is where trainers meet"
            )
        self.tracked.check_structure(f"at the end of step {step.number}")
        if step.number == 1:
            self.tracked.rehearse()  # once more: now optimizers and averages have a state
        self._health.check_state(self._parameters, step.number)
        self._strangers.look()
        self.tracked.gradients.end_step()
        self._length.values["logged"] = step.logged_outside
        self.coordinator.end_step(step.row())
        self._position = Position(self._position.round, step.number + 1, 0)

    def finish(self) -> None:
        self.settings.check("")
        self.step = None
        self._looped = True
        self._gate.leave()
        self._watching.close()
        self.coordinator.finish(self._position.step)
        if self._end_after is not None:
            raise _RehearsalOver

    def stop(self) -> None:
        if self.step is None:
            raise ContractError(f"run.stop() at {user_line()} is outside the loop over run.steps(); call it in a step")
        self.check_no_round(
            f"run.stop() is called at {user_line()}, where only this trainer has come to; decide by step.merged"
        )
        self._length.values["stopped"] = True

    def leave(self) -> None:
        self.check_no_round("the loop over run.steps() is left")
        assert self.step is not None
        self._length.values["stopped"] = True
        if self.step.num_rounds:
            self._end_step(self.step)
        self.finish()

    @property
    def epoch(self) -> int:
        return self._length.epoch(self._position.step)

    def ends_epoch(self, step: int, line: str) -> bool:
        """Whether the step's batch has an epoch's last sample. Raises ContractError while no dataset is known."""
        ends = self._length.ends_epoch(step)
        if ends is None:
            raise ContractError(
                f"step.ends_epoch at {line} is not known before the first inner loop: an epoch is one of the dataset that "
                f"step.batches() is given first"
            )
        return ends

    def epoch_of(self, step: int) -> int:
        """Return the epoch that the step's first sample is of."""
        return self._length.epoch(step)

    def learn_epoch(self, length: int) -> None:
        """A training round takes its samples from epochs of this length: the first one says how long the run's epochs are."""
        if self._length.learn(length) and (num_steps := self._length.num_steps) is not None:
            self.coordinator.set_num_steps(num_steps)

    def open_round(self, round_: Round) -> Position:
        """Begin a round at the loop's first turn. Raises ContractError when another is under way."""
        self.check_no_round(f"another begins at {round_.line}")
        if isinstance(round_, TrainingRound):
            self.tracked.gradients.open(round_.line, accumulate=round_.accumulate)
        self._looks_at_attributes = self._num_rounds_looked_at < _ROUNDS_LOOKED_AT
        if self._looks_at_attributes:
            self.tracked.attributes.begin_round()
        if not self._looked_for_strays:
            self._in_sight = modules_in_sight()
        self.open = round_
        self._gate.open(round_.line, keeps_gradients=round_.keeps_gradients)
        self.coordinator.open_round(self._position)
        return self._position

    def close_round(self, round_: Round, position: Position, merged: Merged) -> None:
        """End a round: its merge is committed and delivered."""
        assert self.step is not None
        self.open = None
        if self._looks_at_attributes:
            self._num_rounds_looked_at += 1
            self.tracked.attributes.end_round()
        self.settings.check(round_.line)
        forget_casts()
        self._gate.close(delivered=not round_.keeps_gradients)
        self._health.check_merge(merged, position.step)
        self.step.add_round(position.phase, merged, round_.line)
        self._position = Position(position.round + 1, position.step, position.phase + 1)
        self.streams.start(Purpose.OUTSIDE, position.step, position.phase + 1)

    def check_mode(self, where: str) -> None:
        """Raise ContractError in inference mode, where nothing can be trained."""
        if torch.is_inference_mode_enabled():
            raise ContractError(
                f"{where} is inside torch.inference_mode(): what is made there can never be trained; leave the mode before it, "
                f"and put only what is evaluated inside"
            )

    def proves(self, step: int) -> bool:
        """Whether the first sub-task of this step's rounds is computed twice."""
        return self._proves and step == 0

    def _place(self) -> Place:
        sub_task = None if self.open is None else self.open.sub_task
        return self._position.step, self._position.round, -1 if sub_task is None else sub_task.number

    def _loop_line(self) -> str | None:
        return None if self.open is None else self.open.line

    def check_strays(self, line: str) -> None:
        """Raise ContractError when something trains in the inner loop at this line that is not tracked. Looks once, at the first leaf."""
        if self._looked_for_strays:
            return
        self._looked_for_strays = True
        buffers = (b for module in self.tracked.modules.values() for b in module.buffers())
        clones = check_strays(self._in_sight, {id(t) for t in (*(p for _, p in self._parameters), *buffers)}, line)
        self._strangers.leave_alone(clones)
        self._in_sight = []

    def check_no_round(self, what: str) -> None:
        """Raise ContractError when an inner loop has not ended."""
        if self.open is not None:
            raise ContractError(
                f"the inner loop at {self.open.line} has not ended, but {what}. An inner loop must run to its end, as every "
                f"sub-task of the round is merged: take the break out of it, and do not nest inner loops"
            )

    def check_current(self, step: TrainStep) -> None:
        """Raise ContractError unless this step is the one under way and between rounds."""
        if self.step is not step:
            raise ContractError(
                f"step {step.number} is used at {user_line(3)}, but it is over; use the step of the present turn"
            )
        self.check_no_round(f"another begins at {user_line(3)}")

    def check_behaved(self) -> None:
        """Raise ContractError unless the train function looped over `run.steps()` until training was over."""
        if not self._asked:
            raise ContractError(
                "the train function returned without calling run.steps(); train in `for step in run.steps(n):`"
            )
        if not self._looped:
            at = "before its first step" if self.step is None else f"in step {self.step.number}"
            raise ContractError(
                f"the loop over run.steps({self._asked}) was left {at} in a way that cannot be followed (the loop at "
                f"{self._steps_line}): by an exception that was caught outside of it, or because the iterator was kept. To end "
                f"training early, write `for step in run.steps(...):` and leave it by break, or call run.stop(), decided by "
                f"step.merged"
            )

    def close(self) -> None:
        """Take hooks off the user's objects, end data workers, release memory. Doubled calls do nothing."""
        if isinstance(self.open, EvaluationRound):
            self.open.restore()
        self._watching.close()
        if hasattr(self, "_gate"):
            self._gate.leave()
        if hasattr(self, "tracked"):
            self.tracked.attributes = Attributes()  # it holds the user's frames
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.loader.close()
        shared_pool().forget()

    def _arm_faults(self) -> None:
        if faults.armed("backward"):
            for _, parameter in self._parameters:
                if parameter.requires_grad:
                    self._hooks.append(parameter.register_hook(self._in_backward))  # type: ignore[no-untyped-call]

    def _in_backward(self, _: torch.Tensor) -> None:
        faults.point("backward", self._position.step)
