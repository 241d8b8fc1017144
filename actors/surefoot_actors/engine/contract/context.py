"""What the rounds of a run share, from `run.steps()` to the end of the loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surefoot_actors.determinism.rng import Streams
from surefoot_actors.engine.contract.settings import SettingsWatch
from surefoot_actors.engine.contract.unchanged import Unchanged
from surefoot_actors.engine.data.loader import Loader
from surefoot_actors.engine.data.partition import EvaluationPartition, TrainingPartition
from surefoot_actors.engine.ports import Coordinator
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.engine.vector.buffers import BufferWatch
from surefoot_actors.engine.vector.leaves import LeafMaker

__all__ = ["RoundContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """Made once, when the tracked objects are as the loop finds them."""

    batch_size: int
    sub_tasks: int
    coordinator: Coordinator
    streams: Streams
    settings: SettingsWatch
    # where batches come from, and which samples are whose
    loader: Loader
    training_partition: TrainingPartition
    evaluation_partition: EvaluationPartition
    # what is trained, by name; its parameters once each, as it was when the loop began
    tracked: Tracked
    parameters: list[tuple[str, torch.Tensor]]
    buffers: BufferWatch
    leaves: LeafMaker
    unchanged: Unchanged
