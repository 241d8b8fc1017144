"""A transformers.Trainer, trained by Surefoot: `fit(run, trainer)` where the script has `trainer.train()`.

Model, collator, loss, optimizer, schedule and columns are the Trainer's, made by its own methods. The loop is Surefoot's: a step is the
job's batch; the tokens of a sub-task are its weight, so that the merge is the mean over all tokens of the batch, as Trainer's
`num_items_in_batch` has it. An adapter of peft is a model like any other: what is frozen has no gradients, and only those are merged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from surefoot.errors import ContractError
from surefoot.integrations._arguments import ARGUMENTS, OPTIMIZERS, OVERRIDES, QUIET_CALLBACKS, SCHEDULES
from surefoot.integrations.support import caller, library, refuse

if TYPE_CHECKING:
    import torch

    from surefoot.contract import Run, Step

__all__ = ["check_trainer", "fit", "refused_arguments"]


def fit(run: Run, trainer: Any) -> None:
    """Train a transformers.Trainer's model, as `trainer.train()` would on one device, in the job's batches.

    Called in the train function, once. The code after it runs on one trainer: `trainer.model.save_pretrained(...)`. Logged a step:
    loss, grad_norm, learning_rate; by evaluation eval_loss and what `compute_metrics` returns.

    Raises ContractError, naming it, for whatever of the Trainer or its arguments is not done here.
    """
    check_trainer(run, trainer)
    num_steps = _num_steps(run, trainer)
    model = trainer.model.to(run.device)
    _prepare(model, trainer.args)
    trainer.create_optimizer_and_scheduler(num_steps)
    optimizer, schedule = trainer.optimizer, trainer.lr_scheduler
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    how = _Training(run, trainer, num_steps)
    for step in run.steps(num_steps):
        for batch in step.batches(trainer.train_dataset, collate=how.collate, sampler=how.sampler):
            how.forward(step, batch)
        how.apply(step, optimizer, schedule)
        how.evaluate(step)


def check_trainer(run: Run, trainer: Any) -> None:
    """Raise ContractError for what of a Trainer cannot be done, or does not fit the job."""
    transformers = library("transformers", "huggingface")
    if not isinstance(trainer, transformers.Trainer):
        raise ContractError(f"{caller()}: fit() was given a {type(trainer).__name__}; give a transformers.Trainer")
    refuse("TrainingArguments", refused_arguments(trainer.args), ARGUMENTS)
    _check_values(trainer.args)
    _check_overrides(type(trainer), transformers.Trainer)
    _check_parts(trainer)
    _check_batch(run, trainer.args)


def refused_arguments(args: Any) -> list[str]:
    """Return the fields that are set to something that is not done."""
    given = {field.name: getattr(args, field.name) for field in fields(args)}
    default = {field.name: _default(field) for field in fields(args)}
    # as the arguments' own __post_init__ leaves them
    default |= {"report_to": [], "debug": [], "accelerator_config": type(args.accelerator_config)()}
    return ARGUMENTS.refused(given, default)


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _check_values(args: Any) -> None:
    """Of fields that are honoured: values that are not."""
    for name, value, known in (
        ("optim", _plain(args.optim), OPTIMIZERS),
        ("lr_scheduler_type", _plain(args.lr_scheduler_type), SCHEDULES),
        ("train_sampling_strategy", _plain(args.train_sampling_strategy), {"random", "sequential"}),
        ("save_strategy", _plain(args.save_strategy), {"no", "steps", "epoch"}),
    ):
        if value not in known:
            raise ContractError(
                f"{caller()}: TrainingArguments' {name}={value!r}: give one of {', '.join(sorted(known))}"
            )
    if not args.average_tokens_across_devices:
        raise ContractError(
            f"{caller()}: TrainingArguments' average_tokens_across_devices=False: a mean that each device takes of its own tokens would "
            f"depend on how many there are; leave it True"
        )


def _check_overrides(kind: type, base: type) -> None:
    for part in kind.__mro__[: kind.__mro__.index(base)]:
        names = sorted(name for name in vars(part) if callable(getattr(base, name, None)) and not name.startswith("__"))
        names = [name for name in names if name not in OVERRIDES]
        if names:
            raise ContractError(
                f"{caller()}: {part.__name__} has {', '.join(names)} of its own, which would not be called: of a Trainer's methods "
                f"{', '.join(sorted(OVERRIDES - {'__init__'}))} may be overridden"
            )


def _check_parts(trainer: Any) -> None:
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ not in QUIET_CALLBACKS:
            raise ContractError(
                f"{caller()}: the callback {type(callback).__name__} would not be called; leave it out, or write the loop yourself: "
                f"run.stop() and step.merged take the place of early stopping"
            )
    if trainer.train_dataset is None:
        raise ContractError(f"{caller()}: the Trainer has no train_dataset")
    if trainer.model_init is not None:
        raise ContractError(
            f"{caller()}: a Trainer with model_init= is for searches of hyperparameters; give it the model"
        )


def _check_batch(run: Run, args: Any) -> None:
    share = run.batch_size // run.sub_tasks
    if args.per_device_train_batch_size != share:
        raise ContractError(
            f"{caller()}: TrainingArguments' per_device_train_batch_size={args.per_device_train_batch_size}, but the job's batch of "
            f"{run.batch_size} samples in {run.sub_tasks} sub-tasks makes {share} on a device at a time; let the two agree"
        )
    if run.sub_tasks % args.gradient_accumulation_steps:
        raise ContractError(
            f"{caller()}: TrainingArguments' gradient_accumulation_steps={args.gradient_accumulation_steps} does not divide the job's "
            f"{run.sub_tasks} sub-tasks; a step is the job's batch, which a trainer accumulates sub-task by sub-task"
        )


def _num_steps(run: Run, trainer: Any) -> int:
    """Return how many optimizer steps the arguments ask for."""
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    samples = float(args.num_train_epochs) * len(trainer.train_dataset)
    return math.ceil(samples / run.batch_size)


def _prepare(model: Any, args: Any) -> None:
    model.train()
    if getattr(model, "config", None) is not None:
        model.config.use_cache = args.use_cache
    if args.activation_checkpointing:
        more = dict(args.activation_checkpointing_kwargs or {})
        own = {"every_n_layers": more.pop("every_n_layers", 1), "offload": more.pop("offload", False)}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=more or None, **own)


class _Training:
    """One Trainer's steps. It holds nothing that changes from step to step."""

    def __init__(self, run: Run, trainer: Any, num_steps: int) -> None:
        self._device, self._trainer, self._args = run.device, trainer, trainer.args
        self._num_steps = num_steps
        self.collate: Callable[[list[Any]], Any] = _collator(trainer)
        # None: shuffled anew in every epoch
        self.sampler = (
            range(len(trainer.train_dataset)) if _is(trainer.args.train_sampling_strategy, "sequential") else None
        )

    def forward(self, step: Step, batch: Any) -> None:
        """Compute a sub-task: its loss and gradients, weighted by its tokens where the model takes a mean over those."""
        batch = _moved(batch, self._device)
        num_items = self._trainer._get_num_items_in_batch([batch], self._device)
        if num_items is not None:
            step.weigh(float(num_items))
            num_items = num_items.clamp(min=1)
        with self._precision():
            loss = self._trainer.compute_loss(self._trainer.model, batch, num_items_in_batch=num_items)
        loss.backward()
        step.log(loss=loss)

    def apply(self, step: Step, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        """Apply the merged gradients, clipped as asked for."""
        import torch

        rate = schedule.get_last_lr()[0]
        if self._args.max_grad_norm and self._args.max_grad_norm > 0:
            step.log(
                grad_norm=torch.nn.utils.clip_grad_norm_(self._trainer.model.parameters(), self._args.max_grad_norm)
            )
        optimizer.step()
        schedule.step()
        step.log(learning_rate=rate)

    def evaluate(self, step: Step) -> None:
        """Evaluate at the steps that the arguments name."""
        if not self._evaluates(step):
            return
        data = self._trainer.eval_dataset
        for name, dataset in data.items() if isinstance(data, dict) else [("", data)]:
            self._evaluate_on(step, dataset, f"eval_{name}_" if name else "eval_")

    def _evaluates(self, step: Step) -> bool:
        strategy, delay = _plain(self._args.eval_strategy), self._args.eval_delay
        if strategy == "steps":
            every = self._args.eval_steps
            every = every if every >= 1 else math.ceil(self._num_steps * every)
            return step.every(int(every)) and step.number + 1 >= delay
        return strategy == "epoch" and step.ends_epoch and step.epoch + 1 >= delay

    def _evaluate_on(self, step: Step, dataset: Any, prefix: str) -> None:
        labels = list(self._trainer.label_names)
        computes = self._trainer.compute_metrics is not None and not self._args.prediction_loss_only
        names = (f"{prefix}predictions", f"{prefix}labels")
        for batch in step.evaluate(dataset, collate=self.collate):
            batch = _moved(batch, self._device)
            given = tuple(batch[name] for name in labels if batch.get(name) is not None)
            num_items = self._trainer._get_num_items_in_batch([batch], self._device)
            with self._precision():
                loss, outputs = self._trainer.compute_loss(
                    self._trainer.model, dict(batch), return_outputs=True, num_items_in_batch=num_items
                )
            step.log(**{f"{prefix}loss": loss})
            if computes:
                step.gather(**dict(zip(names, (self._predictions(outputs, given), given[0]), strict=True)))
        if computes:
            self._log_metrics(step, *(step.gathered[name] for name in names), prefix=prefix)

    def _predictions(self, outputs: Any, labels: tuple[Any, ...]) -> Any:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
        preprocess = self._trainer.preprocess_logits_for_metrics
        logits = logits if preprocess is None else preprocess(logits, labels[0])
        return logits.float() if logits.is_floating_point() else logits

    def _log_metrics(self, step: Step, predictions: Any, labels: Any, *, prefix: str) -> None:
        transformers = library("transformers", "huggingface")
        metrics = self._trainer.compute_metrics(
            transformers.EvalPrediction(predictions=predictions.numpy(), label_ids=labels.numpy())
        )
        step.log(**{name if name.startswith(prefix) else f"{prefix}{name}": value for name, value in metrics.items()})

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._args.bf16 else contextlib.nullcontext()


def _collator(trainer: Any) -> Callable[[list[Any]], Any]:
    """Return the Trainer's collator, without columns that the model does not take where the arguments say so."""
    if not trainer.args.remove_unused_columns:
        return trainer.data_collator  # type: ignore[no-any-return]
    return trainer._get_collator_with_removed_columns(trainer.data_collator)  # type: ignore[no-any-return]


def _moved(value: Any, device: torch.device) -> Any:
    """Return a batch on the device."""
    if hasattr(value, "to") and not isinstance(value, type):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    return value


def _plain(value: Any) -> Any:
    """Return an enum's value, or the value."""
    return getattr(value, "value", value)


def _is(value: Any, word: str) -> bool:
    return bool(_plain(value) == word)
