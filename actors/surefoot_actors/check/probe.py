"""One probe: the same few steps, once, in a process of its own, in one way that is told."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from surefoot.contract import Run, TrainFunction
from surefoot.data import Data
from surefoot.errors import ContractError, UserError
from surefoot.events import LedgerRow
from surefoot.spec import JobSpec
from surefoot_actors.check.extent import Extent
from surefoot_actors.check.pins import Factor, Pins, UserCode
from surefoot_actors.check.source import carrying_line, set_lines
from surefoot_actors.check.watch import Epoch, Place, Watch
from surefoot_actors.determinism.fingerprint import make_deterministic
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.types import Position, StateImage
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.node_data import places
from surefoot_actors.trainer.once import once_a_node
from surefoot_actors.user_code import tracebacks, train_function
from surefoot_actors.user_code.advice import with_advice

__all__ = ["BROKEN", "NO_END", "RAISED", "Failure", "Held", "Probe", "Seen", "cache_of", "perform"]

# The kind of failure that is a broken rule of the contract.
BROKEN = "contract"
# The kind that is what the code raised in a real trainer.
RAISED = "raised"
# The kind where patience ended first.
NO_END = "no end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to train."""

    name: str
    # which pinned source answers otherwise
    varied: Factor | None = None
    # sub-tasks last to first, and one of them twice
    backwards: bool = False
    # note what the train function holds, and where structure or data change
    watches: bool = False
    # steps whose state at their start is kept in the folder `states`
    saves: tuple[int, ...] = ()
    states: str = ""
    # the step to begin at, with the state kept there
    joins: int | None = None
    # after how many steps to end, where not all are made
    ends: int | None = None

    def state(self, step: int) -> Path:
        """The file of the state that a step begins with."""
        return Path(self.states) / f"state-{step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Something that the train function holds."""

    name: str
    kind: str = ""
    # "" where unknown
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The train function raised."""

    kind: str
    message: str
    line: str
    traceback: str


@dataclass(kw_only=True)
class Seen:
    """What a probe saw. Travels as JSON."""

    # canonical result by step
    rows: dict[int, str] = field(default_factory=dict)
    # by step, after it: hex digest by tensor; step -1 is the state that training begins with
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    # user lines that asked a pinned source
    calls: dict[str, list[str]] = field(default_factory=dict)
    untracked: list[Held] = field(default_factory=list)
    # steps in which the structure of what is tracked changed, the data did, or the first epoch ended
    changes: list[int] = field(default_factory=list)
    # steps of an epoch of the dataset that was last trained on; 0: not known
    epoch_steps: int = 0
    # plain values that change between two sub-tasks of a step, and between steps
    within_steps: list[Held] = field(default_factory=list)
    between_steps: list[Held] = field(default_factory=list)
    set_lines: list[str] = field(default_factory=list)
    failure: Failure | None = None
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Seen:
        raw = json.loads(text)
        for name in ("rows", "digests"):
            raw[name] = {int(step): value for step, value in raw[name].items()}
        for name in ("untracked", "within_steps", "between_steps"):
            raw[name] = [Held(**held) for held in raw[name]]
        raw["failure"] = Failure(**raw["failure"]) if raw["failure"] else None
        return Seen(**raw)


def perform(probe: Probe, spec: JobSpec, steps: int | Extent, folder: Path) -> Seen:
    """Train so many steps of the spec's train function in this process, which is used for nothing else."""
    code = UserCode(folder)
    pins = Pins({probe.varied: 1} if probe.varied else {}, code)
    make_deterministic(spec.threads)
    pins.install()
    seen, watch = Seen(), Watch(code)
    end_after = probe.ends or (steps.begin() if isinstance(steps, Extent) else steps)
    try:
        options = RunOptions(
            config=spec.config,
            seed=spec.seed,
            batch_size=spec.batch_size,
            sub_tasks=spec.sub_tasks,
            data_workers=spec.data_workers,
            end_after=end_after,
            data=Data({name: places.in_place(source) for name, source in spec.data.items()}),
            cache_dir=partial(cache_of, folder),
            # what is carried between sub-tasks is found by their order, and named
            proves=False,
            on_epoch=partial(_note_epoch, watch, spec.batch_size),
        )
        train = train_function.load(spec.entrypoint, Streams(spec.seed, options.device))
        with tempfile.TemporaryDirectory(prefix="surefoot-output-", ignore_cleanup_errors=True) as output:
            rehearsal = Rehearsal(spec.sub_tasks, probe, watch, seen, Path(output), folder.parent / "once")
            run_training(_noting(train, watch), options, rehearsal)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the boundary of the process: user code may raise anything
        seen.failure = _failure(error, code)
    seen.calls = {factor: list(lines) for factor, lines in pins.calls.items()}
    if probe.watches:
        seen.set_lines, seen.epoch_steps = list(_set_lines(code)), watch.epoch.steps
    return seen


def cache_of(folder: Path) -> Path:
    """The cache of all trials, beside the copy of the user's folder: it goes with them."""
    cache = folder.parent / "cache"
    cache.mkdir(exist_ok=True)
    return cache


def _noting(train: TrainFunction, watch: Watch) -> TrainFunction:
    def noting(run: Run) -> None:
        track = run.track

        def noted(**objects: Any) -> None:
            watch.tracked = objects
            track(**objects)

        run.track = noted  # type: ignore[method-assign]
        train(run)

    return noting


def _note_epoch(watch: Watch, batch_size: int, length: int) -> None:
    watch.epoch = Epoch(length=length, steps=-(-length // batch_size))


class Rehearsal(LocalCoordinator):
    """One trainer that owns every sub-task, takes them in the probe's order, and notes what there is to see."""

    def __init__(self, num_sub_tasks: int, probe: Probe, watch: Watch, seen: Seen, output: Path, once: Path) -> None:
        """`once`: a folder of the trials, which are on one node and have one cache."""
        super().__init__(num_sub_tasks, output=output)
        self._once = once
        order = range(num_sub_tasks)
        # The one computed twice is dropped the second time: who else computes it is nobody's concern.
        self._order = [*reversed(order), order[-1]] if probe.backwards else list(order)
        self._probe, self._watch, self._seen = probe, watch, seen
        self._turn = 0
        self._within: dict[str, Held] = {}
        self._between: dict[str, Held] = {}
        # what of structure and data the step before had
        self._shape: object = None

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        position = super().admit(state, num_steps)
        if self._probe.joins is not None:
            image, position = pickle.loads(self._probe.state(self._probe.joins).read_bytes())  # noqa: S301  our own
            state.restore(image)
            self._position = position
        self._note_state(position.step - 1)
        if self._probe.watches:
            self._note_untracked()
            self._watch.changed_values()
        return position

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        if self._probe.joins is None:  # a joiner finds it done
            prepare()

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        once_a_node(self._once, key, prepare, lambda: None)

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        super().open_round(position)
        self._turn = 0
        if self._probe.watches and position.phase == 0:
            self._note_values(self._between)

    def next_sub_task(self) -> int | None:
        if self._probe.watches and self._position.step < 2:
            self._note_values(self._within if self._turn else {})
        self._turn += 1
        if self._turn <= len(self._order):
            return self._order[self._turn - 1]
        self._merge()
        return None

    def end_step(self, row: LedgerRow) -> None:
        super().end_step(row)
        step = row.result.step
        self._seen.rows[step] = row.result.canonical().decode()
        self._note_state(step)
        if self._probe.watches:
            self._note_untracked()
            self._note_change(step)
        if step + 1 in self._probe.saves:
            self._save(Position(self._position.round + 1, step + 1, 0))

    def finish(self, num_steps: int) -> None:
        super().finish(num_steps)
        self._seen.within_steps = list(self._within.values())
        self._seen.between_steps = list(self._between.values())

    def _save(self, position: Position) -> None:
        assert self._owner is not None
        image = self._owner.capture()
        copy = StateImage(skeleton=image.skeleton, tensors=[t.clone() for t in image.tensors])
        self._probe.state(position.step).write_bytes(pickle.dumps((copy, position)))

    def _note_state(self, step: int) -> None:
        assert self._owner is not None
        with torch.no_grad():
            self._seen.digests[step] = {name: d.hex() for name, d in self._owner.tensor_digests().items()}

    def _note_change(self, step: int) -> None:
        epoch = self._watch.epoch
        shape = (
            frozenset(self._seen.digests[step]),
            [(module.training, p.requires_grad) for module in self._watch.modules() for p in module.parameters()],
            epoch.length,
            step + 1 >= epoch.steps > 0,
        )
        if shape != self._shape:
            self._seen.changes.append(step)
        self._shape = shape

    def _note_untracked(self) -> None:
        known = {held.name for held in self._seen.untracked}
        for place, kind in self._watch.untracked_that_changed():
            if place.name not in known:
                self._seen.untracked.append(Held(name=place.name, kind=kind, line=self._made_at(place)))

    def _made_at(self, place: Place) -> str:
        line = carrying_line(place.file, place.name, certain=True, begins=place.begins)
        return self._watch.code.line(place.file, line) if line else ""

    def _note_values(self, into: dict[str, Held]) -> None:
        for place, in_place in self._watch.changed_values():
            line = carrying_line(place.file, place.name, certain=in_place, begins=place.begins)
            if (line or not place.local) and place.name not in into:
                where = self._watch.code.line(place.file, line) if line else ""
                into[place.name] = Held(name=place.name, line=where)


def _failure(error: BaseException, code: UserCode) -> Failure:
    lines = [
        code.line(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__) if f.filename in code
    ]
    return Failure(
        kind=BROKEN if isinstance(error, ContractError) else type(error).__name__,
        message=with_advice(error),
        line=lines[-1] if lines else "",
        # what Surefoot refuses says it all itself
        traceback="" if isinstance(error, UserError) else tracebacks.told(error),
    )


def _set_lines(code: UserCode) -> Iterator[str]:
    import sys

    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if file in code:
            yield from (code.line(file, number) for number in set_lines(file))
