"""Optimizers: torch's own in their kinds, on contiguous and channels_last parameters, and those that people write."""

import torch
from kinds import IMAGES, POINTS, fit, mlp, program, waves
from torch import nn
from torch.utils.data import TensorDataset

import surefoot


def conv(memory_format=torch.channels_last):
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    return nn.Sequential(*layers).to(memory_format=memory_format)


ADAPTIVE = (
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "Adafactor",
)
SETTINGS = {
    "sgd_nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "rmsprop_centered": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    "adam_amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "adamw_fused": ("AdamW", {"lr": 0.01, "fused": True}),
    "adam_fused_amsgrad": ("Adam", {"lr": 0.01, "fused": True, "amsgrad": True}),
    "sgd_fused": ("SGD", {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "adagrad_fused": ("Adagrad", {"lr": 0.05, "fused": True}),
    "adamw_foreach": ("AdamW", {"lr": 0.01, "foreach": True}),
    "nadam_decoupled": ("NAdam", {"lr": 0.01, "decoupled_weight_decay": True, "foreach": True}),
    "adamw_tensor_lr": ("AdamW", {"lr": torch.tensor(0.02), "foreach": False}),
    "adamw_fused_tensor_lr": ("AdamW", {"lr": torch.tensor(0.02), "fused": True}),
    "adam_capturable_like": ("Adam", {"lr": 0.01, "differentiable": False, "maximize": True}),
    **{f"plain_{kind.lower()}": (kind, {}) for kind in ADAPTIVE},
}


def _list(name, kind, settings, memory_format):
    def train(run: surefoot.Run) -> None:
        model = conv(memory_format)
        own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
        fit(run, model, getattr(torch.optim, kind)(model.parameters(), **own), data=IMAGES)

    train.__name__ = train.__qualname__ = name
    globals()[name] = program()(train)


for _name, (_kind, _settings) in SETTINGS.items():
    _list(f"{_name}_channels_last", _kind, _settings, torch.channels_last)
_list("adamw_fused_contiguous", *SETTINGS["adamw_fused"], torch.contiguous_format)


@program()
def muon(run: surefoot.Run) -> None:
    model = mlp()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = torch.optim.AdamW([p for p in model.parameters() if p.ndim != 2], lr=0.01)
    optimizer = torch.optim.Muon(matrices, lr=0.01)
    fit(run, model, optimizer, after=lambda step: others.step(), others=others)


@program()
def transposed_parameters(run: surefoot.Run) -> None:
    """Parameters that are transposed in memory, with a fused optimizer."""
    model = mlp(16)
    for part in model:
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().t().contiguous().t())
    fit(run, model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True))


@program()
def channels_last_3d(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 2), nn.Flatten(), nn.Linear(4 * 27, 3)).to(
        memory_format=torch.channels_last_3d
    )
    data = TensorDataset(waves(50, 3, 4, 4, 4), torch.arange(50) % 3)
    fit(run, model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True), data=data)


@program()
def channels_last_after_the_optimizer(run: surefoot.Run) -> None:
    """The optimizer is made before the model's format is."""
    model = conv(torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    fit(run, model.to(memory_format=torch.channels_last), optimizer, data=IMAGES)


@program(steps=8)
def format_changed_while_training(run: surefoot.Run) -> None:
    """The model becomes channels_last at step 3."""
    model = conv(torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def before(step):
        if step.number == 3:
            model.to(memory_format=torch.channels_last)

    fit(run, model, optimizer, data=IMAGES, before=before)


class Lamb(torch.optim.Optimizer):
    """As LAMB: norms of whole tensors, which depend on their order in memory."""

    def __init__(self, params, lr=0.01, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["m"], state["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                state["m"].mul_(b1).add_(p.grad, alpha=1 - b1)
                state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                update = state["m"] / (state["v"].sqrt() + 1e-6) + 0.01 * p
                p.add_(update, alpha=-float(group["lr"] * p.norm() / (update.norm() + 1e-6)))


@program()
def lamb_channels_last(run: surefoot.Run) -> None:
    model = conv()
    fit(run, model, Lamb(model.parameters()), data=IMAGES)


class Lookahead:
    """As the wrapper that people copy: slow weights of its own, told by its own state_dict."""

    def __init__(self, inner, k=3, alpha=0.5):
        self.inner, self.k, self.alpha, self.count = inner, k, alpha, 0
        self.param_groups = inner.param_groups
        self.slow = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]

    def step(self):
        self.inner.step()
        self.count += 1
        if self.count % self.k == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    s.add_(p.detach() - s, alpha=self.alpha)
                    p.data.copy_(s)

    def state_dict(self):
        return {"inner": self.inner.state_dict(), "count": self.count, "slow": self.slow}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])
        self.count = state["count"]
        for own, saved in zip(self.slow, state["slow"], strict=True):
            for s, v in zip(own, saved, strict=True):
                s.copy_(v)


@program(steps=8)
def lookahead_beside_its_inner_optimizer(run: surefoot.Run) -> None:
    model = mlp()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    lookahead = Lookahead(inner)
    run.track(model=model, inner=inner, lookahead=lookahead)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        lookahead.step()


class LookaheadOptimizer(torch.optim.Optimizer):
    """The other wrapper that people copy: an Optimizer by inheritance, with attributes and a state_dict of its own."""

    def __init__(self, inner, k=3, alpha=0.5):
        self.inner, self.k, self.alpha, self.count = inner, k, alpha, 0
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups
        self.slow = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]

    def step(self, closure=None):
        self.inner.step()
        self.count += 1
        if self.count % self.k == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    s.add_(p.detach() - s, alpha=self.alpha)
                    p.data.copy_(s)

    def state_dict(self):
        return {"inner": self.inner.state_dict(), "count": self.count, "slow": self.slow}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])
        self.count = state["count"]
        for own, saved in zip(self.slow, state["slow"], strict=True):
            for s, v in zip(own, saved, strict=True):
                s.copy_(v)


@program(steps=8)
def lookahead_by_inheritance(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, LookaheadOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)))


class Counting(torch.optim.SGD):
    """A warm-up counted in an attribute that its state_dict tells."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 * min(1.0, self.count / 5)
        super().step()

    def state_dict(self):
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
        super().load_state_dict({k: v for k, v in state.items() if k != "count"})


@program()
def optimizer_with_its_own_state_dict(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, Counting(model.parameters(), lr=0.1))


class Shared(torch.optim.Optimizer):
    """One tensor in the state of every parameter, and in the groups; a global entry in the state."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.05, "clock": torch.zeros(())})
        self.state["all"] = {"steps": torch.zeros(()), "history": [torch.zeros(3)]}

    @torch.no_grad()
    def step(self, closure=None):
        whole = self.state["all"]
        whole["steps"] += 1
        whole["history"][0].add_(whole["steps"])
        for group in self.param_groups:
            group["clock"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state.setdefault("clock", group["clock"])
                state["clock"] += 0.25
                p.sub_(p.grad * group["lr"] / (1 + state["clock"] + whole["history"][0][0]))


@program()
def one_tensor_in_many_places(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, Shared(model.parameters()))


class Views(torch.optim.Optimizer):
    """Its states are views of one flat tensor, which it moves as a whole."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.05})
        own = [p for g in self.param_groups for p in g["params"]]
        self.state["flat"] = {"momentum": torch.zeros(sum(p.numel() for p in own))}
        parts = self.state["flat"]["momentum"].split([p.numel() for p in own])
        for p, part in zip(own, parts, strict=True):
            self.state[p]["momentum"] = part.view_as(p)

    @torch.no_grad()
    def step(self, closure=None):
        self.state["flat"]["momentum"].mul_(0.9)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum"].add_(p.grad)
                p.sub_(self.state[p]["momentum"], alpha=group["lr"])


@program()
def state_in_views_of_one_tensor(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, Views(model.parameters()))


@program()
def bf16_parameters_fp32_state(run: surefoot.Run) -> None:
    model = mlp(16).bfloat16()
    data = TensorDataset(waves(100, 8).bfloat16(), torch.arange(100) % 3)
    fit(run, model, Lamb(model.parameters()), data=data)


@program()
def double_and_complex(run: surefoot.Run) -> None:
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.view_as_complex(waves(8, 3, 2).contiguous()))
            self.bias = nn.Parameter(torch.zeros(3, dtype=torch.double))

        def forward(self, x):
            return (x.to(self.weight.dtype) @ self.weight).abs().double() + self.bias

    model = Spectral()
    fit(run, model, torch.optim.Adam(model.parameters(), lr=0.01, foreach=True))


@program()
def param_groups_with_settings(run: surefoot.Run) -> None:
    model = mlp()
    groups = [
        {"params": model[0].parameters(), "lr": 0.05, "weight_decay": 0.1, "name": "body"},
        {"params": model[2].parameters(), "betas": (0.8, 0.9)},
    ]
    fit(run, model, torch.optim.AdamW(groups, lr=0.01))


@program(steps=8)
def hyperparameters_set_by_hand(run: surefoot.Run) -> None:
    """The learning rate and momentum are set from the step's number and the merged loss."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def after(step):
        optimizer.param_groups[0]["lr"] *= 0.9 + 0.01 * step.merged["loss"]
        optimizer.param_groups[0]["momentum"] = 0.5 + 0.05 * step.number

    fit(run, model, optimizer, after=after)


@program(refused="LBFGS")
def lbfgs(run: surefoot.Run) -> None:
    model = mlp()
    fit(run, model, torch.optim.LBFGS(model.parameters()))


@program(refused="sparse")
def sparse_gradients(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.EmbeddingBag(100, 3, sparse=True))
    data = TensorDataset((torch.arange(400) * 7 % 23).view(100, 4), torch.arange(100) % 3)
    fit(run, model, torch.optim.SparseAdam(model.parameters()), data=data)


@program(steps=8)
def state_in_the_order_of_first_gradients(run: surefoot.Run) -> None:
    """The first layer is skipped at first, so its momenta are made last; and code goes through them in their order."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = nn.functional.cross_entropy(model(x) if step.number > 1 else model[1](x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        running = 0.0
        for state in optimizer.state.values():
            running = 0.5 * running + float(state["momentum_buffer"].norm())
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + running)
