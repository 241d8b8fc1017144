"""No merge is dropped unseen, and nothing but the merge decides what an optimizer sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from surefoot.contract import Run
from surefoot.errors import ContractError

from .kit import LocalResult, Net, points, results, run_local, run_scripted

Train = Callable[[Run], None]

ONE = points()
TWO = points(seed=2)
FILE = "test_gradients.py:"


def refused(train: Train, *words: str) -> None:
    with pytest.raises(ContractError) as caught:
        run_local(train, batch_size=8, sub_tasks=4)
    for word in words:
        assert word in str(caught.value), str(caught.value)


class Loop:
    """A train function out of pieces: what is done before, between and after a step's inner loops."""

    def __init__(self, run: Run) -> None:
        self.model = Net()
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        run.track(model=self.model, optimizer=self.optimizer)

    def round(self, step: Any, data: Any = ONE, **how: Any) -> None:
        for x, y in step.batches(data, **how):
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
        self.loss = loss


# ---- merges that would be dropped


def test_two_loops_before_one_step() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(2):
            loop.round(step)
            loop.round(step)
            loop.optimizer.step()

    refused(train, f"the inner loop at {FILE}", "would overwrite", "accumulate=True", "step.discard_gradients()")


def test_a_step_every_second_step() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(4):
            loop.round(step)
            if step.every(2):
                loop.optimizer.step()
                loop.optimizer.zero_grad()

    refused(train, "would overwrite the gradients that the inner loop at", "accumulate=True")


@pytest.mark.parametrize("how", ["none", "zeros", "module", "zeros_module"])
def test_zero_grad_between_the_loop_and_the_step(how: str) -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(1):
            loop.round(step)
            owner: Any = loop.model if "module" in how else loop.optimizer
            owner.zero_grad(set_to_none="zeros" not in how)
            loop.optimizer.step()

    refused(train, f"zero_grad() at {FILE}", "clears the gradients that the inner loop at", "after optimizer.step()")


def test_gradients_cleared_by_hand_before_the_step() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(1):
            loop.round(step)
            for p in loop.model.parameters():
                p.grad = None
            loop.optimizer.step()

    refused(train, f"optimizer.step() at {FILE}", "finds no gradients", "were cleared in between")


def test_gradients_cleared_by_hand_and_no_step() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(2):
            loop.round(step)
            for p in loop.model.parameters():
                p.grad = None

    refused(train, "were cleared, and no optimizer has used them", "step.discard_gradients()")


def test_an_optimizer_that_lets_a_step_pass_while_another_steps() -> None:
    def train(run: Run) -> None:
        model = Net()
        body, head = model.body[:4], model.body[4]
        one = torch.optim.SGD(body.parameters(), lr=0.1)
        two = torch.optim.SGD(head.parameters(), lr=0.1)
        run.track(model=model, one=one, two=two)
        for step in run.steps(4):
            for x, y in step.batches(ONE):
                F.cross_entropy(model(x), y).backward()
            one.step()
            if step.every(2):
                two.step()
            elif run.config.get("clear"):
                two.zero_grad()

    refused(train, "delivered for two, which has not stepped", "two.zero_grad()", "accumulate=True")
    run_local(train, batch_size=8, sub_tasks=4, config={"clear": True})


# ---- what is allowed


def test_usual_places_of_zero_grad() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(3):
            loop.optimizer.zero_grad()
            for x, y in step.batches(ONE):
                loop.optimizer.zero_grad()
                F.cross_entropy(loop.model(x), y).backward()
            loop.optimizer.step()
            loop.model.zero_grad(set_to_none=False)

    run_local(train, batch_size=8, sub_tasks=4)


def test_gan_whose_critic_gets_gradients_that_nobody_uses() -> None:
    def train(run: Run) -> None:
        generator, critic = nn.Linear(4, 16), nn.Linear(16, 1)
        g = torch.optim.Adam(generator.parameters(), lr=1e-2)
        c = torch.optim.Adam(critic.parameters(), lr=1e-2)
        run.track(generator=generator, critic=critic, g=g, c=c)
        for step in run.steps(3):
            if run.config["clear"]:
                c.zero_grad()
            for x, _ in step.batches(ONE):
                (critic(generator(torch.randn(len(x), 4)).detach()).mean() - critic(x).mean()).backward()
            c.step()
            if run.config["clear"]:
                g.zero_grad()
            for x, _ in step.batches(ONE):
                (-critic(generator(torch.randn(len(x), 4)))).mean().backward()
            g.step()

    both = [run_local(train, batch_size=8, sub_tasks=4, config={"clear": clear}) for clear in (True, False)]
    assert both[0].digest == both[1].digest


def test_gradients_used_by_hand() -> None:
    """Sharpness-aware minimization: the first merge moves the parameters, the second is stepped with."""

    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(2):
            loop.round(step)
            with torch.no_grad():
                moves = [0.05 * p.grad for p in loop.model.parameters() if p.grad is not None]
                torch._foreach_add_(list(loop.model.parameters()), moves)
            loop.optimizer.zero_grad()
            loop.round(step)
            torch._foreach_sub_([p.detach() for p in loop.model.parameters()], moves)
            loop.optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4)


def test_merges_read_by_hand_and_bad_steps_are_discarded_by_name() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(3):
            loop.round(step)
            if step.number == 1 or math.isnan(step.number):
                step.discard_gradients()
                assert all(p.grad is None for p in loop.model.parameters())
                continue
            loop.optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4)


def test_discarding_inside_the_loop() -> None:
    def train(run: Run) -> None:
        Loop(run)
        for step in run.steps(1):
            for _ in step.batches(ONE):
                step.discard_gradients()

    refused(train, f"step.discard_gradients() is called at {FILE}", "has not ended")


def test_a_scaler_that_skips_has_used_the_gradients() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        run.track(model=model, optimizer=optimizer, scaler=scaler)
        for step in run.steps(4):
            for x, y in step.batches(ONE):
                scaler.scale(1e6 * F.cross_entropy(model(x), y)).backward()
            before = model.weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            if step.number == 0:
                assert torch.equal(model.weight, before)
            optimizer.zero_grad()

    run_local(train, batch_size=8, sub_tasks=4)


def test_a_step_twice_and_gradients_set_by_hand() -> None:
    def train(run: Run) -> None:
        loop = Loop(run)
        for step in run.steps(3):
            loop.round(step)
            (1e-3 * sum(p.pow(2).sum() for p in loop.model.parameters())).backward()
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.5)
            for p in loop.model.parameters():
                p.grad = p.grad + 1e-3 * torch.randn_like(p)
            loop.optimizer.step()
            loop.optimizer.step()

    keeps_the_promise(train)


# ---- accumulation


def keeps_the_promise(train: Train, tmp_path: Path | None = None, num_steps: int = 6) -> LocalResult:
    """The same bits in any order and parts, and from a checkpoint of any step."""
    reference = run_local(train, batch_size=56, sub_tasks=7)
    orders: Sequence[tuple[list[int], list[Any]]] = (
        ([6, 0, 5, 1, 4, 2, 3], [range(7)]),
        ([3, 2, 1, 0, 6, 5, 4], [[0, 5, 6], [1, 2], [3, 4]]),
    )
    for order, parts in orders:
        other = run_scripted(train, order=order, parts=parts, batch_size=56)
        assert results(other) == results(reference)
        assert other.digest == reference.digest
    for cut in range(1, num_steps) if tmp_path is not None else ():
        place = str(tmp_path / str(cut))
        with pytest.raises(InterruptedError):
            run_local(stopping(train, cut), batch_size=56, sub_tasks=7, checkpoint=place, checkpoint_every=1)
        resumed = run_local(train, batch_size=56, sub_tasks=7, restore=place)
        assert resumed.digest == reference.digest, cut
        assert results(resumed) == results(reference), cut
    return reference


def stopping(train: Train, at: int) -> Train:
    """Return the train function, interrupted before step `at`."""

    def stopped(run: Run) -> None:
        steps = run.steps

        def until(num_steps: int) -> Any:
            for step in steps(num_steps):
                if step.number == at:
                    raise InterruptedError
                yield step

        run.steps = until  # type: ignore[method-assign]
        train(run)

    stopped.__module__, stopped.__qualname__ = train.__module__, train.__qualname__
    return stopped


def over_steps(run: Run) -> None:
    """The optimizer steps every third step, and a layer is frozen and thawed in between."""
    loop = Loop(run)
    frozen = loop.model.body[0]
    for step in run.steps(6):
        frozen.requires_grad_(step.number not in (1, 2))
        loop.round(step, accumulate=True)
        step_now = step.every(3)
        if step_now:
            nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)
            loop.optimizer.step()
            loop.optimizer.zero_grad()


def over_loops(run: Run) -> None:
    """Two loops a step, of different weights, in bfloat16; never cleared by name."""
    model = nn.Linear(16, 2).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(6):
        for x, y in step.batches(ONE):
            step.weigh(int(y.sum()) + 1)
            F.cross_entropy(model(x.bfloat16()), y).backward()
        for x, y in step.batches(TWO, accumulate=True):
            F.cross_entropy(model(x.bfloat16()), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def never_cleared(run: Run) -> None:
    """As plain PyTorch would: without zero_grad gradients add up for ever."""
    loop = Loop(run)
    for step in run.steps(6):
        loop.round(step, accumulate=True)
        loop.optimizer.step()


def at_different_paces(run: Run) -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2))
    one = torch.optim.SGD(model[0].parameters(), lr=0.1)
    two = torch.optim.SGD(model[1].parameters(), lr=0.1)
    run.track(model=model, one=one, two=two)
    for step in run.steps(6):
        for x, y in step.batches(ONE, accumulate=True):
            F.cross_entropy(model(x), y).backward()
        one.step()
        one.zero_grad()
        if step.every(4):
            two.step()
            two.zero_grad()


def unused_then_accumulated(run: Run) -> None:
    """The first merge of a pair comes without the word: it is state all the same."""
    loop = Loop(run)
    for step in run.steps(6):
        loop.round(step, accumulate=step.number % 2 == 1)
        if step.every(2):
            loop.optimizer.step()
            loop.optimizer.zero_grad()


def frozen_without_zero_grad(run: Run) -> None:
    loop = Loop(run)
    for step in run.steps(6):
        if step.number in (1, 4):
            loop.model.body[0].requires_grad_(step.number == 4)
        loop.round(step)
        loop.optimizer.step()


def reads_old_gradients(run: Run) -> None:
    """Code at a step's begin finds no gradient of the step before, as a joiner would not."""
    loop = Loop(run)
    for step in run.steps(6):
        for p in loop.model.parameters():
            if p.grad is not None:
                p.data.add_(p.grad)
        loop.round(step)
        loop.optimizer.step()


@pytest.mark.parametrize(
    "train",
    [
        over_steps,
        over_loops,
        never_cleared,
        at_different_paces,
        unused_then_accumulated,
        frozen_without_zero_grad,
        reads_old_gradients,
    ],
)
def test_gradients_are_the_same_everywhere_and_after_a_restore(train: Train, tmp_path: Path) -> None:
    keeps_the_promise(train, tmp_path)


def test_accumulated_gradients_are_the_sum_of_the_merges() -> None:
    found: dict[str, Any] = {}

    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(1):
            grads = []
            for data in (ONE, TWO):
                for x, y in step.batches(data, accumulate=run.config["sum"]):
                    F.cross_entropy(model(x), y).backward()
                grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
                if not run.config["sum"]:
                    step.discard_gradients()
            found[str(run.config["sum"])] = grads

    for accumulate in (True, False):
        run_local(train, batch_size=56, sub_tasks=7, config={"sum": accumulate})
    ones, twos = found["False"]
    assert all(torch.equal(s, a + b) for s, a, b in zip(found["True"][1], ones, twos, strict=True))


# ---- layout and alignment


class Odd(torch.autograd.Function):
    """Gives gradients that are views: at odd addresses, expanded, transposed, and of one memory."""

    @staticmethod
    def forward(ctx: Any, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.shapes = [p.shape for p in parameters]
        return sum(p.sum() for p in parameters)  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        memory = torch.arange(1.0, 100.0)
        a, b, c, d = ctx.shapes
        return (
            memory[1 : 1 + a.numel()].view(a),
            memory[0].expand(b),
            memory[: c.numel()].view(c[::-1]).t(),
            memory[16 : 16 + d.numel()].view(d),
        )


@pytest.mark.parametrize("sub_tasks", [1, 4])
def test_gradients_have_one_alignment_and_the_parameters_strides(sub_tasks: int) -> None:
    def train(run: Run) -> None:
        weights = nn.ParameterList([torch.zeros(5), torch.zeros(3), torch.zeros(3, 4), torch.zeros(7)])
        optimizer = torch.optim.SGD(weights.parameters(), lr=1.0)
        run.track(weights=weights, optimizer=optimizer)
        for step in run.steps(2):
            for _ in step.batches(ONE):
                Odd.apply(*weights).backward()
            memory = set()
            for weight in weights:
                grad = weight.grad
                assert grad is not None
                assert grad.data_ptr() % 64 == 0
                assert grad.stride() == weight.stride()
                assert grad.storage_offset() == 0
                memory.add(grad.untyped_storage().data_ptr())
            assert len(memory) == 4
            assert weights[0].grad.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]  # type: ignore[union-attr]
            optimizer.step()

    run_local(train, batch_size=8, sub_tasks=sub_tasks)


def test_gradients_of_a_graph_are_handed_out_as_plain_tensors() -> None:
    def train(run: Run) -> None:
        weight = nn.Parameter(torch.ones(64))
        optimizer = torch.optim.SGD([weight], lr=1e-3)
        run.track(optimizer=optimizer)
        data = TensorDataset(torch.arange(64.0))
        for step in run.steps(2):
            for (x,) in step.batches(data):
                (weight.grad,) = torch.autograd.grad(weight.pow(3).sum() * x.sum(), weight, create_graph=True)
            assert weight.grad is not None
            assert not weight.grad.requires_grad
            optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4)
