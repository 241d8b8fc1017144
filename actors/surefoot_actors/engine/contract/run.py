"""The Run that users see, and `run_training`, which takes a train function through its whole life on one trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from surefoot import contract
from surefoot.config import Config
from surefoot.contract import TrainFunction
from surefoot.data import Data
from surefoot.errors import ContractError, SurefootError
from surefoot.target import Target
from surefoot_actors.determinism.rng import Purpose, Streams
from surefoot_actors.engine.contract.context import RoundContext
from surefoot_actors.engine.contract.length import Length
from surefoot_actors.engine.contract.loop import Loop, check_mode
from surefoot_actors.engine.contract.once import OnceCalls
from surefoot_actors.engine.contract.settings import SettingsWatch, raise_if_nondeterministic
from surefoot_actors.engine.contract.step import TrainStep
from surefoot_actors.engine.contract.steps_iterator import StepsIterator
from surefoot_actors.engine.contract.unchanged import Unchanged
from surefoot_actors.engine.data.loader import Loader
from surefoot_actors.engine.data.partition import EvaluationPartition, TrainingPartition
from surefoot_actors.engine.data.sampler import Sampler
from surefoot_actors.engine.ports import Coordinator
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.state.deferred_dynamo import defer_dynamo
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.engine.vector.leaves import LeafMaker
from surefoot_actors.engine.vector.pools import shared_pool
from surefoot_actors.user_code.advice import refuse_wrapper
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
    data: Data = field(default_factory=Data)
    # makes the folder of this node's cache; None: there is none
    cache_dir: Callable[[], Path] | None = None
    # whether a trainer's first sub-task is computed twice, and compared
    proves: bool = True
    # ends training at the first step whose merged values meet it
    target: Target | None = None
    # told of what is odd but no error, such as gradients that are not finite
    on_warning: Callable[[str], None] | None = None
    # for `surefoot check`: the run ends after so many steps, or before the step for whose number, and samples an epoch (0: not known
    # yet), this returns True; without the code after the loop
    end_after: int | Callable[[int, int], bool] | None = None
    # for `surefoot check`: told, as each training round begins, how many samples an epoch of its dataset has
    on_epoch: Callable[[int], None] | None = None


class _RehearsalOver(BaseException):
    """Raised through the train function where `end_after` ends it: not an Exception, so that the user's code does not swallow it."""


def run_training(train: TrainFunction, options: RunOptions, coordinator: Coordinator) -> TrainRun:
    """Call `train` with a Run and see that it keeps the contract. Returns when it has returned; its hooks and workers are gone then.

    Raises whatever `train` or the coordinator raises; ContractError when `train` did not loop over `run.steps()` to the end.
    """
    defer_dynamo()
    run = TrainRun(options, coordinator)
    grad_enabled = torch.is_grad_enabled()
    try:
        run.streams.start(Purpose.SETUP)
        with contextlib.suppress(_RehearsalOver):
            train(run)
        run.check_behaved()
    except Exception as error:
        run.note_repeat(error)
        if isinstance(error, RuntimeError):
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
    """What the train function is given: it names what is trained, and loops over the steps."""

    def __init__(self, options: RunOptions, coordinator: Coordinator) -> None:
        self.device = options.device
        self.config = Config(options.config)
        self.seed = options.seed
        self.batch_size = options.batch_size
        self.sub_tasks = options.sub_tasks
        self.data = options.data
        self.coordinator = coordinator
        self.streams = Streams(options.seed, options.device)
        self._options = options
        self._loader = Loader(self.streams, options.seed, options.data_workers)
        self._settings = SettingsWatch()
        self._onces = OnceCalls(self.streams)
        self._length = Length(options.batch_size, options.end_after, options.target)
        # set by track(), and by steps()
        self._tracked: Tracked | None = None
        self._context: RoundContext | None = None
        self._loop: Loop | None = None
        # what run.steps() was asked for, in words; empty: it was not called yet
        self._asked = ""
        #: what is here besides belongs to the user
        self.own_attributes = frozenset((*vars(self), "own_attributes", "cache_dir"))

    # ---- before the loop

    def track(self, **objects: Any) -> None:
        if self._tracked is not None:
            raise ContractError(f"run.track() is called a second time at {user_line()}; name everything in one call")
        if self._asked:
            raise ContractError(f"run.track() at {user_line()} comes after run.steps(); call it before")
        for name, thing in objects.items():
            refuse_wrapper(f"{name}, tracked at {user_line()},", thing)
        with _at(f"run.track() at {user_line()}"):
            self._tracked = Tracked(objects, self.device, self._length.values)

    def nondeterministic(self, name: str) -> contextlib.AbstractContextManager[None]:
        if self._loop is not None and self._loop.record is not None:
            self._loop.record.allowed.add(name)
        return self._settings.nondeterministic(name)

    def once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        self._check_before_steps("once")
        self._onces.make("once", prepare, name, self.coordinator.once)

    def node_once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        self._check_before_steps("node_once")
        self._onces.make("node_once", prepare, name, self.coordinator.node_once)

    @cached_property
    def cache_dir(self) -> Path:
        assert self._options.cache_dir is not None, "whoever runs training gives it a cache"
        return self._options.cache_dir()

    def _check_before_steps(self, what: str) -> None:
        if self._asked:
            raise ContractError(
                f"run.{what}() at {user_line(3)} comes after run.steps(): whoever is in a step cannot wait for others there; call it before"
            )

    @property
    def output_dir(self) -> Path:
        return self.coordinator.output_dir()

    @property
    def elected(self) -> bool:
        if self._loop is None:
            raise ContractError(
                f"run.elected at {user_line()} comes before the loop over run.steps(), when no trainer is a member yet: ask in the loop "
                "(in its first step, for what is written once), or after it"
            )
        return self.coordinator.elected()

    def steps(self, num_steps: int | None = None, *, epochs: int | None = None) -> Iterator[contract.Step]:
        if self._tracked is None:
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
        check_mode(f"run.steps() at {self._steps_line}")
        self._context = self._settle(self._tracked)
        self._loop = Loop(
            self._context,
            self._length,
            line=self._steps_line,
            proves=self._options.proves,
            on_warning=self._options.on_warning,
            on_epoch=self._options.on_epoch,
        )
        self._settings.begin(self._steps_line)
        return StepsIterator(self)

    def _settle(self, tracked: Tracked) -> RoundContext:
        """Take the tracked objects as they are when the loop begins."""
        with _at(f"run.steps() at {self._steps_line}"):
            tracked.settle()
            tracked.rehearse()
        unchanged = Unchanged(tracked)
        buffers = BufferWatch(tracked.modules.items())
        parameters = tracked.parameters()
        sampler = Sampler(seed=self.seed, batch_size=self.batch_size, sub_tasks=self.sub_tasks)
        return RoundContext(
            batch_size=self.batch_size,
            sub_tasks=self.sub_tasks,
            coordinator=self.coordinator,
            streams=self.streams,
            settings=self._settings,
            loader=self._loader,
            training_partition=TrainingPartition(sampler, self.sub_tasks),
            evaluation_partition=EvaluationPartition(self.batch_size // self.sub_tasks, self.sub_tasks),
            tracked=tracked,
            parameters=parameters,
            buffers=buffers,
            leaves=LeafMaker(parameters, buffers, self.device, shared_pool()),
            unchanged=unchanged,
        )

    # ---- the loop, as the iterator over steps drives it

    def next_step(self) -> TrainStep | None:
        assert self._loop is not None
        assert self._context is not None
        record = self._loop.next_step()
        return None if record is None else TrainStep(self._context, self._loop, record)

    def finish(self) -> None:
        assert self._loop is not None
        self._loop.finish()
        if self._options.end_after is not None:
            raise _RehearsalOver

    def leave(self) -> None:
        assert self._loop is not None
        self._loop.leave()
        self.finish()

    def steps_left(self) -> int | None:
        assert self._loop is not None
        total = self._length.num_steps
        return None if total is None else max(0, total - self._loop.position.step)

    @property
    def ended_early(self) -> str:
        """What has ended training before its last step; nothing where that was made."""
        return self._length.ended_early

    # ---- in the loop

    def stop(self) -> None:
        if self._loop is None or self._loop.record is None:
            raise ContractError(f"run.stop() at {user_line()} is outside the loop over run.steps(); call it in a step")
        self._loop.stop(user_line())

    @property
    def epoch(self) -> int:
        return 0 if self._loop is None else self._length.epoch(self._loop.position.step)

    # ---- the end

    def check_behaved(self) -> None:
        """Raise ContractError unless the train function looped over `run.steps()` until training was over."""
        if not self._asked:
            raise ContractError(
                "the train function returned without calling run.steps(); train in `for step in run.steps(n):`"
            )
        if self._loop is None or not self._loop.is_over:
            record = None if self._loop is None else self._loop.record
            at = "before its first step" if record is None else f"in step {record.number}"
            raise ContractError(
                f"the loop over run.steps({self._asked}) was left {at} in a way that cannot be followed (the loop at "
                f"{self._steps_line}): by an exception that was caught outside of it, or because the iterator was kept. To end "
                f"training early, write `for step in run.steps(...):` and leave it by break, or call run.stop(), decided by "
                f"step.merged"
            )

    def note_repeat(self, error: Exception) -> None:
        """Add to the user's own error that it was raised by a sub-task that was computed once more."""
        open_round = None if self._loop is None else self._loop.open
        if open_round is not None and open_round.repeats and not isinstance(error, SurefootError):
            error.add_note(
                f"Surefoot: the inner loop at {open_round.line} was given this batch only to compare what comes of it with what came of it "
                f"before, or on another trainer: it may be computed by any trainer, after any other batches, or none."
            )

    def close(self) -> None:
        """Take hooks off the user's objects, end data workers, release memory. Doubled calls do nothing."""
        if self._loop is not None:
            self._loop.close()
        if self._tracked is not None:
            self._tracked.attributes = Attributes()  # it holds the user's frames
        self._loader.close()
        shared_pool().forget()
