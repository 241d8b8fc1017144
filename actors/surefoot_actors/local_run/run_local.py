"""`run_local`: the same function, in this process, as one trainer without Ray, with the same bits."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic as deterministic
import xxhash

from surefoot._paths import why_not
from surefoot.contract import TrainFunction
from surefoot.data import sources_of
from surefoot.errors import OptionError, SpecError, UserError
from surefoot.events import LedgerRow
from surefoot.local import LocalResult
from surefoot.target import Target, parse_target
from surefoot_actors.determinism.fingerprint import make_deterministic
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.exchange.contribution import Contribution
from surefoot_actors.engine.exchange.merge import merge_round
from surefoot_actors.engine.ports import StateOwner
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.types import Merged, Node, Position, Range, StateImage
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.engine.vector.pools import BufferPool
from surefoot_actors.local_run.checkpoints import LocalCheckpoints
from surefoot_actors.node_data.cache import NodeCache, cache_root
from surefoot_actors.node_data.locks import Holds
from surefoot_actors.node_data.places import Copier, Printed
from surefoot_actors.user_code.advice import advice, told_exit
from surefoot_actors.user_code.finder import finding
from surefoot_actors.user_code.train_function import check_function

__all__ = ["LocalCoordinator", "LocalResult", "run_local"]


class LocalCoordinator:
    """One trainer that owns every sub-task. Implements `ports.Coordinator`."""

    generation = 1
    trainers = 1

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

    def open_round(self, position: Position) -> None:
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


def run_local(
    train: TrainFunction,
    *,
    config: Mapping[str, Any] | None = None,
    batch_size: int,
    sub_tasks: int = 8,
    seed: int = 0,
    data_workers: int = 0,
    device: str | torch.device = "cpu",
    threads: int = 1,
    keep_state: bool = False,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    restore: str | None = None,
    target: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    data: Mapping[str, Any] | None = None,
) -> LocalResult:
    """Run `train` in this process and return its ledger, the digest of its final state, and its modules' state_dicts.

    `checkpoint` is a folder or an fsspec URL, where the state is saved at the end, and every `checkpoint_every` steps; `restore`
    is a checkpoint, or where checkpoints are, to begin from. They are as a job's, which may go on from them.

    `data`: URLs and paths by name, as a job's; `target`, such as "accuracy>=0.97", ends training at the first step whose merged values
    meet it.

    `output_dir` is the folder that the code finds as `run.output_dir`, as it is; without it that is a new temporary one, which stays:
    the result says where.

    Modules of the user's that `train` imports are executed under the seed, as in a trainer; those that this process has imported before
    are as they are, so what they drew then is not what a trainer's copies draw.

    Process-wide settings (threads, determinism, random states) are as before when it returns. Raises SpecError for a batch size that
    is no multiple of the sub-tasks, ContractError for code that breaks the contract, and whatever `train` raises.
    """
    if sub_tasks < 1 or batch_size < 1 or batch_size % sub_tasks:
        raise SpecError(f"batch_size {batch_size} is not a multiple of sub_tasks {sub_tasks}, each at least 1")
    check_function(train)
    sources, holds, folders = sources_of(data or {}), Holds(), _folders(train)
    cache = NodeCache(cache_root(os.environ), holds)
    options = RunOptions(
        config=dict(config or {}),
        seed=seed,
        batch_size=batch_size,
        sub_tasks=sub_tasks,
        data_workers=data_workers,
        device=_device(device),
        target=_target(target),
        data=Copier(cache, Printed()).data(sources),
        cache_dir=lambda: cache.code_dir(f"local-{xxhash.xxh3_128_hexdigest(folders[0].encode())}"),
    )
    with closing(holds), _settings(threads):
        checkpoints = None
        if checkpoint or restore:
            identity = _identity(train, options, threads)
            checkpoints = LocalCheckpoints(
                identity=identity, device=options.device, url=checkpoint, every=checkpoint_every, restore=restore
            )
        coordinator = LocalCoordinator(sub_tasks, keep_state=keep_state, checkpoints=checkpoints, output=output_dir)
        with finding(folders, Streams(seed, options.device)), _advised():
            try:
                run_training(train, options, coordinator)
            except SystemExit as error:
                raise told_exit(error) from None
    return LocalResult(
        rows=tuple(coordinator.rows),
        digest=coordinator.digest.hex(),
        models=coordinator.models,
        state=coordinator.state,
        output_dir=coordinator.written_to,
    )


def _copied(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, as they are now; extra state that a module keeps beside them is its own."""
    return {name: value.detach().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}


def _device(named: str | torch.device) -> torch.device:
    try:
        return torch.device(named)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"device is none of torch's, as 'cpu' and 'cuda' are: {error}") from None


def _target(text: str | None) -> Target | None:
    try:
        return parse_target(text) if text is not None else None
    except ValueError as error:
        raise SpecError(str(error)) from None


def _folders(train: TrainFunction) -> list[str]:
    """The folder that the train function's module is importable from: what lies below is the user's code."""
    module = sys.modules.get(getattr(train, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if module is None or not file:
        return [os.getcwd()]
    place = Path(os.path.abspath(file))
    depth = 0 if module.__name__ == "__main__" else module.__name__.count(".") + (place.stem == "__init__")
    return [str(place.parents[depth])] if depth < len(place.parents) else [str(place.parent)]


@contextmanager
def _advised() -> Iterator[None]:
    """Add to what user code raises what a trainer would tell about it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if said := advice(error):
            error.add_note(said)
        raise


def _identity(train: TrainFunction, options: RunOptions, threads: int) -> dict[str, Any]:
    """As `JobSpec.identity`, of code that has no package."""
    return {
        "entrypoint": f"{train.__module__}:{getattr(train, '__qualname__', type(train).__qualname__)}",
        "package": "",
        "config": json.loads(json.dumps(dict(options.config), default=repr)),
        "seed": options.seed,
        "batch_size": options.batch_size,
        "sub_tasks": options.sub_tasks,
        "threads": threads,
    } | ({"target": str(options.target)} if options.target else {})


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Compute deterministically within, and leave the process's settings as they were."""
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled, benchmark = deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    make_deterministic(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
