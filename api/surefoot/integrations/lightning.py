"""A LightningModule, trained by Surefoot: `fit(run, module, train_set, val_set, max_epochs=3)` in place of `Trainer(...).fit(...)`.

Automatic optimization with one optimizer. A sub-task is a batch of `training_step`; what `self.log` is given is merged. The loop, its
batches and its randomness are Surefoot's. Hooks and options that are not done are refused by name, before anything is trained.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from surefoot.errors import ContractError
from surefoot.integrations._lightning_options import HOOKS, OPTIONS, TRAINER
from surefoot.integrations.support import caller, library, refuse

if TYPE_CHECKING:
    from surefoot.contract import Run, Step

__all__ = ["NotThereError", "fit", "refused_hooks", "refused_options"]


def fit(
    run: Run,
    module: Any,
    train_dataset: Any,
    val_dataset: Any = None,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> None:
    """Train a LightningModule, as `lightning.Trainer(**options).fit(module, ...)` would, in the job's batches.

    Called in the train function, once. The code after it runs on one trainer. `options` are those of Lightning's Trainer.
    `batch_idx` is the step's number in training and 0 in validation, as which batch it is of a trainer's depends on the others.

    Raises ContractError, naming it, for whatever of the module or the options is not done here.
    """
    _check(run, module, options)
    told = _Told(run, train_dataset, options)
    module.trainer = told
    module.setup("fit")
    module.configure_model()
    module.to(run.device).train()
    optimizer, told.lr_scheduler_configs = _optimizers(module)
    told.optimizers = [optimizer]
    schedules = {f"schedule_{n}": config.scheduler for n, config in enumerate(told.lr_scheduler_configs)}
    run.track(module=module, optimizer=optimizer, **schedules)
    fitting = _Fit(run, module, told, options)
    module.log = fitting.log
    module.on_fit_start()
    module.on_train_start()
    for step in run.steps(told.num_steps):
        fitting.begin(step)
        for batch in step.batches(train_dataset, collate=collate):
            fitting.train(batch)
        fitting.apply(optimizer)
        if val_dataset is not None and fitting.validates():
            fitting.open_validation()
            for batch in step.evaluate(val_dataset, collate=collate):
                fitting.validate(batch)
            fitting.close_validation()
        fitting.end()
    module.on_train_end()
    module.on_fit_end()
    module.teardown("fit")


# ---- what is refused


def refused_hooks(kind: type) -> list[str]:
    """Return the methods of LightningModule that a class overrides and that are not done."""
    base = library("lightning.pytorch", "lightning").LightningModule
    names = [name for name in dir(base) if not name.startswith("_")]
    known = HOOKS.honoured | HOOKS.harmless.keys()
    own = [name for name in names if inspect.getattr_static(kind, name) is not inspect.getattr_static(base, name)]
    return [name for name in own if name not in known]


def refused_options(options: dict[str, Any]) -> list[str]:
    """Return the options of Lightning's Trainer that are set to something that is not done, or that it does not have."""
    trainer = library("lightning.pytorch", "lightning").Trainer
    default = {name: p.default for name, p in inspect.signature(trainer.__init__).parameters.items()}
    return OPTIONS.refused(options, default)


def _check(run: Run, module: Any, options: dict[str, Any]) -> None:
    lightning = library("lightning.pytorch", "lightning")
    if not isinstance(module, lightning.LightningModule):
        raise ContractError(f"{caller()}: fit() was given a {type(module).__name__}; give a LightningModule")
    refuse(type(module).__name__, refused_hooks(type(module)), HOOKS)
    refuse("fit()", refused_options(options), OPTIONS)
    if not module.automatic_optimization:
        raise ContractError(
            f"{caller()}: {type(module).__name__} optimizes by hand (automatic_optimization = False); write the loop yourself: "
            f"`for step in run.steps(...)` has as many inner loops and optimizers as it takes"
        )
    _check_values(run, options)


def _check_values(run: Run, options: dict[str, Any]) -> None:
    """Of options that are honoured: values that are not."""
    precision, algorithm = options.get("precision"), options.get("gradient_clip_algorithm")
    for name, value, known in (
        ("precision", precision, (None, 32, "32", "32-true", "bf16-mixed")),
        ("gradient_clip_algorithm", algorithm, (None, "norm", "value")),
    ):
        if value not in known:
            raise ContractError(f"{caller()}: {name}={value!r}: give one of {', '.join(map(repr, known))}")
    every = options.get("val_check_interval")
    if every is not None and (
        type(every) is not int or every < 1 or options.get("check_val_every_n_epoch", 1) is not None
    ):
        raise ContractError(
            f"{caller()}: val_check_interval={every!r}: give a number of steps, with check_val_every_n_epoch=None"
        )
    accumulated = options.get("accumulate_grad_batches", 1)
    if run.sub_tasks % accumulated:
        raise ContractError(
            f"{caller()}: accumulate_grad_batches={accumulated} does not divide the job's {run.sub_tasks} sub-tasks; a step is the "
            f"job's batch, which a trainer accumulates sub-task by sub-task"
        )
    if options.get("max_epochs") is None and options.get("max_steps", -1) < 0:
        raise ContractError(f"{caller()}: say how long to train: max_epochs or max_steps")


def _optimizers(module: Any) -> tuple[Any, list[Any]]:
    """Return the module's optimizer and schedules, as Lightning reads them."""
    read = library("lightning.pytorch.core.optimizer", "lightning")
    found = module.configure_optimizers()
    if found is None:
        raise ContractError(f"{caller()}: {type(module).__name__}.configure_optimizers() returned nothing")
    optimizers, schedules, monitor = read._configure_optimizers(found)
    if len(optimizers) != 1:
        raise ContractError(
            f"{caller()}: {type(module).__name__} has {len(optimizers)} optimizers; automatic optimization has one: write the loop yourself"
        )
    return optimizers[0], read._configure_schedulers_automatic_opt(schedules, monitor)


# ---- what the module sees


class NotThereError(ContractError, AttributeError):
    """The module asks `self.trainer` for what it does not have here."""

    __str__ = Exception.__str__


class _Told:
    """What `self.trainer` is to the module: where training is. Whatever else is asked for is refused by name."""

    def __init__(self, run: Run, dataset: Any, options: dict[str, Any]) -> None:
        self._batch, self._length = run.batch_size, len(dataset)
        self.max_epochs, self.max_steps = options.get("max_epochs"), options.get("max_steps", -1)
        self.num_steps = self._count()
        self.estimated_stepping_batches = self.num_steps
        self.num_training_batches = math.ceil(self._length / self._batch)
        # the step under way, and how many were made: the same until its update is applied
        self._step, self.global_step = 0, 0
        self.training, self.validating, self.sanity_checking = True, False, False
        self.global_rank, self.local_rank, self.world_size, self.is_global_zero = 0, 0, 1, True
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []

    def _count(self) -> int:
        epochs = None if self.max_epochs in (None, -1) else math.ceil(self.max_epochs * self._length / self._batch)
        steps = None if self.max_steps < 0 else self.max_steps
        given = [n for n in (epochs, steps) if n is not None]
        return min(given) if given else 0

    def begin(self, step: int) -> None:
        self._step = self.global_step = step

    @property
    def current_epoch(self) -> int:
        return self.epoch(self._step)

    def epoch(self, step: int) -> int:
        """Return the epoch that the step's first sample is of."""
        return step * self._batch // self._length

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotThereError(
            f"{caller()}: self.trainer.{name} is not there in training by Surefoot; it has {', '.join(TRAINER)}"
        )


class _Fit:
    """One module's steps. What changes from step to step is set anew when a step begins."""

    def __init__(self, run: Run, module: Any, told: _Told, options: dict[str, Any]) -> None:
        self._device, self._module, self._told, self._options = run.device, module, told, options
        self._step: Step
        self._bf16 = options.get("precision") == "bf16-mixed"

    def begin(self, step: Step) -> None:
        self._step = step
        self._told.begin(step.number)
        if step.number == 0 or self._told.epoch(step.number) != self._told.epoch(step.number - 1):
            self._module.on_train_epoch_start()

    def train(self, batch: Any) -> None:
        """Compute a sub-task."""
        module, number = self._module, self._step.number
        batch = self._moved(batch)
        if module.on_train_batch_start(batch, number) == -1:
            raise ContractError(
                f"{caller()}: on_train_batch_start returned -1, to skip an epoch's rest: call run.stop() instead"
            )
        with self._precision():
            output = _called(module.training_step, batch, number)
        loss = output.get("loss") if isinstance(output, dict) else output
        if loss is None:
            raise ContractError(
                f"{caller()}: training_step returned no loss; skip a batch by a loss of zero and step.weigh(0)"
            )
        module.on_before_backward(loss)
        module.backward(loss)
        module.on_after_backward()
        module.on_train_batch_end(output, batch, number)

    def apply(self, optimizer: Any) -> None:
        """Apply the merged gradients, clipped as asked for, and step the schedules that go by steps."""
        import torch

        self._module.on_before_optimizer_step(optimizer)
        most = self._options.get("gradient_clip_val")
        if most and self._options.get("gradient_clip_algorithm") == "value":
            torch.nn.utils.clip_grad_value_(self._module.parameters(), most)
        elif most:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), most)
        optimizer.step()
        self._told.global_step += 1
        self._schedule("step", self._told.global_step)

    def validates(self) -> bool:
        every, epochs = self._options.get("val_check_interval"), self._options.get("check_val_every_n_epoch", 1)
        if every is not None:
            return self._step.every(every)
        return epochs is not None and self._step.ends_epoch and (self._step.epoch + 1) % epochs == 0

    def open_validation(self) -> None:
        self._told.training, self._told.validating = False, True
        self._module.on_validation_start()
        self._module.on_validation_epoch_start()

    def validate(self, batch: Any) -> None:
        """Compute a batch of the validation set."""
        batch = self._moved(batch)
        self._module.on_validation_batch_start(batch, 0)
        with self._precision():
            output = _called(self._module.validation_step, batch, 0)
        self._module.on_validation_batch_end(output, batch, 0)

    def close_validation(self) -> None:
        self._module.on_validation_epoch_end()
        self._module.on_validation_end()
        self._told.training, self._told.validating = True, False

    def end(self) -> None:
        """End the step: an epoch's end too, where it has its last sample."""
        if self._step.ends_epoch:
            self._module.on_train_epoch_end()
            self._schedule("epoch", self._step.epoch + 1)

    def log(self, name: str, value: Any, *_: Any, reduce_fx: Any = "mean", **__: Any) -> None:
        """Take the place of `self.log`: what is logged in a batch is merged, weighted as the batch is."""
        if reduce_fx != "mean":
            raise ContractError(f"{caller()}: self.log({name!r}, reduce_fx={reduce_fx!r}): only means are merged")
        if hasattr(value, "compute"):
            raise ContractError(
                f"{caller()}: self.log({name!r}) was given a {type(value).__name__}; log a number of the batch"
            )
        self._step.log(**{name: value})

    def _schedule(self, interval: str, count: int) -> None:
        for config in self._told.lr_scheduler_configs:
            if config.interval == interval and count % config.frequency == 0:
                metric = self._step.merged[config.monitor] if config.reduce_on_plateau else None
                self._module.lr_scheduler_step(config.scheduler, metric)

    def _moved(self, batch: Any) -> Any:
        batch = self._module.on_before_batch_transfer(batch, 0)
        batch = self._module.transfer_batch_to_device(batch, self._device, 0)
        return self._module.on_after_batch_transfer(batch, 0)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._bf16 else contextlib.nullcontext()


def _called(method: Any, batch: Any, number: int) -> Any:
    """Call a step of the module's, with the number of its batch where it takes one."""
    names = list(inspect.signature(method).parameters)
    if "dataloader_iter" in names:
        raise ContractError(f"{caller()}: {method.__name__} takes a dataloader_iter; take batch and batch_idx")
    return method(batch, number) if len(names) > 1 else method(batch)
