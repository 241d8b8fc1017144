"""Ordinary models and what trains them: adapters, quantization, energies, flows, transformers with caches, own autograd functions."""

import contextlib
import math
import os
import random
import tempfile
import warnings

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint as ckpt
from kinds import IMAGES, POINTS, TOKENS, mlp, program, waves
from practice import sgd
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import Dataset, TensorDataset

import surefoot


def inner(model, step, data=POINTS, loss_of=F.cross_entropy, **how):
    for x, y in step.batches(data, **how):
        loss = loss_of(model(x), y)
        loss.backward()
        step.log(loss=loss)


def plain(run, model, optimizer, data=POINTS, loss_of=F.cross_entropy, **tracked):
    run.track(model=model, optimizer=optimizer, **tracked)
    for step in run.steps(run.config["steps"]):
        inner(model, step, data, loss_of)
        optimizer.step()
        optimizer.zero_grad()


class LoRA(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, base.in_features) * 0.1),
            nn.Parameter(torch.zeros(base.out_features, rank)),
        )
        self.merged = False

    def forward(self, x):
        return self.base(x) + F.dropout(x, 0.1, self.training) @ self.a.t() @ self.b.t()


@program(steps=6)
def adapters_merged_and_begun_anew(run: surefoot.Run) -> None:
    """ReLoRA: the product is added to the frozen weight, the factors begin anew, and so does their state in the optimizer."""
    model = nn.Sequential(LoRA(nn.Linear(8, 8)), nn.ReLU(), LoRA(nn.Linear(8, 3)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        if step.every(3):
            with torch.no_grad():
                for m in model:
                    if isinstance(m, LoRA):
                        m.base.weight += m.b @ m.a
                        nn.init.kaiming_uniform_(m.a)
                        m.b.zero_()
                        for p in (m.a, m.b):
                            for v in optimizer.state[p].values():
                                v.zero_()


class Fake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bits):
        scale = x.abs().max() / (2 ** (bits - 1) - 1)
        ctx.save_for_backward(x, scale)
        return torch.round(x / scale) * scale

    @staticmethod
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        return grad * (x.abs() <= scale * 127), None


class Quantized(nn.Linear):
    def forward(self, x):
        return F.linear(Fake.apply(x, 8), Fake.apply(self.weight, 8), self.bias)


@program(steps=6, in_suite=False)
def fake_quantization_by_hand(run: surefoot.Run) -> None:
    model = nn.Sequential(Quantized(8, 8), nn.PReLU(), Quantized(8, 3))
    plain(run, model, torch.optim.RMSprop(model.parameters(), lr=0.01, centered=True, momentum=0.9))


class Attention(nn.Module):
    """Attention with rotary positions whose tables grow on demand, and a mask that is kept."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.register_buffer("mask", torch.empty(0, dtype=torch.bool), persistent=False)
        self.cos = self.sin = None

    def tables(self, n, d):
        if self.cos is None or len(self.cos) < n:
            angle = torch.outer(torch.arange(float(n)), 1 / 100 ** (torch.arange(0, d, 2) / d))
            self.cos, self.sin = angle.cos().to(self.out.weight.dtype), angle.sin().to(self.out.weight.dtype)
        return self.cos[:n], self.sin[:n]

    def rotate(self, x):
        cos, sin = self.tables(x.shape[-2], x.shape[-1])
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def forward(self, x):
        b, n, w = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(
            self.rotate(q), self.rotate(k), v, is_causal=True, dropout_p=0.1 if self.training else 0.0
        )
        return self.out(y.transpose(1, 2).reshape(b, n, w))


class Block(nn.Module):
    def __init__(self, width=8, drop=0.0):
        super().__init__()
        self.a, self.n1, self.n2 = Attention(width), nn.LayerNorm(width), nn.RMSNorm(width)
        self.m = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width), nn.Dropout(0.1))
        self.drop, self.gamma = drop, nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        x = x + self.a(self.n1(x))
        if self.training and torch.rand(()) < self.drop:
            return x
        return x + self.gamma * self.m(self.n2(x))


class Tiny(nn.Module):
    def __init__(self, depth=2, tie=True, checkpointed=False):
        super().__init__()
        self.embed = nn.Embedding(23, 8)
        self.blocks = nn.ModuleList(Block(drop=0.2 * i) for i in range(depth))
        self.head = nn.Linear(8, 23, bias=False)
        self.checkpointed = checkpointed
        if tie:
            self.head.weight = self.embed.weight
        self.apply(self.initialise)

    @staticmethod
    def initialise(m):
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = ckpt.checkpoint(block, x, use_reentrant=False) if self.checkpointed and self.training else block(x)
        return self.head(x)

    @torch.no_grad()
    def generate(self, tokens, n):
        self.eval()
        for _ in range(n):
            probabilities = self(tokens)[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(probabilities, 1)], 1)
        self.train()
        return tokens


def next_token(model, x):
    logits = model(x[:, :-1])
    return F.cross_entropy(logits.reshape(-1, 23), x[:, 1:].reshape(-1), ignore_index=-1)


def configured(model, decay=0.1):
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return torch.optim.AdamW(
        [
            {"params": [p for p in params.values() if p.dim() >= 2], "weight_decay": decay},
            {"params": [p for p in params.values() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.95),
    )


@program(steps=5, in_suite=False)
def nano_gpt(run: surefoot.Run) -> None:
    """nanoGPT's loop: warm-up and cosine by iter_num, clipping, an estimate of the loss, samples in between."""
    model = Tiny()
    optimizer = configured(model)
    run.track(model=model, optimizer=optimizer)
    iter_num, best_val_loss, tokens_seen = 0, 1e9, 0
    ctx = torch.autocast("cpu", dtype=torch.bfloat16)

    def get_lr(it):
        if it < 2:
            return 0.01 * (it + 1) / 3
        return 0.001 + 0.5 * (1 + math.cos(math.pi * (it - 2) / 8)) * 0.009

    for step in run.steps(run.config["steps"]):
        lr = get_lr(iter_num)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for x, _ in step.batches(TOKENS):
            with ctx:
                loss = next_token(model, x)
            loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step.every(2):
            for x, _ in step.evaluate(TensorDataset(*(t[:20] for t in TOKENS.tensors))):
                step.log(val=next_token(model, x))
            if step.merged["val"] < best_val_loss:
                best_val_loss = step.merged["val"]
            model.generate(torch.zeros(1, 2, dtype=torch.long), 3)
        iter_num += 1  # noqa: SIM113  as nanoGPT does
        tokens_seen += run.batch_size * 5


@program(steps=5, in_suite=False)
def transformer_with_checkpointed_blocks(run: surefoot.Run) -> None:
    model = Tiny(checkpointed=True, tie=False)
    optimizer = configured(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(TOKENS):
            loss = next_token(model, x)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5, in_suite=False)
def torch_transformer_with_masks(run: surefoot.Run) -> None:
    class Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(23, 8, padding_idx=0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            pad = x == 0
            pad[:, 0] = False
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            h = self.encoder(self.embed(x) * math.sqrt(8), mask=mask, src_key_padding_mask=pad.float() * -1e9)
            return self.head(h.mean(1))

    model = Seq()
    plain(run, model, torch.optim.Adam(model.parameters(), lr=0.01), TOKENS)


@program(steps=5, in_suite=False)
def masked_language_model(run: surefoot.Run) -> None:
    """A collate that masks at random; losses weighed by how many tokens were masked."""

    def mask(samples):
        x = torch.stack([s[0] for s in samples]).clone()
        chosen = torch.rand(x.shape) < 0.3
        chosen[:, 0] = True
        labels = torch.where(chosen, x, -100)
        x[chosen & (torch.rand(x.shape) < 0.8)] = 0
        return x, labels

    model = Tiny()
    optimizer = configured(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, labels in step.batches(TOKENS, collate=mask):
            loss = F.cross_entropy(model(x).flatten(0, 1), labels.flatten())
            loss.backward()
            step.weigh((labels >= 0).sum().item())
            step.log(loss=loss)
        optimizer.step()


@program(steps=5, in_suite=False)
def contrastive_with_two_views(run: surefoot.Run) -> None:
    class Views(Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, i):
            x = IMAGES[i][0]
            return tuple(self.augment(x) for _ in range(2))

        @staticmethod
        def augment(x):
            if random.random() < 0.5:
                x = x.flip(-1)
            i, j = np.random.randint(0, 3, 2)
            return (x[:, i : i + 6, j : j + 6] * torch.empty(1).uniform_(0.8, 1.2)).contiguous()

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
    )
    temperature = nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.Adam([*model.parameters(), temperature], lr=0.01)
    run.track(model=model, optimizer=optimizer)
    views = Views()
    for step in run.steps(run.config["steps"]):
        for a, b in step.batches(views):
            z = F.normalize(model(torch.cat([a, b])), dim=1)
            logits = z @ z.t() / temperature - 1e9 * torch.eye(len(z))
            loss = F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5, in_suite=False)
def diffusion_with_average(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.Linear(16, 8))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer, average=average)
    betas = torch.linspace(1e-4, 0.02, 50)
    alphas = torch.cumprod(1 - betas, 0)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            t = torch.randint(0, 50, (len(x),))
            noise = torch.randn_like(x)
            a = alphas[t][:, None]
            out = model(torch.cat([a.sqrt() * x + (1 - a).sqrt() * noise, t[:, None] / 50], 1))
            loss = F.mse_loss(out, noise)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        average.update_parameters(model)


@program(steps=5)
def energy_model_with_langevin_and_a_buffer(run: surefoot.Run) -> None:
    """Samples by Langevin steps from a buffer that is refilled between steps."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 16)), nn.Softplus(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    buffer = torch.rand(32, 8)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            z = buffer[torch.randint(0, 32, (len(x),))].clone().requires_grad_()
            for _ in range(3):
                (g,) = torch.autograd.grad(model(z).sum(), z)
                z = (z - 0.1 * g + 0.01 * torch.randn_like(z)).detach().requires_grad_()
            loss = model(x).mean() - model(z.detach()).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        with torch.no_grad():
            buffer[torch.randperm(32)[:4]] = torch.rand(4, 8)


@program(steps=5, in_suite=False)
def wgan_with_several_critic_rounds(run: surefoot.Run) -> None:
    gen, critic = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)),
        nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)),
    )
    g_opt = torch.optim.RMSprop(gen.parameters(), lr=0.005)
    c_opt = torch.optim.RMSprop(critic.parameters(), lr=0.005)
    run.track(gen=gen, critic=critic, g_opt=g_opt, c_opt=c_opt)
    fixed = torch.randn(4, 4)
    for step in run.steps(run.config["steps"]):
        for _ in range(2):
            critic.requires_grad_(True)
            for x, _ in step.batches(POINTS):
                with torch.no_grad():
                    fake = gen(torch.randn(len(x), 4))
                mix = torch.rand(len(x), 1)
                z = (mix * x + (1 - mix) * fake).requires_grad_()
                (g,) = torch.autograd.grad(critic(z).sum(), z, create_graph=True)
                loss = critic(fake).mean() - critic(x).mean() + 10 * ((g.norm(2, 1) - 1) ** 2).mean()
                loss.backward()
                step.log(critic=loss)
            c_opt.step()
            c_opt.zero_grad()
        critic.requires_grad_(False)
        for x, _ in step.batches(POINTS):
            loss = -critic(gen(torch.randn(len(x), 4))).mean()
            loss.backward()
            step.log(gen=loss)
        g_opt.step()
        g_opt.zero_grad()
        gen(fixed).detach().numpy()


@program(steps=5, in_suite=False)
def vector_quantizer_with_straight_through(run: surefoot.Run) -> None:
    class VQ(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.dec, self.book = nn.Linear(8, 4), nn.Linear(4, 8), nn.Embedding(6, 4)

        def forward(self, x):
            z = self.enc(x)
            q = self.book(torch.cdist(z, self.book.weight).argmin(1))
            loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
            return self.dec(z + (q - z).detach()), loss

    model = VQ()
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            out, extra = model(x)
            (F.mse_loss(out, x) + extra).backward()
            step.log(extra=extra)
        optimizer.step()


@program(steps=5, in_suite=False)
def hypernetwork_by_functional_call(run: surefoot.Run) -> None:
    main = nn.Linear(8, 3)
    hyper = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 27))
    optimizer = torch.optim.Adagrad(hyper.parameters(), lr=0.01)
    run.track(hyper=hyper, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            flat = hyper(x.mean(0))
            weights = {"weight": flat[:24].view(3, 8), "bias": flat[24:]}
            loss = F.cross_entropy(torch.func.functional_call(main, weights, (x,)), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5)
def ensemble_by_vmap(run: surefoot.Run) -> None:
    models = [mlp() for _ in range(3)]
    params, buffers = torch.func.stack_module_state(models)
    held = nn.ParameterDict({k.replace(".", "_"): nn.Parameter(v.detach()) for k, v in params.items()})
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.01)
    run.track(held=held, optimizer=optimizer)
    base = mlp().to("meta")

    def one(p, b, x):
        return torch.func.functional_call(base, (p, b), (x,))

    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            p = {k: held[k.replace(".", "_")] for k in params}
            out = torch.vmap(one, in_dims=(0, 0, None))(p, buffers, x)
            loss = F.cross_entropy(out.flatten(0, 1), y.repeat(3))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5, in_suite=False)
def recurrent_with_packed_sequences(run: surefoot.Run) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.out = (
                nn.Embedding(23, 8),
                nn.LSTM(8, 8, 2, batch_first=True, dropout=0.2, bidirectional=True),
                nn.Linear(16, 3),
            )

        def forward(self, x):
            lengths = (x > 3).sum(1).clamp(min=1)
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
            _, (h, _) = self.lstm(packed)
            return self.out(torch.cat([h[-2], h[-1]], 1))

    model = Net()
    plain(run, model, torch.optim.Adam(model.parameters(), lr=0.01), TOKENS)


@program(steps=5)
def batch_norms_of_every_kind(run: surefoot.Run) -> None:
    """momentum=None, no statistics, InstanceNorm with statistics, GroupNorm, SyncBN converted, one without affine."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.InstanceNorm2d(4, track_running_stats=True, affine=True),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    plain(run, model, sgd(model, nesterov=True), IMAGES)


@program(steps=5)
def statistics_in_a_non_persistent_buffer(run: surefoot.Run) -> None:
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(8), persistent=False)
            self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)

        def forward(self, x):
            if self.training:
                self.mean.lerp_(x.detach().mean(0), 0.1)
            return x - self.mean

    model = nn.Sequential(Norm(), mlp())
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        inner(model, step)
        optimizer.step()
        model[0].steps += 1
        optimizer.param_groups[0]["lr"] = 0.1 / float(model[0].steps)


@program(steps=5, in_suite=False)
def complex_parameters_and_ffts(run: surefoot.Run) -> None:
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, dtype=torch.cfloat) * 0.3)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.fft.irfft(torch.fft.rfft(x) * self.w, n=8))

    model = Spectral()
    plain(run, model, torch.optim.Adam(model.parameters(), lr=0.02))


@program(steps=5, in_suite=False)
def orthogonal_and_custom_parametrizations(run: surefoot.Run) -> None:
    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    model = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 8), parametrizations.weight_norm(nn.Linear(8, 3))
    )
    parametrize.register_parametrization(model[1], "weight", Symmetric())
    plain(run, model, sgd(model))


@program(steps=5, in_suite=False)
def double_precision_and_gradient_penalty(run: surefoot.Run) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.Adadelta(model.parameters())
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            x = x.double().requires_grad_()
            out = model(x)
            (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            loss = F.cross_entropy(out, y) + 0.1 * g.pow(2).sum(1).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class Kept:
    """A hook that keeps activations, and one that scales gradients."""

    def __init__(self):
        self.outputs, self.calls = {}, 0

    def forward(self, name):
        def hook(module, inputs, output):
            self.outputs[name] = output
            self.calls += 1

        return hook


@program(steps=5, in_suite=False)
def feature_distillation_by_hooks(run: surefoot.Run) -> None:
    teacher, student = mlp(), mlp()
    teacher.eval().requires_grad_(False)
    kept, wanted = Kept(), Kept()
    student[0].register_forward_hook(kept.forward("h"))
    teacher[0].register_forward_hook(wanted.forward("h"))
    student[2].register_full_backward_hook(lambda m, gi, go: None)
    for p in student[0].parameters():
        p.register_hook(lambda g: g * 0.9)
    optimizer = sgd(student)
    run.track(student=student, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            soft = teacher(x)
            out = student(x)
            loss = F.cross_entropy(out, y) + F.mse_loss(kept.outputs["h"], wanted.outputs["h"])
            loss = loss + F.kl_div(F.log_softmax(out / 2, 1), F.softmax(soft / 2, 1), reduction="batchmean") * 4
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5)
def adafactor_and_embeddings_in_bf16(run: surefoot.Run) -> None:
    model = Tiny().to(torch.bfloat16)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(TOKENS):
            loss = next_token(model, x).float()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=5, in_suite=False)
def master_weights_by_hand(run: surefoot.Run) -> None:
    """bf16 model, fp32 copies in the optimizer; gradients copied over, weights copied back."""
    model = mlp().to(torch.bfloat16)
    master = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.Adam(master, lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x.bfloat16()).float(), y)
            loss.backward()
            step.log(loss=loss)
        for m, p in zip(master, model.parameters(), strict=True):
            m.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for m, p in zip(master, model.parameters(), strict=True):
                p.copy_(m)


@program(steps=5, in_suite=False)
def policy_gradient_with_a_baseline(run: surefoot.Run) -> None:
    """Advantages normalised, ratio clipped over several rounds of the same batch: PPO's inner part; rates annealed as CleanRL does."""

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pi, self.v = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x):
            h = self.body(x).tanh()
            return torch.distributions.Categorical(logits=self.pi(h)), self.v(h)[:, 0]

    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.01, eps=1e-5)
    run.track(agent=agent, optimizer=optimizer)
    rewards = waves(100, 3)
    data = TensorDataset(POINTS.tensors[0], rewards)
    num = run.config["steps"]
    for step in run.steps(num):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step.number / num)
        old = {}
        for epoch in range(2):
            for x, r in step.batches(data):
                pi, v = agent(x)
                action = r.argmax(1) if epoch else pi.sample()
                reward = r.gather(1, action[:, None])[:, 0]
                adv = (reward - v.detach() - (reward - v.detach()).mean()) / (reward.std() + 1e-8)
                ratio = (pi.log_prob(action) - pi.log_prob(action).detach()).exp()
                loss = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean() + 0.5 * (v - reward).pow(2).mean()
                loss = loss - 0.01 * pi.entropy().mean()
                loss.backward()
                step.log(loss=loss)
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        old.update(agent.state_dict())


@program(steps=5, in_suite=False)
def physics_informed(run: surefoot.Run) -> None:
    """Collocation points drawn in the sub-task, second derivatives."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            z = torch.rand_like(x).requires_grad_()
            u = model(z)
            (du,) = torch.autograd.grad(u.sum(), z, create_graph=True)
            (d2,) = torch.autograd.grad(du[:, 0].sum(), z, create_graph=True)
            loss = (d2[:, 0] + u[:, 0]).pow(2).mean() + F.mse_loss(model(x)[:, 0], y.float())
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


class Files(Dataset):
    """Samples in files, in a memory map that is opened when it is first needed."""

    def __init__(self, folder):
        self.path, self.map = os.path.join(folder, "x.npy"), None
        if not os.path.exists(self.path):
            np.save(self.path, waves(100, 8).numpy())

    def __len__(self):
        return 100

    def __getitem__(self, i):
        if self.map is None:
            self.map = np.load(self.path, mmap_mode="r")
        return torch.from_numpy(self.map[i].copy()), i % 3


@program(steps=6, data_workers=1)
def memory_map_opened_late(run: surefoot.Run) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = mlp()
        plain(run, model, sgd(model), Files(folder))


@program(steps=5, in_suite=False)
def contexts_and_warnings(run: surefoot.Run) -> None:
    """set_grad_enabled, detect_anomaly, profiler, nullcontext, warnings: habits around the loop."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.enter_context(torch.autograd.set_detect_anomaly(True))
        for step in run.steps(run.config["steps"]):
            with torch.profiler.record_function("train"), contextlib.nullcontext():
                for x, y in step.batches(POINTS):
                    with torch.set_grad_enabled(True):
                        loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    step.log(loss=loss)
            optimizer.step()


@program(steps=6, in_suite=False)
def mixture_density_with_weight_tying_by_views(run: surefoot.Run) -> None:
    """Parameters that are rows of one big parameter, frozen row by row through a gradient mask."""
    big = nn.Parameter(waves(6, 8) * 0.3)
    model = nn.ParameterList([big])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    run.track(model=model, optimizer=optimizer)
    frozen = torch.zeros(6, 1)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = (x @ big[:3].t()) * (x @ big[3:].t()).sigmoid()
            loss = F.cross_entropy(out, y)
            loss.backward()
            step.log(loss=loss)
        big.grad *= 1 - frozen
        optimizer.step()
        if step.every(2):
            frozen[int(big.grad.norm(dim=1).argmin())] = 1
