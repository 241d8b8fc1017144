"""State in nobody's list, and tracked state that changes inside the inner loop: found within the first two steps, by name and line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR, AveragedModel

from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.local_run.coordinator import LocalCoordinator

from .kit import Net, points, run_local

Train = Callable[[Run], None]
DATA = points()
FILE = "test_untracked.py:"


def refused(train: Train, *words: str, steps: int = 2) -> None:
    """Refused within the first two steps, in these words."""
    coordinator = LocalCoordinator(4)
    with pytest.raises(ContractError) as caught:
        run_training(train, RunOptions(batch_size=8, sub_tasks=4), coordinator)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(coordinator.rows) < steps


def accepted(train: Train) -> None:
    run_local(train, batch_size=8, sub_tasks=4)


class Ema:
    """As many write it: an object of one's own, with state_dict."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = {n: p.detach().clone() for n, p in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            self.shadow[name] = 0.9 * self.shadow[name] + 0.1 * p.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = state["shadow"]


class Warmup:
    """A scheduler that is none of torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.num_steps = optimizer, 0

    def step(self) -> None:
        self.num_steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 * self.num_steps

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]


class Stepless(LRScheduler):
    """Of torch's kind, with a step of its own that never calls the base's."""

    def step(self, epoch: Any = None) -> None:
        self.last_epoch += 1

    def get_lr(self) -> list[Any]:
        return [g["lr"] for g in self.optimizer.param_groups]


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: LambdaLR(o, lambda n: 0.9**n),
    "one_cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=10),
    "plateau": lambda o: ReduceLROnPlateau(o),
    "warm_restarts": lambda o: CosineAnnealingWarmRestarts(o, 4),
    "sequential": lambda o: SequentialLR(o, [StepLR(o, 1), StepLR(o, 2)], [3]),
    "swa": lambda o: SWALR(o, swa_lr=0.01),
    "own": Stepless,
}


def loop(
    run: Run,
    after: Callable[..., None],
    *,
    inside: Callable[..., None] = lambda **_: None,
    model: nn.Module | None = None,
    num_steps: int = 3,
    **objects: Callable[[Any, Any], Any],
) -> None:
    """Train; `objects` are built of model and optimizer, tracked where their names do not begin with an underscore."""
    model = Net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    built = {name: build(model, optimizer) for name, build in objects.items()}
    run.track(model=model, optimizer=optimizer, **{k: v for k, v in built.items() if not k.startswith("_")})
    for step in run.steps(num_steps):
        for x, y in step.batches(DATA):
            F.cross_entropy(model(x), y).backward()
            inside(step=step, model=model, optimizer=optimizer, **built)
        optimizer.step()
        after(step=step, model=model, optimizer=optimizer, **built)


# ---- what is stepped outside the inner loop


@pytest.mark.parametrize("name", SCHEDULERS)
def test_untracked_scheduler(name: str) -> None:
    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = SCHEDULERS[name](optimizer)
        run.track(model=model, optimizer=optimizer, **({"schedule": schedule} if run.config else {}))
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()
            schedule.step(*([step.merged["loss"]] if name == "plateau" else []))

    kind = type(SCHEDULERS[name](torch.optim.SGD([torch.zeros(1)], lr=0.1))).__name__
    refused(
        train, f"schedule ({kind}) is not tracked", f"step() at {FILE}", "run.track(schedule=schedule, ...)", steps=1
    )
    run_local(train, batch_size=8, sub_tasks=4, config={"track": True})


def test_untracked_optimizer() -> None:
    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model)
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    refused(train, "optimizer (SGD) is not tracked", f"{FILE}", "run.track(optimizer=optimizer, ...)", steps=1)


def test_untracked_optimizer_of_parameters_of_its_own() -> None:
    def train(run: Run) -> None:
        extra = torch.zeros(3, requires_grad=True)
        other = torch.optim.SGD([extra], lr=0.1)

        def after(**_: Any) -> None:
            extra.grad = torch.ones(3)
            other.step()

        loop(run, after)

    refused(train, "other (SGD) is not tracked")


def test_untracked_scaler_and_average() -> None:
    def scaled(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=not run.config)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            for x, y in step.batches(DATA):
                scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()

    def averaged(run: Run) -> None:
        loop(
            run, lambda model, _average, **_: _average.update_parameters(model), _average=lambda m, o: AveragedModel(m)
        )

    refused(scaled, "scaler (GradScaler) is not tracked", f"step() at {FILE}", steps=1)
    run_local(scaled, batch_size=8, sub_tasks=4, config={"disabled": True})
    refused(averaged, "_average (AveragedModel) is not tracked", f"update_parameters() at {FILE}", steps=1)


def test_objects_of_ones_own() -> None:
    def averaged(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ema = Ema(model)
        run.track(model=model, optimizer=optimizer, **({"ema": ema} if run.config else {}))
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            ema.update(model)

    def scheduled(run: Run) -> None:
        loop(run, lambda _warmup, **_: _warmup.step(), _warmup=lambda m, o: Warmup(o))

    def tracked(run: Run) -> None:
        loop(run, lambda warmup, **_: warmup.step(), warmup=lambda m, o: Warmup(o))

    refused(averaged, "ema (Ema) is not tracked", FILE, "run.track(ema=ema, ...)")
    run_local(averaged, batch_size=8, sub_tasks=4, config={"track": True})
    refused(scheduled, "(Warmup) is not tracked")
    accepted(tracked)


def test_a_teacher_that_follows_the_model() -> None:
    def train(run: Run) -> None:
        model = Net()
        teacher = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer, **({"teacher": teacher} if run.config.get("track") else {}))
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                (F.cross_entropy(model(x), y) + (model(x) - teacher(x)).pow(2).mean()).backward()
            optimizer.step()
            if not run.config.get("fixed"):
                for p, q in zip(teacher.parameters(), model.parameters(), strict=True):
                    p.data.mul_(0.9).add_(q.data, alpha=0.1)

    refused(train, "teacher (Net) is not tracked", "run.track(teacher=teacher, ...)")
    run_local(train, batch_size=8, sub_tasks=4, config={"track": True})


def test_a_fixed_teacher_and_metrics_are_in_order() -> None:
    def train(run: Run) -> None:
        teacher = nn.Linear(16, 2).eval().requires_grad_(False)
        seen = {"batches": 0, "losses": []}
        model = nn.Linear(16, 2)
        compiled = nn.Sequential(model)  # another module, but of tracked parameters
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            for x, _ in step.batches(DATA):
                loss = (compiled(x) - teacher(x)).pow(2).mean()
                loss.backward()
                seen["batches"] += 1  # type: ignore[operator]
                seen["losses"].append(loss.item())  # type: ignore[attr-defined]
            optimizer.step()

    accepted(train)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.Generator().manual_seed(1),
        lambda: np.random.default_rng(1),
        lambda: np.random.RandomState(1),
        lambda: random.Random(1),
    ],
    ids=["torch", "numpy", "numpy_legacy", "random"],
)
def test_generators_of_ones_own(make: Callable[[], Any]) -> None:
    def draw(generator: Any) -> None:
        if isinstance(generator, torch.Generator):
            torch.rand(3, generator=generator)
        else:
            generator.random()

    def carried(run: Run) -> None:
        loop(run, lambda **_: None, inside=lambda _mine, **_: draw(_mine), _mine=lambda m, o: make())

    def by_the_loop(run: Run) -> None:
        loop(run, lambda _mine, **_: draw(_mine), _mine=lambda m, o: make())

    def anew(run: Run) -> None:
        loop(run, lambda **_: draw(make()))

    refused(carried, f"({type(make()).__name__}) is carried on from step to step", "seeded by step.number")
    accepted(anew)
    accepted(by_the_loop)  # joiners are given it


def test_a_generator_seeded_at_every_step_is_in_order() -> None:
    def train(run: Run) -> None:
        mine = torch.Generator()

        def after(step: Any, **_: Any) -> None:
            torch.rand(3, generator=mine.manual_seed(step.number))

        loop(run, after, _mine=lambda m, o: mine)

    accepted(train)


def test_loose_tensors_are_told() -> None:
    told: list[str] = []

    def train(run: Run) -> None:
        centre = torch.zeros(2)
        shadow: dict[str, torch.Tensor] = {}
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            centre.mul_(0.9).add_(model.bias.detach())
            shadow["w"] = model.weight.detach().clone()
            rebound = model.bias.detach().clone()
            assert rebound is not None

    run_training(train, RunOptions(batch_size=8, sub_tasks=4, on_warning=told.append), LocalCoordinator(4))
    assert len(told) == 2
    assert all("not tracked, changes from step to step" in t and FILE in t for t in told)
    assert sorted(t.partition(",")[0] for t in told) == ["centre", "shadow['w']"]


def test_a_generator_that_goes_on_late_is_told_once_and_no_error() -> None:
    """It may only serve what is shown; in the first two steps it is refused (tests/programs)."""
    told: list[str] = []

    def train(run: Run) -> None:
        colors = (color for _ in range(9) for color in ("red", "green"))
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(10):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step.number > 2:
                next(colors)

    run_training(train, RunOptions(batch_size=8, sub_tasks=4, on_warning=told.append), LocalCoordinator(4))
    [words] = told
    assert "colors is a generator or another iterator" in words
    assert FILE in words


# ---- wrappers


class Lookahead:
    """Keeps the optimizer that it wraps in its own state."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def step(self) -> None:
        self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])


class Sharp(torch.optim.Optimizer):
    """Wraps an optimizer of the same parameters."""

    def __init__(self, parameters: Any, base: type[torch.optim.Optimizer], **how: Any) -> None:
        super().__init__(parameters, how)
        self.base = base(self.param_groups, **how)

    def step(self, closure: Any = None) -> None:
        self.base.step()


def test_optimizers_inside_others() -> None:
    def lookahead(run: Run) -> None:
        model = Net()
        wrapper = Lookahead(torch.optim.Adam(model.parameters(), lr=0.1))
        run.track(model=model, wrapper=wrapper)
        for step in run.steps(2):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            wrapper.step()

    def sharp(run: Run) -> None:
        model = Net()
        optimizer = Sharp(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    accepted(lookahead)
    accepted(sharp)


# ---- inside the inner loop


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedule_in_the_inner_loop(name: str) -> None:
    def train(run: Run) -> None:
        metric = [1.0] if name == "plateau" else []
        loop(
            run,
            lambda **_: None,
            inside=lambda schedule, **_: schedule.step(*metric),
            schedule=lambda m, o: SCHEDULERS[name](o),
        )

    refused(train, f"schedule.step() at {FILE}", f"inside the inner loop at {FILE}", "move it after the loop", steps=1)


def test_average_and_scaler_in_the_inner_loop() -> None:
    def averaged(run: Run) -> None:
        loop(
            run,
            lambda **_: None,
            inside=lambda model, average, **_: average.update_parameters(model),
            average=lambda m, o: AveragedModel(m),
        )

    def scaled(run: Run) -> None:
        loop(run, lambda **_: None, inside=lambda s, **_: s.update(1.0), s=lambda m, o: torch.amp.GradScaler("cpu"))

    refused(averaged, f"average.update_parameters() at {FILE}", f"inside the inner loop at {FILE}", steps=1)
    refused(scaled, f"s.update() at {FILE}", f"inside the inner loop at {FILE}", steps=1)


def set_rate(optimizer: Any, **_: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 0.9


def set_decay(optimizer: Any, **_: Any) -> None:
    optimizer.param_groups[0]["weight_decay"] += 0.1


def clamp(model: nn.Module, **_: Any) -> None:
    for p in model.parameters():
        p.data.clamp_(-0.01, 0.01)


def evaluate(model: nn.Module, **_: Any) -> None:
    model.eval()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_rate, "a learning rate changed inside"),
        (set_decay, "optimizer's values changed inside"),
        (clamp, "model.body.0.weight changed inside"),
        (evaluate, "model's training flags changed inside"),
        (lambda warmup, **_: warmup.step(), "a learning rate changed inside"),
        (lambda model, ema, **_: ema.update(model), "changed inside"),
    ],
)
def test_tracked_state_changed_by_hand_in_the_inner_loop(change: Callable[..., None], words: str) -> None:
    def train(run: Run) -> None:
        loop(run, lambda **_: None, inside=change, warmup=lambda m, o: Warmup(o), ema=lambda m, o: Ema(m))

    refused(train, words, f"the inner loop at {FILE}", steps=1)


def test_a_rate_set_in_the_inner_loop_late_in_training() -> None:
    def inside(step: Any, optimizer: Any, **_: Any) -> None:
        if step.number == 4:
            set_rate(optimizer)

    refused(
        lambda run: loop(run, lambda **_: None, inside=inside, num_steps=6), "a learning rate changed inside", steps=5
    )


def test_parameters_changed_in_the_inner_loop_late_in_training() -> None:
    def inside(step: Any, model: Any, **_: Any) -> None:
        if step.number >= 3:
            with torch.no_grad():
                model.body[4].bias.add_(1.0)

    refused(
        lambda run: loop(run, lambda **_: None, inside=inside, num_steps=9), "model.body.4.bias changed inside", steps=9
    )


def test_embedding_that_renormalizes_when_it_is_looked_up() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 16, max_norm=0.5)
            self.out = nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.out(self.table(x[:, :4].abs().mul(10).long().clamp(max=49)).mean(1))

    refused(lambda run: loop(run, lambda **_: None, model=Words()), "model.table.weight", "max_norm=0.5", steps=1)


def test_what_a_sub_task_makes_for_itself_is_its_own() -> None:
    """An attack with an optimizer, a copy of the model that is trained, weights that are moved and put back."""

    def inside(model: Any, **_: Any) -> None:
        delta = torch.zeros(16, requires_grad=True)
        attack = torch.optim.Adam([delta], lr=0.1)
        decay = StepLR(attack, 1)
        fast = copy.deepcopy(model)
        inner = torch.optim.SGD(fast.parameters(), lr=0.1)
        average = AveragedModel(fast)
        for _ in range(2):
            (grad,) = torch.autograd.grad(fast(DATA[:4][0] + delta).sum(), delta, retain_graph=True)
            delta.grad = grad
            attack.step()
            decay.step()
            for p in fast.parameters():
                p.grad = torch.ones_like(p)
            inner.step()
            average.update_parameters(fast)
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p, k in zip(model.parameters(), kept, strict=True):
                p.add_(0.1)
                p.copy_(k)

    accepted(lambda run: loop(run, lambda **_: None, inside=inside, num_steps=4))


def test_what_is_carried_from_sub_task_to_sub_task() -> None:
    def train(run: Run) -> None:
        delta = torch.zeros(16, requires_grad=True)
        attack = torch.optim.Adam([delta], lr=0.1)

        def inside(**_: Any) -> None:
            delta.grad = torch.ones(16)
            attack.step()

        loop(run, lambda **_: None, inside=inside)

    refused(train, "attack (Adam) is not tracked", steps=1)


# ---- torch is left as it was


def test_classes_are_as_before_and_other_threads_are_not_heard() -> None:
    before = (LRScheduler.step, nn.Module.zero_grad, torch.optim.Optimizer.zero_grad, torch.set_num_threads)
    model = nn.Linear(2, 2)
    stray = StepLR(torch.optim.SGD(model.parameters(), lr=0.1), 1)
    other = ThreadPoolExecutor(1)

    def elsewhere() -> None:
        stray.optimizer.step()
        stray.step()

    def after(**_: Any) -> None:
        assert LRScheduler.step is not before[0]
        other.submit(elsewhere).result()

    accepted(lambda run: loop(run, after))
    other.shutdown()
    assert before == (LRScheduler.step, nn.Module.zero_grad, torch.optim.Optimizer.zero_grad, torch.set_num_threads)
    with pytest.raises(KeyError):
        run_local(lambda run: loop(run, lambda **_: {}["missing"]), batch_size=8, sub_tasks=4)
    assert before[0] is LRScheduler.step
