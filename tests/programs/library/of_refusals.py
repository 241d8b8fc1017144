"""Programs that break the contract: each ends within its first two steps with an error that names the line and the mend."""

import torch
import torch.nn.functional as F
from kinds import POINTS, fit, mlp, program
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import surefoot

SGD = torch.optim.SGD


@program(refused="schedule")
def untracked_schedule(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.9)
    fit(run, model, optimizer, after=lambda step: schedule.step())


@program(refused="schedule")
def untracked_plateau(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer)
    fit(run, model, optimizer, after=lambda step: schedule.step(step.merged["loss"]))


@program(refused="average")
def untracked_average(run: surefoot.Run) -> None:
    model = mlp()
    average = swa_utils.AveragedModel(model)
    fit(run, model, SGD(model.parameters(), lr=0.1), after=lambda step: average.update_parameters(model))


@program(refused="second")
def untracked_optimizer(run: surefoot.Run) -> None:
    model = mlp()
    second = SGD(model[2].parameters(), lr=0.1, momentum=0.9)
    fit(run, model, SGD(model[0].parameters(), lr=0.1), after=lambda step: second.step())


@program(refused="scaler")
def untracked_scaler(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()


@program(refused="schedule")
def scheduler_in_the_inner_loop(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.StepLR(optimizer, 5, 0.5)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
            schedule.step()
        optimizer.step()


@program(refused="average")
def average_in_the_inner_loop(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    average = swa_utils.AveragedModel(model)
    run.track(model=model, optimizer=optimizer, average=average)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
            average.update_parameters(model)
        optimizer.step()


@program(refused="inner loop")
def parameters_changed_in_the_inner_loop(run: surefoot.Run) -> None:
    """Weights are clamped in the inner loop, as in the first WGAN."""
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-0.2, 0.2).mul_(0.99)
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


@program(refused="inner loop")
def learning_rate_changed_in_the_inner_loop(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            optimizer.param_groups[0]["lr"] *= 0.99
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


@program(refused="zero_grad|cleared|clears")
def zero_grad_before_the_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        optimizer.zero_grad()
        optimizer.step()


@program(refused="accumulate|dropped|used")
def a_step_every_second_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        if step.every(2):
            optimizer.step()
            optimizer.zero_grad()


@program(refused="accumulate|dropped|used")
def two_rounds_one_step(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for _ in range(2):
            for x, y in step.batches(POINTS):
                F.cross_entropy(model(x), y).backward()
        optimizer.step()


@program(refused="set_num_threads|threads")
def threads_changed(run: surefoot.Run) -> None:
    model = mlp()

    def after(step):
        torch.set_num_threads(2)

    fit(run, model, SGD(model.parameters(), lr=0.1), after=after)


@program(refused="deterministic")
def determinism_switched_off(run: surefoot.Run) -> None:
    model = mlp()
    torch.use_deterministic_algorithms(False)
    fit(run, model, SGD(model.parameters(), lr=0.1))


@program(refused="not tracked|track")
def untracked_model(run: surefoot.Run) -> None:
    model, head = mlp(), nn.Linear(3, 3)
    optimizer = SGD([*model.parameters(), *head.parameters()], lr=0.1)
    run.track(model=model)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(head(model(x)), y).backward()
        optimizer.step()


@program(refused="merged")
def merged_value_that_nobody_logged(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        print(step.merged["loss"])
