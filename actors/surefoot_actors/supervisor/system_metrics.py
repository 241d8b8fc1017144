"""What trainers use, passed on to the control plane as their watchdogs tell it."""

from __future__ import annotations

import json
from collections.abc import Container

from pydantic import ValidationError

from surefoot.system import SystemSample
from surefoot_actors.process_log import log
from surefoot_actors.uplink.ports import Uplink

__all__ = ["SystemMetrics"]


class SystemMetrics:
    """`take` is what a LivenessServer's `on_system` calls."""

    def __init__(self, uplink: Uplink, trainers: Container[str]) -> None:
        """`trainers`: those that live; what is told of others comes late."""
        self._uplink, self._trainers = uplink, trainers

    def take(self, trainer: str, told: str) -> None:
        """Pass on a sample. What is none is dropped here: no batch is to be refused for it."""
        try:
            sample = SystemSample.model_validate(json.loads(told) | {"trainer": trainer})
        except (ValueError, TypeError, ValidationError) as error:
            log.warning("no_sample", trainer=trainer, error=str(error)[:500])
            return
        if trainer in self._trainers:
            self._uplink.system(sample)
