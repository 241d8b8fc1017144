"""What a data worker does: a forked process that loads the batches it is asked for, one after another, until its channel closes."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import _utils as torch_data

from surefoot.errors import ContractError
from surefoot_actors.determinism.rng import Purpose, Streams, drawn
from surefoot_actors.engine.data.blocks import Blocks
from surefoot_actors.engine.data.changes import Change, apply
from surefoot_actors.engine.data.channel import Channel, ChannelClosedError
from surefoot_actors.engine.data.datasets import fetcher
from surefoot_actors.engine.data.files import reopen_files
from surefoot_actors.engine.data.packing import pack
from surefoot_actors.engine.data.prefetch import BatchKey

__all__ = ["Answer", "Load", "Raised", "WorkerSetup", "work"]

_PR_SET_PDEATHSIG = 1
_DRAWN_ONCE = (
    "a batch was loaded twice, and the dataset drew other random numbers the second time: something random is drawn when it is first "
    "needed and then kept (a cached sample with its augmentation), so its values would depend on which data worker needs it first; "
    "keep what is the same every time, and draw the rest anew"
)


class WorkerSetup(NamedTuple):
    """What a worker needs to know; forked, so nothing of it is pickled."""

    dataset: Any
    collate: Callable[[list[Any]], Any] | None
    seed: int
    number: int
    num_workers: int
    parent: int


class Load(NamedTuple):
    """Asks for a batch."""

    serial: int
    key: BatchKey
    indices: Any  # int64, a numpy array


class Raised(NamedTuple):
    """What loading raised: the exception, pickled, if it can be; its traceback."""

    pickled: bytes
    kind: str
    message: str
    traceback: str


class Answer(NamedTuple):
    """Answers a Load: the batch, or what loading it raised."""

    serial: int
    batch: Any
    raised: Raised | None


def work(setup: WorkerSetup, channel: Channel, others: list[Channel]) -> None:
    """Be a data worker."""
    _end_with_parent(setup.parent)
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reopen_files()
    _raise_file_limit()
    torch.set_num_threads(1)
    blocks = Blocks()
    _be_known(setup, blocks)
    roots = (setup.dataset, setup.collate)
    streams, (fetch, _) = Streams(setup.seed, torch.device("cpu")), fetcher(*roots)
    proved = False
    try:
        while True:
            request = channel.receive()
            if isinstance(request, Load):
                answer = _load(request, streams, fetch)
                if not proved and answer.raised is None:
                    proved, answer = True, _proved(answer, request, streams, fetch)
                _send(channel, answer, blocks)
                blocks.clear()
            else:
                change: Change
                for change in request:
                    apply(change, roots)
    except ChannelClosedError:
        return


def _load(request: Load, streams: Streams, fetch: Callable[[torch.Tensor], Any]) -> Answer:
    streams.start(Purpose.LOAD, *request.key)
    try:
        return Answer(request.serial, fetch(torch.from_numpy(request.indices)), None)
    except BaseException as error:  # noqa: BLE001  the worker's edge: the user's code may raise anything, even SystemExit
        return Answer(request.serial, None, _raised(error))


def _proved(answer: Answer, request: Load, streams: Streams, fetch: Callable[[torch.Tensor], Any]) -> Answer:
    """Load a worker's first batch once more: what draws other random numbers the second time has kept some of the first."""
    before = drawn()
    again = _load(request, streams, fetch)
    if again.raised is not None or drawn() == before:
        return answer
    return Answer(request.serial, None, _raised(ContractError(_DRAWN_ONCE)))


def _send(channel: Channel, answer: Answer, blocks: Blocks) -> None:
    try:
        channel.send(answer, blocks.files)
    except ChannelClosedError:
        raise
    except Exception as error:  # noqa: BLE001  what cannot be pickled, or no memory or descriptors: told instead
        channel.send(Answer(answer.serial, None, _raised(_named(answer.batch) or error)))


def _named(batch: Any) -> ContractError | None:
    """Return the error that names what of a batch cannot be pickled."""
    try:
        pack(batch)
    except ContractError as error:
        return error
    return None


def _raised(error: BaseException) -> Raised:
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301  made here
    except Exception:  # noqa: BLE001  whatever its class does
        pickled = b""
    text = "".join(traceback.format_exception(error))
    return Raised(pickled, type(error).__qualname__, str(error), text)


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this worker when the trainer ends, by SIGKILL even."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _be_known(setup: WorkerSetup, blocks: Blocks) -> None:
    """Have `get_worker_info` answer, and collate tensors as it is done in training all the same.

    In what it takes for a DataLoader's worker, torch collates into shared memory, a descriptor a tensor, with other strides.
    """
    torch_data.worker._worker_info = torch_data.worker.WorkerInfo(
        id=setup.number, num_workers=setup.num_workers, seed=setup.seed, dataset=setup.dataset
    )
    table = torch_data.collate.default_collate_fn_map
    if table[torch.Tensor] is torch_data.collate.collate_tensor_fn:
        table[torch.Tensor] = blocks.collate
