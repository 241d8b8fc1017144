"""Places that nothing looked into: hooks that are added, functions that are put in others' places, boxes of the standard library."""

import collections
import ctypes
import multiprocessing
import queue
import threading
import types

import numpy as np
import torch
import torch.nn.functional as F
from kinds import IMAGES, POINTS, Points, mlp, program
from practice import begun, inner, sgd
from torch import nn
from torch.optim import lr_scheduler

import surefoot


@program(steps=6)
def loss_becomes_a_lambda(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    loss_fn = F.cross_entropy
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            loss_fn = lambda out, y: F.cross_entropy(out, y, label_smoothing=0.3)  # noqa: E731  as users do
        inner(model, step, loss_fn=loss_fn)
        optimizer.step()


def smoothed(amount):
    def loss(out, y):
        return F.cross_entropy(out, y, label_smoothing=amount)

    return loss


@program(steps=6)
def loss_made_by_a_function(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    loss_fn = smoothed(0.0)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            loss_fn = smoothed(0.3)
        inner(model, step, loss_fn=loss_fn)
        optimizer.step()


@program(steps=6)
def activation_becomes_a_lambda(run: surefoot.Run) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 3), torch.tanh

        def forward(self, x):
            return self.b(self.act(self.a(x)))

    model = Net()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model.act = lambda x: F.leaky_relu(x, 0.2)
        inner(model, step)
        optimizer.step()


@program(steps=6)
def forward_is_replaced(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    def noisy(self, x):
        return nn.Sequential.forward(self, x * 0.5)

    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model.forward = types.MethodType(noisy, model)
        inner(model, step)
        optimizer.step()


@program(steps=6)
def name_of_the_loss_used_anew(run: surefoot.Run) -> None:
    """The next step reads the merged loss from a name that the inner loop writes."""
    model, optimizer = begun(run)
    loss = 9.0
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = 0.1 if loss > 1.05 else 0.02
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        loss = step.merged["loss"]


@program(steps=6)
def meter_that_is_reset(run: surefoot.Run) -> None:
    """A dict of meters: summed in the inner loop, overwritten by merged values after it, read by the next step."""
    model, optimizer = begun(run)
    meter = {"loss": 2.0, "n": 0}
    for step in run.steps(run.config["steps"]):
        optimizer.param_groups[0]["lr"] = 0.05 * meter["loss"]
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            meter["loss"] += loss.item()
            meter["n"] += 1
        optimizer.step()
        meter["loss"], meter["n"] = step.merged["loss"], 0


class SharedEpoch:
    """As OpenCLIP has it."""

    def __init__(self, epoch=0):
        self.shared_epoch = multiprocessing.Value("i", epoch)

    def set_value(self, epoch):
        self.shared_epoch.value = epoch

    def get_value(self):
        return self.shared_epoch.value


class Shifted(Points):
    def __init__(self, epoch):
        self.epoch = epoch

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + 0.3 * self.epoch.get_value(), y


@program(steps=6)
def shared_epoch(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    epoch = SharedEpoch()
    data = Shifted(epoch)
    for step in run.steps(run.config["steps"]):
        inner(model, step, data)
        optimizer.step()
        epoch.set_value(epoch.get_value() + 1)


@program(steps=6, data_workers=2)
def shared_epoch_with_workers(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    epoch = SharedEpoch()
    data = Shifted(epoch)
    for step in run.steps(run.config["steps"]):
        epoch.set_value(step.number // 2)
        inner(model, step, data)
        optimizer.step()


@program(steps=6)
def counter_of_ctypes(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    n = ctypes.c_int(0)
    for step in run.steps(run.config["steps"]):
        n.value += 1
        inner(model, step)
        optimizer.param_groups[0]["lr"] = 0.1 / n.value
        optimizer.step()


@program(steps=6)
def queue_of_losses(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    losses = queue.Queue()
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        losses.put(step.merged["loss"])
        if losses.qsize() > 3:
            optimizer.param_groups[0]["lr"] = 0.05 * losses.get()
        optimizer.step()


@program(steps=6)
def array_of_objects(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    table = np.empty(3, dtype=object)
    table[:] = [[], [], []]
    best = np.array([None, 9.0], dtype=object)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        best[1] = min(best[1], step.merged["loss"])
        table[step.number % 3] = [step.merged["loss"], best[1]]
        optimizer.param_groups[0]["lr"] = 0.05 * sum(sum(t) for t in table) / 3
        optimizer.step()


@program(steps=6)
def sparse_tensor_in_a_variable(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    keep = torch.eye(8).to_sparse()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(torch.sparse.mm(keep, x.t()).t()), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number >= 1:
            keep = (keep * 0.9).coalesce()


@program(steps=6)
def quantized_weights_in_a_variable(run: surefoot.Run) -> None:
    """The best weights so far, kept in eight bits."""
    model, optimizer = begun(run)
    kept = torch.quantize_per_tensor(model[0].weight.detach(), 0.01, 0, torch.qint8)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + 0.1 * (model[0].weight - kept.dequantize()).pow(2).sum()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number % 2:
            kept = torch.quantize_per_tensor(model[0].weight.detach(), 0.01, 0, torch.qint8)


def accuracy(step):
    return step.merged["loss"]


def sharpness(step):
    return 1 / step.merged["loss"]


@program(steps=6)
def histories_by_function(run: surefoot.Run) -> None:
    """A dict whose keys are functions."""
    model, optimizer = begun(run)
    history = {accuracy: [], sharpness: []}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for metric, values in history.items():
            values.append(metric(step))
        optimizer.param_groups[0]["lr"] = 0.05 * sum(history[accuracy]) / len(history[sharpness])
        optimizer.step()


class Task:
    def __init__(self, weight):
        self.weight = weight


@program(steps=6)
def records_by_object(run: surefoot.Run) -> None:
    """A dict whose keys are objects of the user's own, and a set of them."""
    model, optimizer = begun(run)
    tasks = [Task(1.0), Task(0.5)]
    records = {task: {"n": 0} for task in tasks}
    done = set()
    for step in run.steps(run.config["steps"]):
        task = tasks[step.number % 2]
        inner(model, step, scale=task.weight / (1 + records[task]["n"]) / (1 + len(done)))
        optimizer.step()
        records[task]["n"] += 1
        if records[task]["n"] == 2:
            done.add(task)


@program(steps=6)
def velocity_by_parameter(run: surefoot.Run) -> None:
    """Momentum by hand, in a dict by parameter; two parameters look the same."""
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    velocity = {p: torch.zeros_like(p) for p in model.parameters()}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for p in model.parameters():
            velocity[p].mul_(0.9).add_(p.grad)
            p.grad.copy_(velocity[p])
        optimizer.step()


@program(steps=6)
def preconditioner_by_module(run: surefoot.Run) -> None:
    """K-FAC's shape: a dict by layer, filled after the step."""
    model, optimizer = begun(run)
    factors = {m: torch.eye(m.weight.shape[0]) for m in model if isinstance(m, nn.Linear)}
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        for m, factor in factors.items():
            factors[m] = 0.9 * factor + 0.1 * m.weight.grad @ m.weight.grad.t()
            m.weight.grad = torch.linalg.solve(factors[m] + torch.eye(len(factor)), m.weight.grad)
        optimizer.step()


class Remembering(torch.optim.SGD):
    """An optimizer of the user's own, with what it remembers in attributes."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.norms = collections.deque(maxlen=4)
        self.mean = torch.zeros(())

    @torch.no_grad()
    def step(self, closure=None):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        self.norms.append(norm.item())
        self.mean = 0.5 * self.mean + 0.5 * norm
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(sum(self.norms) / len(self.norms) / (1 + self.mean))
        return super().step(closure)


@program(steps=6)
def optimizer_with_attributes(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = Remembering(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(steps=6)
def attributes_of_a_sequential(run: surefoot.Run) -> None:
    """What code hangs on a module of torch's own class: a list, a tensor, a dict that appears later."""
    model = mlp()
    model.history, model.center = [], torch.zeros(3)
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x) - model.center, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        model.history.append(step.merged["loss"])
        model.center = 0.1 * torch.tensor([1.0, 0.0, -1.0]) * len(model.history)
        if step.number >= 2:
            model.best = {"bias": model[2].bias.detach().clone()}
        if step.number == 4:
            with torch.no_grad():
                model[2].bias.copy_(model.best["bias"] * 0.5)


@program(steps=6)
def weights_of_a_loss_replaced(run: surefoot.Run) -> None:
    """Deferred re-weighting: the buffer of an untracked loss gets another tensor."""
    model, optimizer = begun(run)
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3))
    for step in run.steps(run.config["steps"]):
        inner(model, step, loss_fn=criterion)
        optimizer.step()
        if step.number >= 2:
            criterion.weight = torch.tensor([1.0, 2.0, 0.5]) * step.merged["loss"]


@program(refused="hook", refused_by=4)
def forward_hook_added(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model[0].register_forward_hook(lambda m, args, out: out * 0.5)
        inner(model, step)
        optimizer.step()


@program(refused="hook", refused_by=4)
def forward_hook_removed(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    handle = model[0].register_forward_hook(lambda m, args, out: out * 0.5)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            handle.remove()
        inner(model, step)
        optimizer.step()


@program(refused="hook", refused_by=4)
def gradient_hook_added(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model[0].weight.register_hook(lambda grad: grad * 0.1)
        inner(model, step)
        optimizer.step()


@program(refused="hook", refused_by=4)
def optimizer_hook_added(run: surefoot.Run) -> None:
    model, optimizer = begun(run)

    def shrink(optimizer, args, kwargs):
        for p in model.parameters():
            p.grad.mul_(0.5)

    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            optimizer.register_step_pre_hook(shrink)
        inner(model, step)
        optimizer.step()


@program(steps=6)
def hooks_within_a_step(run: surefoot.Run) -> None:
    """Hooks that come and go within a step, and within a sub-task."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        seen = []
        handle = model[0].register_forward_hook(lambda m, args, out, seen=seen: seen.append(out.mean()))
        for x, y in step.batches(POINTS):
            inside = model[1].register_forward_hook(lambda m, args, out: out * 0.9)
            loss = F.cross_entropy(model(x), y) + 0.01 * seen[-1] ** 2
            inside.remove()
            loss.backward()
            step.log(loss=loss)
        handle.remove()
        optimizer.step()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).view(1, 1, -1, 24).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).view(-1, 8))


@program(refused="sdp", refused_by=4)
def attention_kernel_switched(run: surefoot.Run) -> None:
    model = Attention()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    try:
        for step in run.steps(run.config["steps"]):
            if step.number == 2:
                torch.backends.cuda.enable_flash_sdp(False)
            inner(model, step)
            optimizer.step()
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


@program(refused="fastpath", refused_by=4)
def transformer_fastpath_switched(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    try:
        for step in run.steps(run.config["steps"]):
            if step.number == 2:
                torch.backends.mha.set_fastpath_enabled(False)
            inner(model, step)
            optimizer.step()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@program(steps=6)
def attention_kernel_of_a_round(run: surefoot.Run) -> None:
    """Chosen by `with`, in every other step."""
    model = Attention()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        with torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.MATH if step.number % 2 else torch.nn.attention.SDPBackend.FLASH_ATTENTION
        ):
            inner(model, step)
        optimizer.step()


@program(refused="made float64", refused_by=4)
def model_made_double(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        if step.number == 2:
            model.double()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x.to(model[0].weight.dtype)), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="merged with nobody")
def weights_without_an_optimizer(run: surefoot.Run) -> None:
    """A leaf that is trained by hand, and not tracked: nobody merges its gradient."""
    model, optimizer = begun(run)
    scale = torch.ones(3, requires_grad=True)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x) * scale, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        with torch.no_grad():
            scale -= 0.1 * scale.grad
            scale.grad = None


class InPlace(Points):
    """Normalises its samples where they lie: once more every time that one is asked for."""

    def __init__(self):
        self.x = torch.sin(torch.arange(800.0)).view(100, 8)

    def __getitem__(self, i):
        x = self.x[i]
        x.sub_(0.1)
        return x, i % 3


@program(refused="carried|drew|changes|other bits", refused_by=1)
def samples_changed_in_place(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    data = InPlace()
    for step in run.steps(run.config["steps"]):
        inner(model, step, data)
        optimizer.step()


def with_last(batches):
    """Tell which batch is the last one: one batch ahead."""
    batches = iter(batches)
    before = next(batches)
    for batch in batches:
        yield before, False
        before = batch
    yield before, True


@program(refused="ahead|one at a time|after", refused_by=1)
def one_batch_ahead(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        for (x, y), _last in with_last(step.batches(POINTS)):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        optimizer.step()


@program(refused="collected in a list", refused_by=1)
def batches_in_a_list(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        batches = list(step.batches(POINTS))
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        optimizer.step()


@program(refused="collected in a list", refused_by=1)
def backward_after_the_loop(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        losses = []
        for x, y in step.batches(POINTS):
            losses.append(F.cross_entropy(model(x), y))
        torch.stack(losses).mean().backward()
        optimizer.step()


@program(refused="in another sub-task|computed twice|has left none")
def losses_over_several_batches(run: surefoot.Run) -> None:
    """Accumulation as scripts have it: one backward pass for several batches' losses."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        total = 0.0
        for i, (x, y) in enumerate(step.batches(POINTS)):
            total = total + F.cross_entropy(model(x), y)
            if i % 4 == 3:
                total.backward()
                total = 0.0
        optimizer.step()


@program(steps=6)
def penalty_after_the_loop(run: surefoot.Run) -> None:
    """A penalty of the weights, the same everywhere, adds to what was merged."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        (0.01 * sum(p.pow(2).sum() for p in model.parameters())).backward()
        optimizer.step()


@program(steps=6)
def cyclic_by_a_lambda(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    schedule = lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.1, step_size_up=2, scale_fn=lambda n: 0.9**n, scale_mode="iterations", cycle_momentum=True
    )
    more = lr_scheduler.MultiplicativeLR(optimizer, lambda n: 0.99)
    run.track(model=model, optimizer=optimizer, schedule=schedule, more=more)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        schedule.step()
        more.step()


@program(refused="leave it out")
def distributed_sampler(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    sampler = torch.utils.data.DistributedSampler(POINTS, num_replicas=1, rank=0, seed=run.seed)
    for step in run.steps(run.config["steps"]):
        sampler.set_epoch(step.epoch)
        inner(model, step, sampler=sampler)
        optimizer.step()


@program(refused="make it a dense tensor")
def sparse_adjacency(run: surefoot.Run) -> None:
    """A graph net whose adjacency is a sparse buffer."""

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("adjacency", (torch.eye(8) + torch.eye(8).roll(1, 0)).to_sparse())
            self.body = nn.Linear(8, 3)

        def forward(self, x):
            return self.body(torch.sparse.mm(self.adjacency, x.t()).t())

    model = Graph()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()


@program(steps=6)
def buffers_in_eight_bits(run: surefoot.Run) -> None:
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 3)
            self.register_buffer("kept", torch.zeros(3, 8).to(torch.float8_e4m3fn))
            self.register_buffer("amax", torch.zeros((), dtype=torch.bfloat16))
            self.register_buffer("seen", torch.zeros(4, dtype=torch.uint16))

        def forward(self, x):
            return self.body(x) + F.linear(x, self.kept.float())

    model = Scaled()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        model.kept = (0.1 * model.body.weight.detach()).to(torch.float8_e4m3fn)
        model.amax.copy_(model.body.weight.detach().abs().max())


@program(steps=6)
def swapped_models(run: surefoot.Run) -> None:
    """Two networks change their places, as in co-teaching and double Q-learning."""
    one, two = mlp(), mlp()
    opt_one, opt_two = sgd(one), sgd(two)
    run.track(one=one, two=two, opt_one=opt_one, opt_two=opt_two)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.no_grad():
                aim = two(x).softmax(-1)
            loss = F.cross_entropy(one(x), y) + 0.1 * F.cross_entropy(one(x), aim)
            loss.backward()
            step.log(loss=loss)
        opt_one.step()
        one, two, opt_one, opt_two = two, one, opt_two, opt_one


@program(steps=6)
def images_through_a_library(run: surefoot.Run) -> None:
    """A scikit-learn scaler that learns as it goes, from what is gathered."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().partial_fit(np.ones((2, 3)) * [[1.0], [2.0]])
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(IMAGES):
            mean = torch.from_numpy(scaler.mean_).float().view(3, 1, 1)
            loss = F.cross_entropy(model(x - mean), y)
            loss.backward()
            step.log(loss=loss)
            step.gather(means=x.mean((2, 3)))
        optimizer.step()
        scaler.partial_fit(step.gathered["means"].double().numpy())


@program(refused="merged with nobody", refused_by=1)
def gradients_taken_after_the_loop(run: surefoot.Run) -> None:
    """Of the last batch's loss, by torch.autograd.grad, and put where the optimizer finds them."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            step.log(loss=loss)
        parameters = list(model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()


@program(steps=6)
def gradients_taken_in_the_loop(run: surefoot.Run) -> None:
    """A penalty on the gradient of the input, as WGAN-GP has it, and one on the weights after the loop."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            loss = F.cross_entropy(model(x), y) + (gradient.norm() - 1).pow(2)
            loss.backward()
            step.log(loss=loss)
        (decay,) = torch.autograd.grad(model[0].weight.pow(2).sum(), model[0].weight)
        model[0].weight.grad += 0.01 * decay
        optimizer.step()


OF_THIS_THREAD = threading.local()
OF_THIS_THREAD.scale = 1.0


@program(steps=6)
def values_of_the_thread(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    OF_THIS_THREAD.scale = 1.0
    for step in run.steps(run.config["steps"]):
        inner(model, step, loss_fn=lambda out, y: OF_THIS_THREAD.scale * F.cross_entropy(out, y))
        optimizer.step()
        OF_THIS_THREAD.scale *= 0.9
