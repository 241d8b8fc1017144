"""Methods as they are published: SAM, MAML, adversarial training, per-sample gradients, hooks, custom functions, compilation."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp, program, waves
from practice import fit_tracked, sgd
from torch import nn

import surefoot


class SAM(torch.optim.Optimizer):
    """The widely copied one: wraps a base optimizer, two steps."""

    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        norm = torch.norm(
            torch.stack([p.grad.norm(2) for g in self.param_groups for p in g["params"] if p.grad is not None]), 2
        )
        for g in self.param_groups:
            scale = g["rho"] / (norm + 1e-12)
            for p in g["params"]:
                if p.grad is None:
                    continue
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * scale)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure=None):
        raise NotImplementedError

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


@program(steps=6)
def sam_as_published(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.first_step(zero_grad=True)
        for x, y in step.batches(POINTS):
            F.cross_entropy(model(x), y).backward()
        optimizer.second_step(zero_grad=True)


@program(steps=6)
def data_parallel_wrapper(run: surefoot.Run) -> None:
    model = nn.DataParallel(mlp())
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def per_sample_gradients(run: surefoot.Run) -> None:
    """DP-SGD by functional_call, vmap and grad; gradients are written by hand."""
    from torch.func import functional_call, grad, vmap

    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)

    def loss_of(params, x, y):
        return F.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    each = vmap(grad(loss_of), in_dims=(None, 0, 0))
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            params = {k: v.detach() for k, v in model.named_parameters()}
            grads = each(params, x, y)
            norms = torch.sqrt(sum(g.flatten(1).pow(2).sum(1) for g in grads.values()))
            scale = (0.5 / (norms + 1e-6)).clamp(max=1)
            for name, p in model.named_parameters():
                g = torch.einsum("n,n...->...", scale, grads[name]) / len(x)
                p.grad = g + 0.01 * torch.randn_like(g)
            step.log(norm=norms.mean())
        optimizer.step()


@program(steps=6)
def hooks_of_every_kind(run: surefoot.Run) -> None:
    model = mlp()
    seen = {}
    model[0].register_forward_hook(lambda m, i, o: seen.__setitem__("act", o.detach()))
    model[2].register_full_backward_hook(lambda m, gi, go: seen.__setitem__("grad", go[0]))
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-0.05, 0.05))
    optimizer = sgd(model)
    optimizer.register_step_post_hook(lambda *a: None)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def custom_functions(run: surefoot.Run) -> None:
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sign()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * (x.abs() <= 1)

    class Binary(nn.Linear):
        def forward(self, x):
            return F.linear(x, Sign.apply(self.weight), self.bias)

    model = nn.Sequential(Binary(8, 8), nn.BatchNorm1d(8), nn.Hardtanh(), Binary(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        for m in model:
            if isinstance(m, Binary):
                m.weight.data.clamp_(-1, 1)


@program(steps=6)
def norms_by_parametrization(run: surefoot.Run) -> None:
    from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

    model = nn.Sequential(
        spectral_norm(nn.Linear(8, 8)), nn.ReLU(), weight_norm(nn.Linear(8, 8)), nn.ReLU(), orthogonal(nn.Linear(8, 3))
    )
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def compiled_model(run: surefoot.Run) -> None:
    model = mlp()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(compiled(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def compiled_model_tracked(run: surefoot.Run) -> None:
    model = torch.compile(
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)), backend="eager"
    )
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def half_precision_master_weights(run: surefoot.Run) -> None:
    """A bf16 model with fp32 master copies in a list, as apex did."""
    model = mlp().to(torch.bfloat16)
    masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x.bfloat16()).float(), y)
            loss.backward()
            step.log(loss=loss)
        for m, p in zip(masters, model.parameters(), strict=True):
            m.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for m, p in zip(masters, model.parameters(), strict=True):
                p.copy_(m)


@program(steps=6)
def scaler_with_unscale_and_clip(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
    run.track(model=model, optimizer=optimizer, scaler=scaler)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            optimizer.zero_grad()
            with torch.amp.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            step.log(loss=loss)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


@program(steps=6)
def manifold_constraint_and_noise(run: surefoot.Run) -> None:
    """After the step: weights are normalised, noise is added, one is zeroed (max-norm, pruning masks by hand)."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = {n: (waves(*p.shape) > -0.5).float() for n, p in model.named_parameters()}
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        for n, p in model.named_parameters():
            p.grad *= masks[n]
            p.grad.add_(torch.randn_like(p), alpha=0.01)
        optimizer.step()
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.mul_(masks[n])
                if p.ndim > 1:
                    p.copy_(torch.renorm(p, 2, 0, 1.0))


@program(steps=6)
def cyclic_moments_and_adamw_amsgrad(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True, foreach=True)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-1, step_size_up=2, cycle_momentum=False)
    warm = torch.optim.lr_scheduler.ChainedScheduler([schedule])
    run.track(model=model, optimizer=optimizer, warm=warm)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        warm.step()


@program(refused="has not ended")
def optimizers_by_backward_hooks(run: surefoot.Run) -> None:
    """The optimizer-in-backward recipe: post-accumulate hooks step each parameter."""
    model = mlp()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    run.track(model=model, **{f"o{i}": o for i, o in enumerate(optimizers.values())})
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)


@program(steps=6)
def retained_graph_and_double_use(run: surefoot.Run) -> None:
    """Two losses on one graph with retain_graph; autograd.backward with inputs; PCGrad by hand from autograd.grad."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    params = list(model.parameters())
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = model(x)
            one, two = F.cross_entropy(out, y), out.pow(2).mean()
            a = torch.autograd.grad(one, params, retain_graph=True)
            b = torch.autograd.grad(two, params)
            dot = sum((u * v).sum() for u, v in zip(a, b, strict=True))
            for p, u, v in zip(params, a, b, strict=True):
                p.grad = u + v - (dot.clamp(max=0) / (v.norm() ** 2 + 1e-6)) * v
            step.log(loss=one)
        optimizer.step()
