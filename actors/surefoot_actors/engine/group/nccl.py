"""Bulk tensors between GPUs. UNTESTED: written on a machine without a GPU, against the API of torch 2.13."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed

from surefoot_actors.engine.group.wire import Message

__all__ = ["NcclBulk"]

_ADDRESS_BYTES = 300
# The watchdog must neither kill the process nor abort on its own: a lost peer is the supervisor's matter, and the abort is close()'s.
_ENVIRONMENT = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_PROPAGATE_ERROR": "0",
}


class NcclBulk:
    """Point-to-point transfers of CUDA tensors, matched by their order between two ranks: tags don't exist here. UNTESTED."""

    def __init__(
        self, rank: int, size: int, device: torch.device, host: str, tell: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Form a group of `size` ranks, over a store that rank 0 opens on `host` for this alone.

        `tell`: called on every rank with a tensor of the same size; returns rank 0's, on all of them.
        """
        os.environ.update(_ENVIRONMENT)
        # Typed as Any, since torch's stubs lack half of what is used here.
        c10d: Any = torch.distributed
        torch.cuda.set_device(device)
        self._device = device
        first = torch.zeros(_ADDRESS_BYTES, dtype=torch.uint8)
        if rank == 0:
            self._store = c10d.TCPStore(host, 0, is_master=True, wait_for_workers=False)
            address = json.dumps([host, self._store.port]).encode().ljust(_ADDRESS_BYTES)
            tell(torch.frombuffer(bytearray(address), dtype=torch.uint8))
        else:
            address, port = json.loads(tell(first).numpy().tobytes())
            self._store = c10d.TCPStore(address, port, is_master=False, wait_for_workers=False)
        options = c10d.ProcessGroupNCCL.Options()
        self._group = c10d.ProcessGroupNCCL(self._store, rank, size, options)

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Perform all of them at once and block until they are done, or until `abort` is called elsewhere.

        Both ends list their messages in the same order. After an abort the received bytes mean nothing.
        """
        with torch.cuda.device(self._device):
            self._group._start_coalescing()
            for message in sends:
                self._group.send([message.tensor], message.peer, 0)
            for message in receives:
                self._group.recv([message.tensor], message.peer, 0)
            self._group._end_coalescing().wait()
            torch.cuda.current_stream().synchronize()

    def abort(self) -> None:
        """End what is under way, from any thread."""
        self._group.abort()
