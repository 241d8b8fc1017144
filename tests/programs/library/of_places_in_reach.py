"""Places in reach of the loop that are no variables: generators deep inside, attributes of parameters, contexts, views, locks, files."""

import collections
import contextvars
import heapq
import itertools
import random
import tempfile
import threading
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from kinds import POINTS, mlp, program, waves
from practice import begun, inner, sgd
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset

import surefoot


def scaled(**how):
    """List a program that multiplies its loss by what `begin(model, optimizer)` returns, asked with each step's number."""

    def listed(begin):
        def train(run: surefoot.Run) -> None:
            model, optimizer = begun(run)
            scale = begin(model, optimizer)
            for step in run.steps(run.config["steps"]):
                inner(model, step, scale=scale(step.number))
                optimizer.step()

        train.__name__ = train.__qualname__ = begin.__name__
        return program(**how)(train)

    return listed


# ---- random generators that only the loop draws from


class Noise:
    def __init__(self):
        self.kinds = {"normal": [np.random.default_rng(5)], "uniform": random.Random(3), "torch": torch.Generator()}

    def sample(self):
        drawn = torch.rand(1, generator=self.kinds["torch"]).item()
        return self.kinds["normal"][0].normal() + self.kinds["uniform"].random() + drawn


class Agent:
    def __init__(self):
        self.noise = Noise()


@scaled(steps=6)
def generators_deep_in_an_agent(model, optimizer):
    agent = Agent()
    return lambda _: 1 + 0.1 * agent.noise.sample()


@scaled(steps=6, in_suite=False)
def generator_inside_a_data_loader(model, optimizer):
    loader = DataLoader(POINTS, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(1))
    return lambda _: 1 + 0.1 * float(next(iter(loader))[0].mean())


@program(steps=6)
def points_of_a_sobol_sequence(run: surefoot.Run) -> None:
    sobol = torch.quasirandom.SobolEngine(8, scramble=True, seed=1)
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        points = sobol.draw(16)
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + 0.1 * model(points).pow(2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class Environment:
    def __init__(self, seed):
        self.rng, self.state, self.t = np.random.default_rng(seed), np.zeros(8), 0

    def reset(self):
        self.state, self.t = self.rng.normal(size=8), 0
        return self.state.astype(np.float32)

    def step(self, action):
        self.t += 1
        self.state = 0.9 * self.state + 0.1 * action + 0.01 * self.rng.normal(size=8)
        return self.state.astype(np.float32), float(-abs(self.state).mean()), self.t >= 5


class Rollouts(Dataset):
    def __init__(self):
        self.items = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Learner:
    """On-policy: an environment goes on from step to step, and what it yields is each step's data."""

    def __init__(self):
        self.policy, self.environment, self.rollouts = mlp(), Environment(3), Rollouts()
        self.optimizer, self.seen = sgd(self.policy), self.environment.reset()

    @torch.no_grad()
    def collect(self):
        self.rollouts.items = []
        for _ in range(32):
            choice = torch.distributions.Categorical(logits=self.policy(torch.from_numpy(self.seen)[None])).sample()
            after, reward, done = self.environment.step(choice.item() - 1)
            self.rollouts.items.append((self.seen, choice.item(), np.float32(reward)))
            self.seen = self.environment.reset() if done else after


@program(steps=6)
def rollouts_of_an_environment(run: surefoot.Run) -> None:
    learner = Learner()
    run.track(policy=learner.policy, optimizer=learner.optimizer)
    for step in run.steps(run.config["steps"]):
        learner.collect()
        for seen, choice, reward in step.batches(learner.rollouts):
            logs = F.log_softmax(learner.policy(seen), 1).gather(1, choice[:, None]).squeeze(1)
            loss = -(logs * reward).mean()
            loss.backward()
            step.log(loss=loss)
        learner.optimizer.step()


# ---- iterators that the loop carries on


def _unlabelled(name, begin):
    def train(run: surefoot.Run) -> None:
        model, optimizer = begun(run)
        batches = begin(DataLoader(POINTS, batch_size=40, shuffle=True))
        for step in run.steps(run.config["steps"]):
            more, _ = next(batches)
            for x, y in step.batches(POINTS):
                loss = F.cross_entropy(model(x), y) + 0.1 * model(more).pow(2).mean()
                loss.backward()
                step.log(loss=loss)
            optimizer.step()

    train.__name__ = train.__qualname__ = name
    program(refused="another iterator that the steps")(train)


_unlabelled("next_of_a_data_loader", iter)
_unlabelled("cycle_of_a_data_loader", itertools.cycle)


# ---- attributes of what is no object of the user's


@program(steps=6)
def averages_on_parameters(run: surefoot.Run) -> None:
    """`p.average`, `p.slow`: attributes that code hangs on the parameters themselves."""
    model, optimizer = begun(run)
    for p in model.parameters():
        p.slow = p.detach().clone()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for p in model.parameters():
            p.average = 0.9 * p.average + p.grad if hasattr(p, "average") else p.grad.clone()
            p.grad = p.average.clone()
        optimizer.step()
        with torch.no_grad():
            for p in model.parameters():
                p.slow.add_(p - p.slow, alpha=0.5)
                p.copy_(p.slow)


@program(steps=6)
def attribute_of_the_run(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    run.best, run.config["rate"] = 9.0, 0.1
    for step in run.steps(run.config["steps"]):
        run.config["rate"] *= 0.9
        optimizer.param_groups[0]["lr"] = run.config.rate
        inner(model, step, scale=run.best)
        run.best = min(run.best, step.merged["loss"]) * 0.9
        optimizer.step()


@program(steps=8, in_suite=False)
def defaults_of_an_optimizer(run: surefoot.Run) -> None:
    """The rate of a group that is added later."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number == 1:
            optimizer.defaults["lr"] = 0.01
        if step.number == 5:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters())})
        inner(model, step)
        optimizer.step()


@program(steps=6)
def untracked_teacher_changes_its_mode(run: surefoot.Run) -> None:
    teacher = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)).requires_grad_(False)
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        if step.number == 1:
            teacher[1].p = 0.25
        if step.number == 3:
            teacher.eval()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), teacher(x).softmax(1)) + 0 * y.sum()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="a buffer of a module that is not tracked")
def statistics_deep_in_objects(run: surefoot.Run) -> None:
    class Holds:
        def __init__(self, part):
            self.part = part

    model, optimizer = begun(run)
    whole = Holds(Holds(Holds(nn.Sequential(nn.BatchNorm1d(8, affine=False)))))
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(whole.part.part.part(x)), y)
            loss.backward()
        optimizer.step()
        if step.number > 2:
            with torch.no_grad():
                model[2].bias.add_(0.01 * whole.part.part.part.eval()(waves(4, 8)).mean())
            whole.part.part.part.train()


@scaled(steps=6, in_suite=False)
def module_imported_in_the_function(model, optimizer):
    import settings_of_a_script as settings

    settings.rate = 1.0

    def scale(_):
        settings.rate *= 0.8
        return settings.rate

    return scale


def warm_up(n):
    calls = 0

    def rate(_):
        nonlocal calls
        calls += 1
        return min(1.0, calls / n)

    return rate


@program(steps=6)
def schedule_by_a_function_that_counts(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    parts = [lr_scheduler.LambdaLR(optimizer, warm_up(8)), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    schedule = lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        schedule.step()


@program(steps=6)
def method_and_class_replaced(run: surefoot.Run) -> None:
    class Warm:
        def scale(self):
            return 0.5

    class Full:
        def scale(self):
            return 1.0

    class Loss:
        def compute(self, out, y):
            return F.cross_entropy(out, y)

    model, optimizer = begun(run)
    policy, loss = Warm(), Loss()
    for step in run.steps(run.config["steps"]):
        if step.number == 1:
            policy.__class__ = Full
        if step.number == 3:
            Loss.compute = lambda self, out, y: F.cross_entropy(out, y, label_smoothing=0.2)
        inner(model, step, loss_fn=loss.compute, scale=policy.scale())
        optimizer.step()


# ---- context variables, and variables that functions share

STAGE = contextvars.ContextVar("stage", default=1.0)


@scaled(steps=6)
def stage_in_a_context_variable(model, optimizer):
    STAGE.set(1.0)

    def scale(_):
        STAGE.set(STAGE.get() * 0.8)
        return STAGE.get()

    return scale


@program(steps=8)
def lambda_kept_whose_variable_changes(run: surefoot.Run) -> None:
    def pair():
        amount = 0.0

        def loss(out, y):
            return F.cross_entropy(out, y, label_smoothing=amount)

        def more():
            nonlocal amount
            amount += 0.05

        return loss, more

    model, optimizer = begun(run)
    eps, one, other, more = 0.0, F.cross_entropy, F.cross_entropy, None
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            one = lambda out, y: F.cross_entropy(out, y, label_smoothing=eps)  # noqa: E731, B023  as users do
            other, more = pair()
        if step.number >= 3:
            eps = 0.05 * step.number
            more()
        for x, y in step.batches(POINTS):
            out = model(x)
            loss = one(out, y) + other(out, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


# ---- what lies in the memory of something else


@program(steps=6)
def best_state_without_a_copy(run: surefoot.Run) -> None:
    """`best = model.state_dict()` is the live weights: to load it does nothing; a view of a weight is written to."""
    model, optimizer = begun(run)
    best, head = None, None
    for step in run.steps(run.config["steps"]):
        if step.number == 1:
            best, head = model.state_dict(), model[2].weight.data[0]
        inner(model, step)
        optimizer.step()
        if step.number >= 2:
            head.mul_(0.9)
        if step.number == 4:
            model.load_state_dict(best)


@scaled(steps=6)
def window_of_an_array(model, optimizer):
    history = np.zeros(8)
    held = {"recent": history[:0]}

    def scale(n):
        history[n] = n + 1
        if n == 1:
            held["recent"] = history[1:4]
        return 1 + float(held["recent"].sum()) / 10

    return scale


@scaled(steps=4, in_suite=False)
def memory_of_many_transitions(model, optimizer):
    """Tables of 80 MB and lists of 6,000 dicts, written in one place a step."""
    table, transitions = np.zeros((100_000, 200), np.float32), [{"priority": 1.0} for _ in range(6000)]

    def scale(n):
        table[n + 17] = n + 1
        transitions[n]["priority"] = n * 2.0
        return 1 + float(table[:30].mean()) + sum(t["priority"] for t in transitions) / 6000

    return scale


# ---- containers and objects that pickle does not know


@scaled(steps=8)
def pool_of_indices_in_a_set(model, optimizer):
    """Active learning: the pool is gone through in its own order, in a table that was once larger."""
    pool = set(range(100))

    def scale(_):
        chosen = list(pool)[:12]
        pool.difference_update(chosen)
        return 1 + sum(k * i for k, i in enumerate(chosen)) / 10000

    return scale


@program(steps=6, in_suite=False)
def velocities_by_weak_key(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    velocity = weakref.WeakKeyDictionary({part: torch.zeros_like(part.weight) for part in (model[0], model[2])})
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for part in (model[0], model[2]):
            velocity[part] = velocity[part] * 0.9 + part.weight.grad
            part.weight.grad = velocity[part].clone()
        optimizer.step()


@scaled(steps=6)
def phase_that_holds_a_lock(model, optimizer):
    class Phase:
        def __init__(self):
            self.lock, self.done, self.scale = threading.RLock(), threading.Event(), 0.5

    held = {"phase": None}

    def scale(n):
        if n == 2:
            held["phase"] = Phase()
        if held["phase"] is not None:
            with held["phase"].lock:
                held["phase"].scale *= 0.9
        return 1.0 if held["phase"] is None else held["phase"].scale

    return scale


@scaled(steps=6, in_suite=False)
def rates_read_from_a_file(model, optimizer):
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.writelines(f"{1 / (k + 1)}\n" for k in range(20))
    lines = open(file.name)  # noqa: SIM115  it is read as training goes on
    return lambda _: float(lines.readline())


class Settings(dict):
    """The widely copied dict whose items are its attributes."""

    def __init__(self, **values):
        super().__init__(**values)
        self.__dict__ = self


@scaled(steps=6, in_suite=False)
def heap_with_ties_and_settings(model, optimizer):
    heap, ties, settings = [], itertools.count(), Settings(scale=1.0, seen=collections.defaultdict(list))

    def scale(n):
        settings.scale *= 0.95
        settings.seen[n % 2].append(n)
        heapq.heappush(heap, (n % 3, next(ties), {"weight": model[0].weight.detach().clone()}))
        return settings.scale * (1 + 0.1 * heap[0][1] + len(settings.seen[0]) / 10 + float(heap[-1][2]["weight"].sum()))

    return scale
