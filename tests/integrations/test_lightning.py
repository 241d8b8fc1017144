"""A LightningModule under Surefoot: what Lightning would come to, whoever computes it; hooks are called or refused, each by name."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot.integrations import lightning
from surefoot.integrations._lightning_options import HOOKS, OPTIONS
from surefoot.local import LocalResult

from ..engine.kit import points, run_local, run_scripted, same

# Lightning warns of what it takes for slow
pytestmark = pytest.mark.filterwarnings("default")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BY_THREE: dict[str, Any] = {"order": [2, 0, 3, 1], "parts": [[0], [1, 2], [3]]}
DATA = points(40)


class Module(pl.LightningModule):
    def __init__(self, optimize: str = "adamw") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
        self.optimize = optimize

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = F.cross_entropy(self.body(x), y)
        self.log("loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.log_dict(
            {"val_loss": F.cross_entropy(self.body(x), y), "accuracy": (self.body(x).argmax(1) == y).float().mean()}
        )

    def configure_optimizers(self) -> Any:
        if self.optimize == "sgd":
            sgd = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [sgd], [torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5)]
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if self.optimize == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def fitting(
    make: Callable[[], Any], seen: Callable[[Any], None] | None = None, **options: Any
) -> Callable[[Run], None]:
    options = {"max_epochs": 2, **options}

    def train(run: Run) -> None:
        module = make()
        lightning.fit(run, module, DATA, DATA, **options)
        if seen is not None:
            seen(module)

    return train


def trained(make: Callable[[], Any], seen: Callable[[Any], None] | None = None, **options: Any) -> LocalResult:
    """Train in order, and as three trainers would in another: the bits must be the same."""
    whole = run_local(fitting(make, seen, **options), batch_size=8, sub_tasks=4, seed=3)
    assert same(whole, run_scripted(fitting(make, **options), batch_size=8, seed=3, **BY_THREE))
    return whole


@pytest.mark.parametrize("optimize", ["adamw", "sgd", "plateau"])
def test_the_same_bits_with_any_schedule(optimize: str) -> None:
    rates: list[float] = []
    result = trained(
        lambda: Module(optimize), lambda module: rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])
    )
    assert len(result.rows) == 10
    assert [row.result.step for row in result.rows if "val_loss" in row.result.values] == [4, 9]
    assert rates == [pytest.approx({"adamw": 0.0, "sgd": 0.025, "plateau": 1e-4}[optimize])]


@pytest.mark.parametrize(
    "options", [{}, {"gradient_clip_val": 0.1}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}]
)
def test_it_comes_to_what_lightning_comes_to(options: dict[str, Any], tmp_path: Path) -> None:
    """One sub-task a step, whose samples Lightning is given in the same order: up to the order of sums."""
    batches: dict[tuple[int, int], Any] = {}
    found: dict[str, torch.Tensor] = {}

    class Kept(Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            # in the first step another goes before, and the first comes again: the last one is the step's own
            batches[self.current_epoch, batch_idx] = [part.clone() for part in batch]

    def train(run: Run) -> None:
        module = Kept("sgd")
        lightning.fit(run, module, DATA, max_epochs=2, **options)
        found.update({name: tensor.clone() for name, tensor in module.state_dict().items()})

    run_local(train, batch_size=8, sub_tasks=1, seed=3)
    alone = Module("sgd")
    trainer = pl.Trainer(max_epochs=2, limit_train_batches=5, default_root_dir=tmp_path, **QUIET, **options)
    assert len(batches) == 10

    class InTurn:
        epoch = -1

        def __iter__(self) -> Any:
            self.epoch += 1  # when the first is taken: Lightning begins once without
            yield from [batch for (epoch, _), batch in sorted(batches.items()) if epoch == self.epoch]

        def __len__(self) -> int:
            return 5

    trainer.fit(alone, InTurn())
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def test_hooks_see_the_epoch_and_the_step_that_lightning_shows_them(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []

    class Telling(Module):
        def _say(self, hook: str) -> None:
            if (now := (hook, self.current_epoch, self.global_step)) not in said[-1:]:  # the first is computed twice
                said.append(now)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self._say("train")
            return super().training_step(batch, batch_idx)

        def on_train_epoch_start(self) -> None:
            self._say("epoch start")

        def on_validation_epoch_end(self) -> None:
            self._say("validated")

        def on_train_epoch_end(self) -> None:
            self._say("epoch end")

    run_local(fitting(Telling), batch_size=8, sub_tasks=1)
    ours, said = said, []
    loader = torch.utils.data.DataLoader(DATA, batch_size=8)
    pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET).fit(Telling(), loader, loader)
    assert ours == said


def test_bf16_steps_and_validation_by_steps() -> None:
    result = trained(
        Module, max_epochs=None, max_steps=6, precision="bf16-mixed", val_check_interval=3, check_val_every_n_epoch=None
    )
    assert [row.result.step for row in result.rows if "accuracy" in row.result.values] == [2, 5]


# ---- hooks


def all_hooks() -> list[str]:
    """The public methods that a LightningModule has beyond a plain module's."""
    return sorted(
        name
        for name in dir(pl.LightningModule)
        if not name.startswith("_")
        and not hasattr(nn.Module, name)
        and inspect.isfunction(getattr(pl.LightningModule, name))
    )


def test_every_hook_that_is_honoured_is_called() -> None:
    hooks = sorted(HOOKS.honoured - {"forward"})
    called: list[str] = []

    def calling(name: str) -> Any:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return getattr(super(kind, self), name)(*args, **kwargs)

        hook.__signature__ = inspect.signature(getattr(Module, name))  # type: ignore[attr-defined]
        return hook

    kind: Any = type("Calling", (Module,), {name: calling(name) for name in hooks})
    assert lightning.refused_hooks(kind) == []
    run_local(fitting(kind), batch_size=8, sub_tasks=4)
    assert set(called) == set(hooks)
    counts = {name: called.count(name) for name in hooks}
    assert counts["on_train_epoch_start"] == counts["on_train_epoch_end"] == counts["on_validation_epoch_end"] == 2
    assert counts["on_before_optimizer_step"] == counts["lr_scheduler_step"] == 10
    assert counts["training_step"] == counts["on_after_backward"] == 40
    assert called.index("setup") < called.index("configure_optimizers") < called.index("on_fit_start")


def test_every_other_hook_is_harmless_for_a_reason_or_refused() -> None:
    left = [name for name in all_hooks() if name not in HOOKS.honoured]
    assert len(left) > 30
    assert HOOKS.advice.keys() <= set(all_hooks())
    for name in left:
        kind = type("Other", (Module,), {name: lambda self, *args, **kwargs: None})
        assert lightning.refused_hooks(kind) == ([] if name in HOOKS.harmless else [name])


def test_every_option_has_its_place() -> None:
    names = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert names >= OPTIONS.honoured | OPTIONS.harmless.keys() | OPTIONS.advice.keys()
    for name in names:
        found = lightning.refused_options({name: object()})
        assert found == ([] if name in OPTIONS.honoured | OPTIONS.harmless.keys() else [name])
    assert lightning.refused_options({"no_such_option": 1}) == ["no_such_option"]


class ByHand(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Overridden(Module):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None: ...


class Two(Module):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=1.0), torch.optim.SGD(self.parameters(), lr=1.0)]


class NoLoss(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


class Summed(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("loss", 1.0, reduce_fx="sum")


class Asking(Module):
    def on_fit_start(self) -> None:
        print(self.trainer.strategy)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (ByHand, {}, "automatic_optimization = False"),
        (Overridden, {}, "Overridden asks for what Surefoot does not do: optimizer_step (write the loop"),
        (Two, {}, "Two has 2 optimizers"),
        (NoLoss, {}, "training_step returned no loss"),
        (Summed, {}, "reduce_fx='sum'"),
        (Asking, {}, "self.trainer.strategy is not there"),
        (lambda: nn.Linear(1, 1), {}, "was given a Linear"),
        (Module, {"callbacks": [pl.Callback()]}, "callbacks (leave them out: `surefoot submit --best +NAME`"),
        (Module, {"strategy": "fsdp"}, "strategy (Surefoot trains data-parallel)"),
        (Module, {"precision": "16-mixed"}, "precision='16-mixed'"),
        (Module, {"val_check_interval": 0.5}, "val_check_interval=0.5"),
        (Module, {"accumulate_grad_batches": 3}, "accumulate_grad_batches=3"),
        (Module, {"max_epochs": None}, "max_epochs or max_steps"),
    ],
)
def test_what_is_refused(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        run_local(fitting(make, **options), batch_size=8, sub_tasks=4)
    assert words in str(caught.value)
    assert "test_lightning.py:" in str(caught.value)


def test_the_example() -> None:
    spec = importlib.util.spec_from_file_location(
        "example_lightning_digits", EXAMPLES / "lightning_digits" / "train.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {"epochs": 1}
    whole = run_local(module.train, batch_size=64, sub_tasks=4, seed=7, config=config)
    assert same(whole, run_scripted(module.train, batch_size=64, seed=7, config=config, **BY_THREE))
    assert whole.rows[-1].result.values["accuracy"] > 0.3
