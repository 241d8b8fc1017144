"""What scripts carry from batch to batch and from step to step in variables and objects of their own."""

import copy
import math
from collections import deque

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp, program
from practice import fit_tracked, sgd
from torch import nn

import surefoot


@program(steps=6)
def beta_carried_in_a_local(run: surefoot.Run) -> None:
    """A float in a local variable that grows by every step: nobody tracks it."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    beta = 0.0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + beta * model(x).pow(2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        beta += 0.1


@program(steps=8)
def best_model_kept_and_loaded(run: surefoot.Run) -> None:
    """The best state in a local by deepcopy, loaded when the loss grows: state in nobody's list."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    run.track(model=model, optimizer=optimizer)
    best, best_state = math.inf, None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.merged["loss"] < best:
            best = step.merged["loss"]
            best_state = copy.deepcopy(model.state_dict())
        else:
            model.load_state_dict(best_state)


@program(steps=6, refused="was computed twice")
def lstm_with_carried_states(run: surefoot.Run) -> None:
    """Truncated backpropagation: the hidden state goes on from batch to batch. Depends on who computes what."""
    rnn, out = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)
    optimizer = torch.optim.Adam([*rnn.parameters(), *out.parameters()], lr=0.01)
    run.track(rnn=rnn, out=out, optimizer=optimizer)
    hidden = None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            h, hidden = rnn(x[:, None], hidden)
            hidden = tuple(t.detach() for t in hidden)
            loss = F.cross_entropy(out(h[:, 0]), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, refused="was computed twice")
def lstm_that_keeps_its_state(run: surefoot.Run) -> None:
    """The hidden state lies in an attribute of the module, and nobody resets it."""

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out, self.hidden = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3), None

        def forward(self, x):
            h, hidden = self.rnn(x[:, None], self.hidden)
            self.hidden = hidden.detach()
            return self.out(h[:, 0])

    model = Keeps()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6, refused="was computed twice")
def running_mean_in_an_attribute(run: surefoot.Run) -> None:
    """A baseline as a float attribute of the model, moved in forward, as in REINFORCE and moving normalizers."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.mean = mlp(), 0.0

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean().item()
            return self.body(x - self.mean)

    model = Net()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6, refused="was computed twice")
def counter_in_the_inner_loop(run: surefoot.Run) -> None:
    """A local counter of batches decides a warmup weight."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    it = 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) * min(1.0, (it + 1) / 10)
            loss.backward()
            step.log(loss=loss)
            it += 1
        optimizer.step()


@program(steps=6, refused="was computed twice")
def counter_attribute_of_a_loss(run: surefoot.Run) -> None:
    """A loss object, no module, that counts its calls and ramps up."""

    class Ramp:
        def __init__(self):
            self.n = 0

        def __call__(self, out, y):
            self.n += 1
            return F.cross_entropy(out, y) * min(1.0, self.n / 10)

    model, ramp = mlp(), Ramp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = ramp(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, refused="was computed twice")
def previous_batch_for_mixup(run: surefoot.Run) -> None:
    """Mixes each batch with the one before."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    previous = None
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            mixed = x if previous is None else 0.7 * x + 0.3 * previous
            previous = x
            loss = F.cross_entropy(model(mixed), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, refused="was computed twice")
def memory_bank_in_a_list(run: surefoot.Run) -> None:
    """Negatives from a deque of features of earlier batches."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    bank = deque(maxlen=4)
    for step in run.steps(run.config["steps"]):
        for x, _y in step.batches(POINTS):
            f = model(x)
            loss = f.pow(2).mean()
            for old in bank:
                loss = loss + (f @ old.T).mean()
            bank.append(f.detach())
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, refused="was computed twice")
def iterator_in_the_inner_loop(run: surefoot.Run) -> None:
    """The second data set by a DataLoader's iterator beside `batches`: semi-supervised learning's unlabeled half."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    loader = torch.utils.data.DataLoader(POINTS, batch_size=4, shuffle=True)
    unlabeled = iter(loader)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            try:
                u, _ = next(unlabeled)
            except StopIteration:
                unlabeled = iter(loader)
                u, _ = next(unlabeled)
            loss = F.cross_entropy(model(x), y) + 0.1 * model(u).pow(2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=8)
def patience_in_locals(run: surefoot.Run) -> None:
    """best and bad are local numbers; run.stop() by them."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5)
    run.track(model=model, optimizer=optimizer)
    best, bad = math.inf, 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.merged["loss"] < best:
            best, bad = step.merged["loss"], 0
        else:
            bad += 1
            if bad == 2:
                for g in optimizer.param_groups:
                    g["lr"] *= 0.1
                bad = 0


@program(steps=8)
def learning_rate_in_a_local(run: surefoot.Run) -> None:
    """lr *= 0.9 in a local, given to the groups."""
    model = mlp()
    lr = 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for g in optimizer.param_groups:
            g["lr"] = lr
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        lr *= 0.9


@program(steps=8)
def history_decides(run: surefoot.Run) -> None:
    """A local list of losses; the learning rate falls when its mean stalls."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run.track(model=model, optimizer=optimizer)
    history = []
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        history.append(step.merged["loss"])
        optimizer.param_groups[0]["lr"] = 1.0 / (1 + sum(history) / len(history))


@program(steps=8)
def nonlocal_counter(run: surefoot.Run) -> None:
    """A closure's counter."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run.track(model=model, optimizer=optimizer)
    n = 0

    def adjust():
        nonlocal n
        n += 1
        optimizer.param_groups[0]["lr"] = 1.0 / n

    for step in run.steps(run.config["steps"]):
        adjust()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=8)
def masks_that_change(run: surefoot.Run) -> None:
    """Lottery tickets: masks in a local dict, recomputed from magnitudes at step 3: nobody tracks them."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    masks = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number == 3:
            for n, p in model.named_parameters():
                masks[n] = (p.detach().abs() > p.detach().abs().median()).float()
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.mul_(masks[n])


@program(steps=8)
def accumulated_gradient_in_a_dict(run: surefoot.Run) -> None:
    """Fisher information of EWC in a local dict, summed from the gradients, used as a penalty."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + sum((fisher[n] * p.pow(2)).sum() for n, p in model.named_parameters())
            loss.backward()
            step.log(loss=loss)
        for n, p in model.named_parameters():
            fisher[n] += p.grad.detach() ** 2
        optimizer.step()
