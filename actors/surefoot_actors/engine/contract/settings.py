"""How this process computes: settings that decide bits must stay as they were when training began."""

from __future__ import annotations

import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import mha, opt_einsum
from torch.nn.utils import parametrize

from surefoot.errors import ContractError
from surefoot_actors.user_code.lines import is_ours

__all__ = ["SettingsWatch", "forget_casts", "has_casts"]

# Settings by name, in the order of `_settings`; and what changes them, where that is a function.
_NAMES = {
    "torch.get_num_threads()": "set_num_threads",
    "torch.get_deterministic_debug_mode()": "use_deterministic_algorithms",
    "torch.get_default_dtype()": "set_default_dtype",
    "torch.get_float32_matmul_precision()": "set_float32_matmul_precision",
    "torch.backends.cudnn.enabled": "",
    "torch.backends.cudnn.benchmark": "",
    "torch.backends.cudnn.deterministic": "",
    "torch.backends.cudnn.allow_tf32": "",
    "torch.backends.cuda.matmul.allow_tf32": "",
    "torch.backends.mkldnn.enabled": "",
    "flush_denormal": "set_flush_denormal",
}
# Which kernels compute attention, and in which numbers autocast computes: looked at where a step ends, as code chooses them for an
# inner loop by `with`.
_KERNELS = (
    "torch.backends.cuda.flash_sdp_enabled()",
    "torch.backends.cuda.math_sdp_enabled()",
    "torch.backends.cuda.mem_efficient_sdp_enabled()",
    "torch.backends.mha.get_fastpath_enabled()",
    'torch.get_autocast_dtype("cpu")',
    'torch.get_autocast_dtype("cuda")',
    'torch.is_autocast_enabled("cpu")',
    'torch.is_autocast_enabled("cuda")',
    "torch.backends.opt_einsum.strategy",
)
_DETERMINISM = 1
_BENCHMARK = 5

# The smallest double: a processor that flushes denormal numbers takes it for zero.
_TINIEST = 5e-324


def _settings() -> tuple[Any, ...]:
    c = torch._C
    return (
        torch.get_num_threads(),
        c._get_deterministic_algorithms()
        + (c._get_deterministic_algorithms() and not c._get_deterministic_algorithms_warn_only()),
        torch.get_default_dtype(),
        c._get_float32_matmul_precision(),
        c._get_cudnn_enabled(),
        c._get_cudnn_benchmark(),
        c._get_cudnn_deterministic(),
        c._get_cudnn_allow_tf32(),
        c._get_cublas_allow_tf32(),
        c._get_mkldnn_enabled(),
        _TINIEST * 1.0 == 0.0,
    )


def _kernels() -> tuple[Any, ...]:
    c = torch._C
    return (
        c._get_flash_sdp_enabled(),
        c._get_math_sdp_enabled(),
        c._get_mem_efficient_sdp_enabled(),
        mha._is_fastpath_enabled,
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        opt_einsum.enabled and opt_einsum.strategy,
    )


class SettingsWatch:
    """Compares the settings with those that training began with, in about a microsecond."""

    def __init__(self) -> None:
        self._before = self._expected = _settings()
        self._kernels = _kernels()
        # by the name of a function that changes settings: the last line that called it
        self._lines: dict[str, str] = {}
        #: what is computed without a deterministic form right now, on purpose
        self.allowed: list[str] = []

    def begin(self, line: str) -> None:
        """The loop over steps begins at this line. What the code before it has set is the same on every trainer, but determinism stays.

        Raises ContractError where that was switched off.
        """
        self._expected, self._kernels = _settings(), _kernels()
        for i in (_DETERMINISM, _BENCHMARK):
            if self._expected[i] != self._before[i] and not (i == _DETERMINISM and self.allowed):
                raise ContractError(
                    self._changed(i, self._before[i], self._expected[i], f"before run.steps() at {line}")
                )

    def begin_first_step(self) -> None:
        """What `with` the first step is asked in counts for all of them: an autocast around the loop."""
        self._kernels = _kernels()

    def called(self, name: str, line: str) -> None:
        """A function that changes settings is called at this line."""
        self._lines[name] = line

    def check(self, line: str) -> None:
        """Raise ContractError where a setting has changed since training began. `line` is that of the inner loop that ends; or none."""
        now = _settings()
        if now == self._expected:
            return
        where = f"in the inner loop at {line} or before it" if line else "after the last inner loop"
        for i, (was, is_) in enumerate(zip(self._expected, now, strict=True)):
            if was != is_ and not (i == _DETERMINISM and self.allowed):
                raise ContractError(self._changed(i, was, is_, where))

    def check_kernels(self, where: str) -> None:
        """A step ends. Raise ContractError where attention or autocast compute otherwise than when training began."""
        now = _kernels()
        if now != self._kernels:
            name, was, is_ = next(one for one in zip(_KERNELS, self._kernels, now, strict=True) if one[1] != one[2])
            raise ContractError(
                f"{name} was changed from {was} to {is_} {where}, and stays so: it decides the bits, and a trainer that joins later "
                f"would compute with another; set it once, before run.steps(), or by `with torch.nn.attention.sdpa_kernel(...):` or `with "
                f"torch.autocast(...):` inside each step"
            )

    @contextmanager
    def nondeterministic(self, name: str) -> Iterator[None]:
        """Let operations run that have no deterministic form; those that have one take it."""
        mode = torch.get_deterministic_debug_mode()
        self.allowed.append(name)
        torch._C._set_deterministic_algorithms(True, warn_only=True)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
                yield
        finally:
            torch._C._set_deterministic_algorithms(mode > 0, warn_only=mode == 1)
            self.allowed.remove(name)

    def _changed(self, number: int, was: Any, is_: Any, where: str) -> str:
        name, setter = list(_NAMES.items())[number]
        line = self._lines.get(setter) or (
            self._lines.get("set_deterministic_debug_mode") if number == _DETERMINISM else None
        )
        at = f" at {line}" if line else ""
        advice = (
            'for one operation that has no deterministic form use `with run.nondeterministic("its name"):` around it and the '
            "backward pass"
            if number == _DETERMINISM
            else "set it once, before run.steps(), or in the job's spec"
        )
        return (
            f"{name} was changed from {was} to {is_}{at}, {where}: it decides the bits, and a trainer that joins later would compute "
            f"with another; {advice}"
        )


def raise_if_nondeterministic(error: RuntimeError) -> None:
    """Raise ContractError instead of torch's error about an operation that has no deterministic form."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found is None:
        return
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_ours(f.filename)]
    at = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    name = found[1].removesuffix("_cpu").removesuffix("_cuda")
    raise ContractError(
        f"{found[1]}{at} has no deterministic form in torch: its result may differ from run to run. Use another operation, or, where "
        f'it is known to be harmless, `with run.nondeterministic("{name}"):` around it and the backward pass'
    ) from error


def has_casts() -> bool:
    """Whether there may be any: leaving the outermost autocast forgets them too."""
    return bool(parametrize._cache) or torch._C._is_any_autocast_enabled()


def forget_casts() -> None:
    """Make what follows a function of the present parameters: an autocast or `parametrize.cached()` around the loop keeps old ones."""
    torch.clear_autocast_cache()
    parametrize._cache = {}
