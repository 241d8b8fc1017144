"""What begins late, and what inner loops leave behind."""

import itertools

import torch
import torch.nn.functional as F
from kinds import POINTS, program
from practice import begun, inner

import surefoot

COMPARED = "was computed on two trainers"
# or by the trainers' cross-checks, where they have left other values in the first step
LEFT = f"gave other bits without what inner loops of earlier steps have left|{COMPARED}"


# ---- what earlier inner loops have left


@program(refused=LEFT)
def divided_by_the_largest_so_far(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Largest:
        def __init__(self):
            self.value = 0.5

        def __call__(self, x):
            self.value = max(self.value, x.sum().abs().item())
            return x / self.value

    normed = Largest()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(normed(x)), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused=LEFT)
def prototypes_summed_up_in_an_evaluation(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Prototypes:
        def __init__(self):
            self.sums, self.n = torch.zeros(3, 3), torch.ones(3)

        def see(self, x, y):
            self.sums.index_add_(0, y, model(x))
            self.n.index_add_(0, y, torch.ones(len(y)))

        def distance(self, z, y):
            return ((z - (self.sums / self.n[:, None])[y]) ** 2).mean()

    prototypes = Prototypes()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            z = model(x)
            loss = F.cross_entropy(z, y) + prototypes.distance(z, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        for x, y in step.evaluate(POINTS):
            prototypes.see(x, y)
            step.log(mean=x.mean())


# what inner loops write in the first steps is each trainer's own: one that joins later has it not
@program(refused=LEFT, refused_by=2)
def flag_set_by_the_step_in_the_inner_loop(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    class Loss:
        scale = 1.0

    settings = Loss()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            if step.number == 1:
                settings.scale = 2.0
            loss = F.cross_entropy(model(x), y) * settings.scale
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


# ---- what begins late


def _centred_late(how):
    def train(run: surefoot.Run) -> None:
        model, optimizer = begun(run)

        class Distance:
            def __init__(self):
                self.center, self.ready, self.held = None, False, {}

            def __call__(self, z):
                if how == "none" and self.center is None:
                    self.center = z.mean(0).detach()
                elif how == "flag" and not self.ready:
                    self.center, self.ready = z.mean(0).detach(), True
                elif how == "key" and "center" not in self.held:
                    self.held["center"] = z.mean(0).detach()
                center = self.held["center"] if how == "key" else self.center
                return ((z - center) ** 2).mean()

        distance = Distance()
        for step in run.steps(run.config["steps"]):
            for x, y in step.batches(POINTS):
                z = model(x)
                loss = F.cross_entropy(z, y)
                if step.number >= 4:
                    loss = loss + distance(z)
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    train.__name__ = train.__qualname__ = f"centred_late_by_{how}"
    # what one trainer alone keeps of its own first batch is the same to the end
    program(refused=COMPARED, refused_by=4, refused_alone=False, in_suite=how != "flag")(train)


for _how in ("none", "flag", "key"):
    _centred_late(_how)


@program(refused="computed twice", refused_by=4)
def second_loop_that_carries_a_mean(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    mean = torch.zeros(3)
    for step in run.steps(run.config["steps"]):
        if step.number < 4:
            inner(model, step)
        else:
            for x, y in step.batches(POINTS):
                z = model(x)
                mean = 0.9 * mean + 0.1 * z.detach().mean(0)
                loss = F.cross_entropy(z - mean, y)
                loss.backward()
                step.log(loss=loss)
        optimizer.step()


@program(steps=7)
def records_that_begin_late(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    losses, lowest = [], None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            if step.number >= 4:
                losses.append(loss.item())
                lowest = min(losses) if lowest is None else min(lowest, losses[-1])
        optimizer.step()


@program(steps=7)
def rates_from_an_iterator_late(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = itertools.cycle([0.1, 0.2, 0.05])
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        if step.number >= 3:
            optimizer.param_groups[0]["lr"] = next(rates)
        optimizer.step()


def halves():
    rate = 0.1
    while True:
        yield rate
        rate *= 0.5


@program(refused="is a generator or another iterator")
def rates_from_a_generator_that_the_loop_makes(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    rates = None
    for step in run.steps(run.config["steps"]):
        rates = halves() if rates is None else rates
        inner(model, step)
        optimizer.param_groups[0]["lr"] = next(rates)
        optimizer.step()
