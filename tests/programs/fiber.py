"""Functions that take turns in one process, each in a thread of its own, with random states of its own.

One runs at a time: `resume` hands over and waits, `ask` hands back and waits. So several trainers live in one process, every
interleaving is chosen by the test, and nothing depends on the machine's speed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["Ended", "Fiber"]

# Which kernels of attention there are is a process's own, and a trainer is a process: code chooses them by `with` around a round.
_CUDA = torch.backends.cuda
_KERNELS = (
    (_CUDA.flash_sdp_enabled, _CUDA.enable_flash_sdp),
    (_CUDA.math_sdp_enabled, _CUDA.enable_math_sdp),
    (_CUDA.mem_efficient_sdp_enabled, _CUDA.enable_mem_efficient_sdp),
)


class Ended:
    """What `resume` returns when the function has ended: with an error, or with None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Fiber:
    """One function that can be stopped in the middle, where it asks for something."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._run, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._answer: Any = None
        self._request: Any = None
        self._states: Any = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._began = self.ended = False

    def resume(self, answer: Any = None) -> Any:
        """Let it run until it asks for something or ends; return what it asks for, or Ended. An exception is raised in it."""
        assert not self.ended
        outside = _states()
        if self._states is not None:
            _set_states(self._states)
        self._answer = answer
        if self._began:
            self._run.release()
        else:
            self._began = True
            self._thread.start()
        self._back.acquire()
        self._states = _states()
        _set_states(outside)
        if isinstance(self._request, Ended):
            self.ended = True
            self._thread.join()
        return self._request

    def ask(self, request: Any) -> Any:
        """Called by the function itself: stop here until resumed, and return the answer."""
        self._request = request
        self._back.release()
        self._run.acquire()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            self._function()
        except BaseException as raised:  # noqa: BLE001  the end of a thread: told to whoever resumed it
            error = raised
        self._request = Ended(error)
        self._back.release()


def _states() -> Any:
    kernels = [is_on() for is_on, _ in _KERNELS]
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), kernels


def _set_states(states: Any) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    for (_, enable), on in zip(_KERNELS, states[3], strict=True):
        enable(on)
