"""What decides the bits besides code and seed: it must be equal on every trainer of a job."""

from __future__ import annotations

import hashlib
import os
import platform
import sys

import torch
import torch.utils.deterministic as deterministic

__all__ = ["fingerprint", "make_deterministic"]


def make_deterministic(threads: int) -> None:
    """Make this process's sums repeatable: deterministic algorithms, no autotuning, a fixed number of threads."""
    # cuBLAS reads it when it is first used, so it must come before any CUDA work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # as use_deterministic_algorithms(True), which would import the compiler too, a second of every start
    torch.set_deterministic_debug_mode("error")
    # It would fill every new tensor with NaN, to make reads of uninitialised memory repeatable, at a pass over memory each.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def fingerprint(device: torch.device, threads: int) -> tuple[tuple[str, str], ...]:
    """Return what must be equal on every trainer, as sorted (name, value) pairs."""
    build = hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16]
    values = {
        "device": _device_model(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        # a plain str: its own class would have the supervisor import torch to read it, which takes a second
        "torch": str(torch.__version__),
        "torch_build": build,
        "python": ".".join(map(str, sys.version_info[:3])),
        "threads": str(threads),
        "pythonhashseed": os.environ.get("PYTHONHASHSEED", "random"),
        "deterministic": _determinism(),
    }
    return tuple(sorted(values.items()))


def _device_model(device: torch.device) -> str:
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} sm{major}{minor} cuda {torch.version.cuda} cudnn {cudnn}"
    return device.type


def _determinism() -> str:
    flags = {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "mkldnn": torch.backends.mkldnn.enabled,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
    }
    return " ".join(f"{k}={v}" for k, v in sorted(flags.items()))
