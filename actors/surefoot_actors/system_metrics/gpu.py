"""A trainer's GPU, by NVML: NVIDIA's own library, which comes with the driver. Without it there is nothing to tell."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Gpu", "find_gpu"]

_LIBRARY = "libnvidia-ml.so.1"
_OK = 0


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Library(Protocol):
    """NVML, as ctypes loads it."""

    def __getattr__(self, name: str) -> Any: ...


class Gpu:
    """One device of an initialised library."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def sample(self) -> dict[str, float]:
        """What it does now. What it does not tell (a slice of a GPU has no power of its own, say) is left out."""
        used, memory, milliwatts = _Utilization(), _Memory(), ctypes.c_uint()
        told: dict[str, float] = {}
        if self._ask("nvmlDeviceGetUtilizationRates", used):
            told["gpu_percent"] = used.gpu
        if self._ask("nvmlDeviceGetMemoryInfo", memory):
            told |= {"gpu_memory_bytes": memory.used, "gpu_memory_limit_bytes": memory.total}
        if self._ask("nvmlDeviceGetPowerUsage", milliwatts):
            told["gpu_watts"] = milliwatts.value / 1000
        return told

    def _ask(self, function: str, answer: Any) -> bool:
        return bool(getattr(self._library, function)(self._handle, ctypes.byref(answer)) == _OK)


def find_gpu(environment: Mapping[str, str], library: Library | None = None) -> Gpu | None:
    """Return the first GPU that a process with this environment sees, as CUDA counts; None: NVML knows of none."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    try:
        nvml: Library = library or ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    if not visible or nvml.nvmlInit_v2() != _OK:
        return None
    handle = ctypes.c_void_p()
    if visible.isdigit():
        found = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(visible)), ctypes.byref(handle))
    else:
        found = nvml.nvmlDeviceGetHandleByUUID(visible.encode(), ctypes.byref(handle))
    return Gpu(nvml, handle) if found == _OK else None
