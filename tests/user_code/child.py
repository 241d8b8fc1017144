"""Imports user code as a trainer does, in a forked process: it changes sys.path and what `import` means for good."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from ray._private.runtime_env.packaging import unzip_package

from surefoot.contract import Run
from surefoot.package import pack
from surefoot_actors.determinism.rng import Streams
from surefoot_actors.user_code import places
from surefoot_actors.user_code.train_function import load
from surefoot_service.packages.archive import for_ray

# for train functions that ask for nothing of it
NO_RUN = cast(Run, None)

__all__ = ["calling", "in_child", "lay", "unpacked"]


def lay(folder: Path, files: dict[str, str]) -> Path:
    """Write a program's files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def unpacked(program: Path, node: Path) -> Path:
    """Pack a program, and have Ray unpack what the control plane makes of it; return the working directory."""
    packed, for_node = node.with_suffix(".zip"), node.with_suffix(".ray.zip")
    packed.write_bytes(pack(program).data)
    for_node.write_bytes(for_ray(packed))
    unzip_package(str(for_node), str(node), remove_top_level_directory=False, unlink_zip=True)
    return node


def in_child(function: Callable[[], Any]) -> Any:
    """Call in a forked process and return what it returned. Raises AssertionError with the traceback of what it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer = (True, function())
        except BaseException:  # noqa: BLE001  the edge of the process
            answer = (False, traceback.format_exc())
        try:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the process died"
    returned, value = pickle.loads(data)
    assert returned, value
    return value


def calling(folder: Path, entrypoint: str = "train:train", *, seed: int = 3, then: Any = None) -> Any:
    """Load a train function in a forked process and call it; return what it returns, or what `then` makes of it."""

    def call() -> Any:
        os.chdir(folder)
        places.set_folders([])
        train = load(entrypoint, Streams(seed, torch.device("cpu")))
        return train(NO_RUN) if then is None else then(train)

    return in_child(call)
