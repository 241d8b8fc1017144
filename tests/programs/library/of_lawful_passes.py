"""Programs that obey the contract and look like ones that do not: passes, hooks and conversions that rules about those must let be."""

import copy

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, program
from practice import begun, inner
from torch import nn

import surefoot


@program(steps=4)
def penalty_by_keywords(run: surefoot.Run) -> None:
    """WGAN-GP's penalty in the words of the paper's code: every argument by its name."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            x = x.clone().requires_grad_()
            out = model(x)
            gradient = torch.autograd.grad(
                outputs=out, inputs=x, grad_outputs=torch.ones_like(out), create_graph=True, retain_graph=True
            )[0]
            loss = F.cross_entropy(out, y) + ((gradient.norm(2, dim=1) - 1) ** 2).mean()
            torch.autograd.backward(tensors=loss)
            step.log(loss=loss)
        optimizer.step()


def _compiled(name, whole):
    def train(run: surefoot.Run) -> None:
        model, optimizer = begun(run)

        @torch.compile(backend="eager", fullgraph=whole)
        def penalty(x):
            (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            return gradient.pow(2).mean()

        # without this, torch itself compiles what is before the pass and what is after it
        with torch._dynamo.config.patch(trace_autograd_ops=whole):
            for step in run.steps(run.config["steps"]):
                for x, y in step.batches(POINTS):
                    loss = F.cross_entropy(model(x), y) + penalty(x.clone().requires_grad_())
                    loss.backward()
                    step.log(loss=loss)
                optimizer.step()

    train.__name__ = train.__qualname__ = name
    program(steps=4)(train)


_compiled("penalty_that_is_compiled", False)
_compiled("penalty_that_is_compiled_whole", True)


@program(steps=4)
def fitted_between_the_rounds(run: surefoot.Run) -> None:
    """A round that only logs; then a threshold is fitted to what it says, which has nothing to do with the model."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            with torch.no_grad():
                step.log(mean=model(x).mean())
        threshold = torch.zeros(3, requires_grad=True)
        for _ in range(2):
            (threshold - step.merged["mean"]).pow(2).sum().backward()
            threshold = (threshold - 0.1 * threshold.grad).detach().requires_grad_()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x) - threshold.detach(), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=4)
def saliency_between_the_rounds(run: surefoot.Run) -> None:
    """A round that only logs; then what a batch of its own says of the input, for a log."""
    model, optimizer = begun(run)
    probe = torch.ones(2, 8)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        for x, _ in step.batches(POINTS):
            with torch.no_grad():
                step.log(mean=model(x).mean())
        x = probe.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        step.log(saliency=gradient.norm())


class Equilibrium(nn.Module):
    """A deep equilibrium layer: its gradient is solved for in a hook of its output, which takes the hook before away."""

    def __init__(self):
        super().__init__()
        self.body, self.given, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.hook = None

    def forward(self, x):
        def f(z):
            return torch.tanh(0.3 * self.body(z) + given)

        given = self.given(x)
        with torch.no_grad():
            z = torch.zeros_like(given)
            for _ in range(5):
                z = f(z)
        z = f(z)
        at = z.clone().detach().requires_grad_()
        once = f(at)

        def solve(gradient):
            self.hook.remove()
            solved = gradient
            for _ in range(3):
                solved = (
                    torch.autograd.grad(outputs=once, inputs=at, grad_outputs=solved, retain_graph=True)[0] + gradient
                )
            return solved

        if z.requires_grad:
            self.hook = z.register_hook(solve)
        return self.head(z)


@program(steps=4)
def equilibrium_by_hooks(run: surefoot.Run) -> None:
    model, optimizer = begun(run, Equilibrium())
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(steps=4)
def maps_of_activations(run: surefoot.Run) -> None:
    """Grad-CAM while evaluating: hooks both ways, a backward pass with the gradients switched on, and all of it taken back."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        kept = {}
        forward = model[0].register_forward_hook(lambda m, args, out, kept=kept: kept.update(out=out))
        backward = model[0].register_full_backward_hook(lambda m, i, o, kept=kept: kept.update(gradient=o[0]))
        for x, _ in step.evaluate(POINTS):
            with torch.enable_grad():
                model(x.clone().requires_grad_()).max(1).values.sum().backward()
            step.log(map=(kept["out"] * kept["gradient"]).sum())
            model.zero_grad()
        forward.remove()
        backward.remove()


@program(steps=4)
def converted_and_back(run: surefoot.Run) -> None:
    """Copies in other numbers, conversions that change nothing, and one that is taken back."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        model.train().to(run.device).float().requires_grad_(True)
        inner(model, step)
        optimizer.step()
        half = copy.deepcopy(model).bfloat16().eval().requires_grad_(False)
        for x, _ in step.evaluate(POINTS):
            step.log(half=half(x.bfloat16()).float().mean())
        model.double()
        model.float()


@program(steps=4)
def penalty_kept_for_the_round(run: surefoot.Run) -> None:
    """What depends on the weights alone is computed before the inner loop, and its graph kept; the curvature after the step."""
    model, optimizer = begun(run)
    xs, ys = POINTS[:8]
    for step in run.steps(run.config["steps"]):
        penalty = sum(p.pow(2).sum() for p in model.parameters())
        for x, y in step.batches(POINTS):
            hidden = torch.utils.checkpoint.checkpoint(model[:2], x.clone().requires_grad_(), use_reentrant=True)
            loss = F.cross_entropy(model[2](hidden), y) + 0.01 * penalty
            loss.backward(retain_graph=True)
            step.log(loss=loss)
        optimizer.step()
        weights = list(model.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(model(xs), ys), weights, create_graph=True)
        drawn = [torch.randn_like(w) for w in weights]
        products = torch.autograd.grad(outputs=gradients, inputs=weights, grad_outputs=drawn)
        step.log(trace=sum((p * d).sum() for p, d in zip(products, drawn, strict=True)))
