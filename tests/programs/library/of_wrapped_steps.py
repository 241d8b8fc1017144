"""The loop over steps inside what counts on its own, through progress bars and other generators."""

import io
import itertools

import torch.nn.functional as F
from kinds import POINTS, mlp, program
from practice import sgd

import surefoot


class Training:
    def __init__(self, run):
        self.model = mlp()
        self.optimizer = sgd(self.model)
        run.track(model=self.model, optimizer=self.optimizer)

    def step(self, step, lr):
        self.optimizer.param_groups[0]["lr"] = lr
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            step.log(loss=loss)
        self.optimizer.step()


def bar(steps):
    yield from steps


def printed(steps):
    for i, step in enumerate(steps):
        yield step
        print(i, file=io.StringIO())


RATES = [0.1, 0.08, 0.06, 0.04, 0.02, 0.01]


@program(steps=6, in_suite=False)
def enumerate_around_a_progress_bar(run: surefoot.Run) -> None:
    from tqdm import tqdm

    training = Training(run)
    for i, step in enumerate(tqdm(run.steps(run.config["steps"]), file=io.StringIO())):
        training.step(step, RATES[i % 6])


@program(steps=6)
def zip_and_enumerate_around_generators(run: surefoot.Run) -> None:
    training = Training(run)
    for i, (step, lr) in enumerate(
        zip(bar(printed(run.steps(run.config["steps"]))), itertools.cycle(RATES), strict=False), 1
    ):
        training.step(step, lr / i)


@program(steps=6)
def map_over_the_steps(run: surefoot.Run) -> None:
    list(map(Training(run).step, run.steps(run.config["steps"]), itertools.cycle(RATES)))


@program(refused="counts on its own")
def epochs_over_a_kept_iterator(run: surefoot.Run) -> None:
    training = Training(run)
    steps = run.steps(6)
    for epoch in range(3):
        for step in itertools.islice(steps, 2):
            training.step(step, RATES[epoch % 6])


@program(refused="counts on its own")
def next_in_a_loop_over_a_range(run: surefoot.Run) -> None:
    training = Training(run)
    steps = iter(run.steps(6))
    for i in range(6):
        training.step(next(steps), RATES[i % 6])
