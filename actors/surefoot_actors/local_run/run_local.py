"""`run_local`: the same function, in this process, as one trainer without Ray, with the same bits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash

from surefoot.contract import TrainFunction
from surefoot.data import sources_of
from surefoot.errors import OptionError, SpecError
from surefoot.local import LocalResult
from surefoot.target import Target, parse_target
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.checkpoints import LocalCheckpoints
from surefoot_actors.local_run.coordinator import LocalCoordinator
from surefoot_actors.local_run.settings import process_settings
from surefoot_actors.node_data.cache import NodeCache, cache_root
from surefoot_actors.node_data.locks import Holds
from surefoot_actors.node_data.places import Copier, Printed
from surefoot_actors.user_code.advice import advice, told_exit
from surefoot_actors.user_code.finder import finding
from surefoot_actors.user_code.train_function import check_function

__all__ = ["run_local"]


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
    with closing(holds), process_settings(threads):
        checkpoints = None
        if checkpoint or restore:
            identity = _identity(train, options, threads)
            checkpoints = LocalCheckpoints(
                identity=identity, device=options.device, url=checkpoint, every=checkpoint_every, restore=restore
            )
        coordinator = LocalCoordinator(sub_tasks, keep_state=keep_state, checkpoints=checkpoints, output=output_dir)
        with finding(folders, Streams(seed, options.device)), _advised():
            run_training(train, options, coordinator)
    return coordinator.result()


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
    """Tell what user code raises as a trainer would: a call of sys.exit as an error, and any error with its advice."""
    try:
        try:
            yield
        except SystemExit as error:
            raise told_exit(error) from None
    except Exception as error:
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
