"""Why a trainer's process ended, in words: what the cluster says of it, what its watchdog saw, and what is likely behind it. Pure."""

from __future__ import annotations

__all__ = ["explained"]

_HINTS = {
    "SIGBUS": "a mapped file was written anew or truncated under it (prepare data by `run.once`), or /dev/shm or the disk is full",
    "SIGSEGV": "native code of it failed",
}


def explained(reason: str, seen: str) -> str:
    """Add to what the cluster says the signal that the watchdog saw (`seen`, empty: none), and a hint."""
    name, at, line = seen.partition(", at ")
    if seen and name.rpartition(" ")[2] not in reason:
        reason = f"{reason}; it was {seen}"
    elif line and line not in reason:
        reason = f"{reason}{at}{line}"
    hint = next((hint for name, hint in _HINTS.items() if name in reason), "")
    return f"{reason}: {hint}" if hint and hint not in reason else reason
