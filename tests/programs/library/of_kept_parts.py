"""Parts of optimizers that code keeps, made since the loop began; and counts of inner loops that other functions share."""

import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import begun, inner, sgd
from torch import nn

import surefoot

LOCAL = "on this trainer alone"


@program(steps=7)
def group_that_was_added_kept_in_a_variable(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    added = None
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})
            added = optimizer.param_groups[-1]
        if added is not None:
            added["lr"] *= 0.8
        inner(model, step)
        optimizer.step()
        optimizer.zero_grad()


@program(steps=7)
def state_of_a_parameter_kept_in_a_variable(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    state = None
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.number == 0:
            state = optimizer.state[model[0].weight]
        if step.number >= 3:
            state["exp_avg"] = state["exp_avg"] * 0.5


@program(steps=8)
def optimizer_state_kept_without_a_copy(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    run.track(model=model, optimizer=optimizer)
    saved = None
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.number == 2:
            saved = optimizer.state_dict()
        if step.number == 5:
            optimizer.load_state_dict(saved)


@program(steps=6, refused=LOCAL)
def flag_set_in_the_inner_loop(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        bad = False
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            if loss.item() > 1.15:
                bad = True
        if bad:
            optimizer.zero_grad()
        else:
            optimizer.step()


@program(steps=6, refused=LOCAL)
def rate_by_a_nonlocal_count_of_a_function(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    n = 0

    def one(step):
        nonlocal n
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            n += 1

    def rate():
        return 0.1 / (1 + n)

    for step in run.steps(run.config["steps"]):
        one(step)
        optimizer.param_groups[0]["lr"] = rate()
        optimizer.step()


class Sample:
    def __init__(self, number):
        self.number, self.weight = number, 1.0


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.samples = tuple(Sample(i) for i in range(300))

    def __len__(self):
        return 300

    def __getitem__(self, i):
        return *POINTS[i % 100], torch.tensor(self.samples[i].weight)


@program(steps=6)
def tuple_of_many_objects(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    data = Samples()
    for step in run.steps(run.config["steps"]):
        for x, y, weight in step.batches(data):
            loss = (F.cross_entropy(model(x), y, reduction="none") * weight).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        for sample in data.samples:
            sample.weight *= 1 + 0.01 * (sample.number % 7)


@program(steps=6)
def prior_as_a_distribution(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            loss = F.cross_entropy(out, y) - 0.1 * prior.log_prob(out).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        prior.loc = prior.loc + 0.3
        prior.scale *= 0.9


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 3)
        self.register_buffer("mask", None)

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.ones(x.shape[1])
        return self.body(x * self.mask)


@program(steps=6, refused="model.mask. Register every buffer before run.steps")
def buffer_filled_in_the_first_forward(run: surefoot.Run) -> None:
    model = Masked()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(steps=6)
def buffer_filled_by_the_loop(run: surefoot.Run) -> None:
    model = Masked()
    model(torch.zeros(1, 8))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number % 2:
            model.mask = None
        model(torch.zeros(1, 8))
        inner(model, step)
        optimizer.step()
