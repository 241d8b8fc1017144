"""Ray's control store (GCS), which may be away for a while: with fault tolerance it comes back, and knows all it knew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["retry_until_gcs_answers"]

# Between two tries. Ray itself gives up after a minute without its control store, and ends the process.
_RETRY_S = 0.2

T = TypeVar("T")


def retry_until_gcs_answers(call: Callable[[], T]) -> T:
    """Ask until the control store answers: for what may be asked twice. Blocks: not for an event loop."""
    from ray.exceptions import GetTimeoutError, RpcError

    while True:
        try:
            return call()
        except (GetTimeoutError, RpcError):
            time.sleep(_RETRY_S)
