"""Models and optimizers whose structure, or whose set of trained parameters, changes while training."""

import torch
import torch.nn.functional as F
from kinds import IMAGES, POINTS, fit, mlp, program
from torch import nn
from torch.nn.utils import prune

import surefoot


@program(steps=8)
def frozen_without_zero_grad(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def before(step):
        if step.number == 3:
            model[0].weight.requires_grad_(False)
            model[2].bias.requires_grad_(False)

    fit(run, model, optimizer, before=before)


@program(steps=9)
def frozen_and_unfrozen(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def before(step):
        for p in model[0].parameters():
            p.requires_grad_(step.number // 3 % 2 == 0)

    fit(run, model, optimizer, before=before)


@program(steps=8)
def frozen_after_the_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.02, momentum=0.5)

    def after(step):
        if step.number == 3:
            model[0].requires_grad_(False)

    fit(run, model, optimizer, after=after)


@program(steps=8)
def frozen_between_loop_and_step(run: surefoot.Run) -> None:
    """Frozen when its gradient has been merged, before the step that applies it."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        if step.number == 3:
            model[0].requires_grad_(False)
        optimizer.step()


@program(steps=8)
def gradients_cleared_in_every_habit(run: surefoot.Run) -> None:
    """zero_grad before the loop, to None and to zeros by turns."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def before(step):
        optimizer.zero_grad(set_to_none=step.number % 2 == 0)

    fit(run, model, optimizer, before=before)


@program(steps=8)
def frozen_with_zeroed_gradient(run: surefoot.Run) -> None:
    """zero_grad(set_to_none=False) leaves zeros, which momentum and decay go on applying."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def before(step):
        if step.number == 3:
            model[0].requires_grad_(False)
        optimizer.zero_grad(set_to_none=False)

    fit(run, model, optimizer, before=before)


@program(steps=8)
def gradients_set_by_hand(run: surefoot.Run) -> None:
    """Code changes .grad after the loop: clipping by value, noise, and one set to None."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        for p in model.parameters():
            p.grad.add_(torch.randn_like(p), alpha=0.01)
        if step.number % 3 == 2:
            model[0].bias.grad = None
        optimizer.step()


@program(steps=8)
def group_added(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)

    def before(step):
        if step.number == 3:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})

    fit(run, model, optimizer, before=before)


@program(steps=9)
def groups_added_one_by_one(run: surefoot.Run) -> None:
    """Gradual unfreezing, a layer every second step, with AdamW and a schedule that knows of the first group only."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 3))
    model[:3].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[3].parameters(), lr=0.02)

    def after(step):
        if step.every(2) and step.number < 6:
            layer = model[2 - step.number // 2]
            layer.requires_grad_(True)
            optimizer.add_param_group({"params": list(layer.parameters()), "lr": 0.01})

    fit(run, model, optimizer, after=after)


@program(steps=8)
def pruned_before(run: surefoot.Run) -> None:
    model = mlp(16)
    prune.l1_unstructured(model[0], "weight", 0.4)
    prune.random_structured(model[2], "weight", 0.3, dim=1)
    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


@program(refused="weight_orig is a new parameter", refused_by=3)
def pruned_while_training(run: surefoot.Run) -> None:
    """More is pruned every third step: the mask is a buffer that appears, the weight becomes weight_orig."""
    model = mlp(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def after(step):
        if step.every(3):
            prune.l1_unstructured(model[0], "weight", 0.2)

    fit(run, model, optimizer, after=after)


@program(refused="is a new parameter", refused_by=6)
def pruned_further(run: surefoot.Run) -> None:
    """The first mask is made before training; it is pruned further, and made permanent at step 6."""
    model = mlp(16)
    prune.l1_unstructured(model[0], "weight", 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def after(step):
        if step.number == 2:
            prune.l1_unstructured(model[0], "weight", 0.2)
        if step.number == 5:
            prune.remove(model[0], "weight")

    fit(run, model, optimizer, after=after)


@program(refused="model.2 is a new part", refused_by=4)
def head_replaced(run: surefoot.Run) -> None:
    """A new head, of another width, and a new optimizer state for it."""
    model = mlp(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def before(step):
        if step.number == 3:
            model[2] = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 3))
            optimizer.add_param_group({"params": model[2].parameters()})

    fit(run, model, optimizer, before=before)


@program(refused="model.3 is a new part", refused_by=4)
def layer_appended(run: surefoot.Run) -> None:
    """Progressive growing: a layer is added at step 3."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def before(step):
        if step.number == 3:
            model.append(nn.Linear(3, 3))
            optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.05})

    fit(run, model, optimizer, before=before)


@program(steps=8)
def optimizer_state_reset(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def after(step):
        if step.number == 3:
            optimizer.state.clear()

    fit(run, model, optimizer, after=after)


@program(refused="scale is a new buffer", refused_by=4)
def buffer_registered_while_training(run: surefoot.Run) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 3)

        def forward(self, x):
            return self.inner(x) * getattr(self, "scale", 1.0)

    model = Net()

    def before(step):
        if step.number == 3:
            model.register_buffer("scale", torch.tensor([0.5, 1.0, 2.0]))

    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1), before=before)


@program(steps=8)
def parameter_data_replaced(run: surefoot.Run) -> None:
    """`.data` gets another tensor, elsewhere in memory and laid out otherwise."""
    model = mlp(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=True)

    def after(step):
        if step.number == 2:
            model[0].weight.data = model[0].weight.data.t().contiguous().t()

    fit(run, model, optimizer, after=after)


@program(steps=8)
def modes_changed(run: surefoot.Run) -> None:
    """Parts are put into eval mode at a step, and dropout's rate is an attribute that a schedule of steps sets."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def before(step):
        model[2].p = 0.5 - 0.05 * step.number
        if step.number == 3:
            model[1].eval()

    fit(run, model, optimizer, before=before)


@program(steps=8)
def attribute_changed_once(run: surefoot.Run) -> None:
    """Dropout is switched off at step 3 and nothing says so to a joiner: state that nobody tracks."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def before(step):
        if step.number == 3:
            model[1].p = 0.0

    fit(run, model, optimizer, before=before)


@program(steps=8)
def layers_swapped_for_channels_last(run: surefoot.Run) -> None:
    """Half of a model channels_last, half contiguous, and gradients that follow their parameters."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3).to(memory_format=torch.channels_last), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    fit(run, model, torch.optim.Adam(model.parameters(), lr=0.01, fused=True), data=IMAGES)
