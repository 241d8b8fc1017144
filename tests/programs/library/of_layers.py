"""Layers and models of many kinds: what they hold beside parameters, and how their buffers and weights come about."""

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as P
from kinds import IMAGES, POINTS, TOKENS, fit, mlp, program
from torch import nn
from torch.nn.utils import parametrize

import surefoot


def adam(model, **how):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, **how)


def _list(name, make, data=POINTS, **how):
    def train(run: surefoot.Run) -> None:
        model = make()
        fit(run, model, adam(model), data=data)

    train.__name__ = train.__qualname__ = name
    globals()[name] = program(**how)(train)


class Last(nn.Module):
    """A recurrent layer, and a head on its last output."""

    def __init__(self, kind, **how):
        super().__init__()
        self.embed = nn.Embedding(23, 6)
        self.body = kind(6, 5, batch_first=True, **how)
        self.head = nn.Linear(10 if how.get("bidirectional") else 5, 3)

    def forward(self, x):
        return self.head(self.body(self.embed(x))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(23, 8, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.register_buffer("mask", torch.triu(torch.full((6, 6), float("-inf")), 1), persistent=False)

    def forward(self, x):
        return self.head(self.body(self.embed(x) + self.place, mask=self.mask).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(23, 8)
        self.out = nn.Linear(8, 23, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.embed(x).mean(1))[:, :3]


class SharedBuffer(nn.Module):
    """One buffer registered by two modules, and one module at two places."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 3)
        self.again = self.one
        scale = torch.ones(8)
        self.one.register_buffer("scale", scale)
        self.two.register_buffer("scale", scale)

    def forward(self, x):
        if self.training:
            self.one.scale.mul_(0.9).add_(0.1 * x.detach().abs().mean())
        return self.two(self.again(self.one(x)) * self.two.scale)


class BufferIsViewOfParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.register_buffer("tilt", torch.linspace(0, 1, 3).expand(4, 3))

    def forward(self, x):
        return self.inner(x) + self.tilt[0]


class Odd(nn.Module):
    """Buffers that are 0-dimensional, empty, None, bool, transposed, non-persistent."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.register_buffer("zero", torch.tensor(1.0))
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("none", None)
        self.register_buffer("mask", torch.arange(8) % 3 != 0)
        self.register_buffer("turned", torch.arange(24.0).view(3, 8).t())
        self.register_buffer("hidden", torch.zeros(3), persistent=False)

    def forward(self, x):
        if self.training:
            self.zero.mul_(0.9).add_(0.1 * x.mean().detach())
            self.hidden.add_(x.mean().detach())
        return self.inner(x * self.mask) + x @ (self.turned * 0.01) * self.zero + 0.1 * self.hidden


class Extra(nn.Linear):
    scale = 1.0

    def forward(self, x):
        return super().forward(x) * self.scale

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]


class ExtraTensor(nn.Linear):
    """Extra state that is a tensor, and an object."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.history = [torch.ones(2)]

    def forward(self, x):
        return super().forward(x) * self.history[-1].mean()

    def get_extra_state(self):
        return self.history

    def set_extra_state(self, state):
        self.history = state


class StochasticDepth(nn.Module):
    """A branch with BatchNorm that runs in some sub-tasks only: `num_batches_tracked` differs by use."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x):
        x = self.first(x)
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.branch(x)
        return self.last(x)


class Unused(nn.Module):
    """Parameters that some sub-tasks, or none, use."""

    def __init__(self):
        super().__init__()
        self.always, self.some, self.never, self.frozen = (nn.Linear(8, 3) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x):
        out = self.always(x) + self.frozen(x)
        return out + self.some(x) if torch.rand(()) < 0.5 else out


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x.requires_grad_(), use_reentrant=False))


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("level", torch.zeros(1))

    def forward(self, x):
        y = self.norm(self.inner(x))
        if self.training:
            self.level.mul_(0.9).add_(0.1 * y.detach().mean())
        return self.head(torch.relu(y) + self.level)


class Symmetric(nn.Module):
    def forward(self, w):
        return (w + w.t()) / 2


def parametrized():
    model = mlp()
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return nn.Sequential(layer, model)


def bn(track=True, momentum=0.1, **how):
    norm = nn.BatchNorm1d(8, track_running_stats=track, momentum=momentum, **how)
    return nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def eval_norm():
    """BatchNorm frozen in eval mode, as in fine-tuning."""
    model = bn()
    model[1].eval()
    for p in model[1].parameters():
        p.requires_grad_(False)
    return model


def conv_norm():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.ConvTranspose2d(4, 3, 2), nn.GroupNorm(3, 3),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3),
    ).to(memory_format=torch.channels_last)  # fmt: skip


for _name, _make, _data in [
    ("rnn", lambda: Last(nn.RNN), TOKENS),
    ("lstm", lambda: Last(nn.LSTM, num_layers=2, dropout=0.2, bidirectional=True), TOKENS),
    ("gru", lambda: Last(nn.GRU), TOKENS),
    ("transformer", Attention, TOKENS),
    ("tied_weights", Tied, TOKENS),
    ("embedding_bag", lambda: nn.Sequential(nn.EmbeddingBag(23, 8), nn.Linear(8, 3)), TOKENS),
    ("shared_buffers_and_modules", SharedBuffer, POINTS),
    ("expanded_buffer", BufferIsViewOfParameter, POINTS),
    ("odd_buffers", Odd, POINTS),
    ("stochastic_depth", StochasticDepth, POINTS),
    ("parameters_used_sometimes", Unused, POINTS),
    ("activation_checkpointing", Checkpointed, POINTS),
    ("jit_script", lambda: torch.jit.script(Scripted()), POINTS),
    ("jit_script_part", lambda: nn.Sequential(torch.jit.script(Scripted()), nn.Linear(3, 3)), POINTS),
    ("weight_norm", lambda: nn.Sequential(P.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)), POINTS),
    ("spectral_norm", lambda: nn.Sequential(P.spectral_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)), POINTS),
    ("orthogonal", lambda: nn.Sequential(P.orthogonal(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)), POINTS),
    ("own_parametrization", parametrized, POINTS),
    ("batch_norm", bn, POINTS),
    ("batch_norm_cumulative", lambda: bn(momentum=None), POINTS),
    ("batch_norm_without_statistics", lambda: bn(track=False), POINTS),
    ("batch_norm_frozen", eval_norm, POINTS),
    ("convolutions_channels_last", conv_norm, IMAGES),
    ("lazy_linear", lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3)), POINTS),
    ("lazy_with_norm", lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3)), POINTS),
    ("lazy_convolution", lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)), IMAGES),
    ("multihead_attention_dropout", lambda: Attention(0.3), TOKENS),
    (
        "rrelu_and_dropouts",
        lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU(), nn.AlphaDropout(0.1), nn.Linear(8, 3)),
        POINTS,
    ),
]:
    _list(_name, _make, _data)


@program(steps=8)
def old_weight_norm(run: surefoot.Run) -> None:
    """The deprecated weight_norm, which recomputes a plain attribute by a forward hook."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = torch.nn.utils.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3))
    fit(run, model, adam(model))


@program(steps=8)
def old_spectral_norm(run: surefoot.Run) -> None:
    model = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))
    fit(run, model, adam(model))


@program(steps=8)
def extra_state(run: surefoot.Run) -> None:
    model = Extra(8, 3)

    def after(step):
        model.scale = 0.9 * model.scale + 0.1 * step.merged["loss"]

    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1), after=after)


@program(steps=8)
def extra_state_of_a_part(run: surefoot.Run) -> None:
    model = nn.Sequential(ExtraTensor(8, 8), ExtraTensor(8, 3))

    def after(step):
        for part in model:
            part.history = [*part.history[-2:], part.history[-1] * 0.9 + 0.05 * step.merged["loss"]]

    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1), after=after)


@program(steps=8)
def own_module_state_dict(run: surefoot.Run) -> None:
    """A module that tells a plain attribute by overriding _save_to_state_dict."""

    class Momentum(nn.Linear):
        level = 1.0

        def forward(self, x):
            return super().forward(x) * self.level

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "level"] = torch.tensor(self.level)

        def _load_from_state_dict(self, state, prefix, *rest):
            self.level = float(state.pop(prefix + "level"))
            super()._load_from_state_dict(state, prefix, *rest)

    model = Momentum(8, 3)

    def after(step):
        model.level *= 0.9

    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.1), after=after)


@program(steps=6)
def quantization_aware(run: surefoot.Run) -> None:
    """Fake quantization with torch's default observers, which keep minima and maxima in buffers."""
    import warnings

    import torch.ao.quantization as tq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(tq.QuantStub(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), tq.DeQuantStub()).train()
        model.qconfig = tq.get_default_qat_qconfig("fbgemm")
        tq.prepare_qat(model, inplace=True)
    fit(run, model, torch.optim.SGD(model.parameters(), lr=0.05))


@program(steps=6)
def inference_mode_before_the_first_step(run: surefoot.Run) -> None:
    """Buffers that were made in inference mode."""
    with torch.inference_mode():
        norm = nn.BatchNorm1d(8)
    for name, p in list(norm.named_parameters()):
        setattr(norm, name, nn.Parameter(p.detach().clone()))
    model = nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 3))
    fit(run, model, adam(model))


@program(steps=6)
def inference_mode_sanity_check(run: surefoot.Run) -> None:
    """A forward in inference mode before training, as a sanity check."""
    model = bn()
    with torch.inference_mode():
        model(torch.ones(4, 8))
    fit(run, model, adam(model))


@program(steps=6)
def hooks_and_loss_module(run: surefoot.Run) -> None:
    """A loss with a parameter of its own (a learned temperature), and a forward hook."""
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda m, i, o: seen.append(1) or o * 2)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.heat = nn.Parameter(torch.ones(()))

        def forward(self, out, y):
            return F.cross_entropy(out * self.heat, y)

    loss = Loss()
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.01)
    fit(run, model, optimizer, loss=loss, criterion=loss)


@program(steps=6)
def functional_parameters(run: surefoot.Run) -> None:
    """Parameters without a module, held by the optimizer alone."""
    w = torch.zeros(8, 3, requires_grad=True)
    b = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([{"params": [w]}, {"params": [b], "lr": 0.1}], lr=0.02)
    run.track(optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(x @ w + b, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
