"""What a job has used, what that cost, and what the rest of it will: the answer of `GET /v1/jobs/{id}/usage`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from surefoot.budget import Budget

__all__ = ["Forecast", "JobUsage", "KindUsage"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class KindUsage(_View):
    """Trainers on one kind of node."""

    group: str = ""
    """The group of the nodes, as Ray's label has it; empty where that was not told."""
    market: str = ""
    """How they are bought: "on-demand", "gke-spot"; empty where that was not told."""
    trainer_s: float = 0.0
    """Seconds that trainers were there, added up."""
    cost: float | None = None
    """What they cost, in the currency; null: no price is set for this kind."""


class Forecast(_View):
    """What the rest of the job takes with so many trainers, by the steps that the job itself has made."""

    trainers: int
    """The number of trainers."""
    measured: bool
    """Whether the job has trained with so many. If not, the range is what lies between perfect scaling and none at all, from the nearest
    numbers that were measured; the truth may be outside of it where more trainers are slower."""
    step_s: float | None = None
    """Seconds a step on average; null where it was not measured."""
    step_s_low: float
    """The lower end: the fastest part of what was measured, or perfect scaling."""
    step_s_high: float
    """The upper end: the slowest part of what was measured, or no scaling at all."""
    remaining_s: float | None = None
    """Seconds for the steps that are left, without faults and starts; null where it was not measured, or the number is not known."""
    remaining_s_low: float | None = None
    """The lower end."""
    remaining_s_high: float | None = None
    """The upper end."""
    cost: float | None = None
    """What these seconds cost at the present price of the job's trainers; null where that is not known."""
    cost_low: float | None = None
    """The lower end."""
    cost_high: float | None = None
    """The upper end."""


class JobUsage(_View):
    """What a job has used and cost so far, and what the rest will."""

    currency: str = ""
    """What costs are in."""
    cluster_s: float = 0.0
    """Seconds that the job was on the cluster: from each start of an attempt until it was paused, queued again, or ended."""
    trainer_s: float = 0.0
    """Seconds of all its trainers, from their start to their end, added up."""
    cost: float | None = None
    """What those of them cost whose price is known; null: none is."""
    unpriced_trainer_s: float = 0.0
    """Those of `trainer_s` that have no price: the cost is too low by what they cost."""
    kinds: tuple[KindUsage, ...] = ()
    """The same by kind of node."""
    recoveries: int = 0
    """How many losses of trainers, and of whole attempts, it went on after."""
    lost_s: float = 0.0
    """Seconds from these losses to the next committed steps. The step that was under way is in it, so it is an upper bound."""
    lost_trainer_s: float = 0.0
    """Seconds that trainers were there meanwhile, added up."""
    lost_cost: float | None = None
    """What these cost; null where no price is known."""
    again_steps: int = 0
    """Steps that are made again, since everybody that had the state was lost: from the newest checkpoint, or from the beginning."""
    again_s: float = 0.0
    """Seconds that those of them had taken, at most, that are not in `lost_s`: after the loss of an attempt."""
    again_trainer_s: float = 0.0
    """Seconds that trainers had trained for them, added up."""
    again_cost: float | None = None
    """What these cost, at the mean price of the job's trainers; null where there are none, or no price is known."""
    steps_done: int = 0
    """Steps that are done."""
    remaining_steps: int | None = None
    """Steps that are left, at most where there is a target; null: not known yet."""
    step_s: float | None = None
    """Seconds a step, as the newest ones took; null before there are any."""
    samples_per_s: float | None = None
    """Samples a second, by these steps."""
    epoch_s: float | None = None
    """Seconds an epoch, at this speed; null where it is not known how many samples an epoch has."""
    target: str | None = None
    """What ends the job before its last step."""
    steps_to_target: int | None = None
    """How many steps it took to meet it; null while it is not met."""
    s_to_target: float | None = None
    """Seconds on the cluster until the step that met it."""
    cost_to_target: float | None = None
    """What it cost until then, and for ending the job; null while it is not met, or where no price is known."""
    budget: Budget = Budget()
    """What the job may cost, and for how long it may run."""
    spent: str = ""
    """Which part of the budget is spent, in a sentence; empty: none."""
    forecast: tuple[Forecast, ...] = ()
    """What the rest takes, by number of trainers; empty before enough steps were made, and after the end."""
