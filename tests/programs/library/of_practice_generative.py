"""Generative, contrastive and reinforcement learning as it is published: GANs, VAE, MoCo, BYOL, teachers, replay."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp, program
from practice import fit_tracked, sgd
from torch import nn

import surefoot


@program(steps=6)
def wgan_gp(run: surefoot.Run) -> None:
    maker, critic = (
        nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)),
        nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)),
    )
    og = torch.optim.Adam(maker.parameters(), lr=1e-2, betas=(0.0, 0.9))
    od = torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.0, 0.9))
    run.track(maker=maker, critic=critic, og=og, od=od)
    fixed = torch.randn(4, 4)
    for step in run.steps(run.config["steps"]):
        for _ in range(2):
            od.zero_grad()
            for x, _y in step.batches(POINTS):
                with torch.no_grad():
                    fake = maker(torch.randn(len(x), 4))
                eps = torch.rand(len(x), 1)
                mid = (eps * x + (1 - eps) * fake).requires_grad_(True)
                out = critic(mid)
                g = torch.autograd.grad(out, mid, torch.ones_like(out), create_graph=True, retain_graph=True)[0]
                loss = critic(fake).mean() - critic(x).mean() + 10 * ((g.norm(2, dim=1) - 1) ** 2).mean()
                loss.backward()
                step.log(d=loss)
            od.step()
        for p in critic.parameters():
            p.requires_grad = False
        og.zero_grad()
        for x, _y in step.batches(POINTS):
            loss = -critic(maker(torch.randn(len(x), 4))).mean()
            loss.backward()
            step.log(g=loss)
        og.step()
        for p in critic.parameters():
            p.requires_grad = True
        if step.every(3):
            with torch.no_grad():
                maker.eval()
                maker(fixed)
                maker.train()


@program(steps=6)
def gan_dcgan_classic(run: surefoot.Run) -> None:
    """The DCGAN tutorial: real and fake in one sub-task with two backward calls, then the generator's round."""
    g = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh())
    d = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    og, od = torch.optim.Adam(g.parameters(), 2e-3), torch.optim.Adam(d.parameters(), 2e-3)
    run.track(g=g, d=d, og=og, od=od)
    criterion = nn.BCEWithLogitsLoss()
    g_losses, d_losses = [], []
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            d.zero_grad()
            real = criterion(d(x), torch.ones(len(x), 1))
            real.backward()
            fake_x = g(torch.randn(len(x), 4))
            fake = criterion(d(fake_x.detach()), torch.zeros(len(x), 1))
            fake.backward()
            step.log(d=real + fake)
        od.step()
        d_losses.append(step.merged["d"])
        for x, _ in step.batches(POINTS):
            g.zero_grad()
            loss = criterion(d(g(torch.randn(len(x), 4))), torch.ones(len(x), 1))
            loss.backward()
            step.log(g=loss)
        og.step()
        g_losses.append(step.merged["g"])
        d.zero_grad()


@program(steps=6)
def vae_with_annealing(run: surefoot.Run) -> None:
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.mu, self.lv = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2)
            self.dec = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8))

        def reparameterize(self, mu, lv):
            return mu + torch.randn_like(mu) * torch.exp(0.5 * lv) if self.training else mu

        def forward(self, x):
            h = F.relu(self.enc(x))
            mu, lv = self.mu(h), self.lv(h)
            return self.dec(self.reparameterize(mu, lv)), mu, lv

    model = VAE()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2, centered=True, momentum=0.5)
    run.track(model=model, optimizer=optimizer)
    beta = 0.0
    for step in run.steps(run.config["steps"]):
        beta = min(1.0, step.number / 4)
        for x, _ in step.batches(POINTS):
            out, mu, lv = model(x)
            kl = -0.5 * torch.mean(1 + lv - mu.pow(2) - lv.exp())
            loss = F.mse_loss(out, x, reduction="sum") / len(x) + beta * kl
            loss.backward()
            step.log(loss=loss, kl=kl)
        optimizer.step()
        optimizer.zero_grad()


class MoCo(nn.Module):
    """The published form: queue and pointer are buffers that forward writes, and the key encoder moves in forward."""

    def __init__(self, in_forward_momentum=True):
        super().__init__()
        self.q, self.k = mlp(), mlp()
        for a, b in zip(self.q.parameters(), self.k.parameters(), strict=True):
            b.data.copy_(a.data)
            b.requires_grad = False
        self.in_forward_momentum = in_forward_momentum
        self.register_buffer("queue", F.normalize(torch.randn(3, 16), dim=0))
        self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def momentum(self):
        for a, b in zip(self.q.parameters(), self.k.parameters(), strict=True):
            b.data = b.data * 0.9 + a.data * 0.1

    @torch.no_grad()
    def enqueue(self, keys):
        n, at = len(keys), int(self.ptr)
        self.queue[:, at : at + n] = keys.T
        self.ptr[0] = (at + n) % 16

    def forward(self, a, b):
        q = F.normalize(self.q(a), dim=1)
        with torch.no_grad():
            if self.in_forward_momentum:
                self.momentum()
            k = F.normalize(self.k(b), dim=1)
        pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        self.enqueue(k)
        return torch.cat([pos, neg], 1) / 0.2


@program(refused="inner loop")
def moco_as_published(run: surefoot.Run) -> None:
    model = MoCo()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            logits = model(x, x + 0.1 * torch.randn_like(x))
            loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def moco_queue_in_forward(run: surefoot.Run) -> None:
    model = MoCo(in_forward_momentum=False)
    optimizer = torch.optim.SGD(model.q.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            logits = model(x, x + 0.1 * torch.randn_like(x))
            loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        model.momentum()


@program(steps=6)
def moco_with_gathered_keys(run: surefoot.Run) -> None:
    """The queue in a tracked module, filled from what training rounds gather."""
    model = MoCo(in_forward_momentum=False)
    optimizer = torch.optim.SGD(model.q.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            q = F.normalize(model.q(x), dim=1)
            with torch.no_grad():
                k = F.normalize(model.k(x + 0.1 * torch.randn_like(x)), dim=1)
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ model.queue], 1) / 0.2
            loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
            loss.backward()
            step.log(loss=loss)
            step.gather(keys=k)
        optimizer.step()
        model.momentum()
        model.enqueue(step.gathered["keys"])


@program(steps=6)
def codebook_by_averages(run: surefoot.Run) -> None:
    """VQ-VAE: a codebook in buffers moved by forward, as in sonnet's port; codes are counted in floats."""

    class VQ(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("embed", torch.randn(4, 6))
            self.register_buffer("size", torch.zeros(6))
            self.register_buffer("avg", self.embed.clone())

        def forward(self, x):
            dist = x.pow(2).sum(1, keepdim=True) - 2 * x @ self.embed + self.embed.pow(2).sum(0, keepdim=True)
            hot = F.one_hot((-dist).max(1)[1], 6).to(x)
            q = hot @ self.embed.t()
            if self.training:
                self.size.data.mul_(0.9).add_(hot.sum(0), alpha=0.1)
                self.avg.data.mul_(0.9).add_(x.detach().t() @ hot, alpha=0.1)
                n = self.size.sum()
                size = (self.size + 1e-5) / (n + 6e-5) * n
                self.embed.data.copy_(self.avg / size.unsqueeze(0))
            return x + (q - x).detach(), (q.detach() - x).pow(2).mean()

    enc, vq, dec = nn.Linear(8, 4), VQ(), nn.Linear(4, 8)
    optimizer = torch.optim.Adam([*enc.parameters(), *dec.parameters()], lr=0.01)
    run.track(enc=enc, vq=vq, dec=dec, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _ in step.batches(POINTS):
            q, commit = vq(enc(x))
            loss = F.mse_loss(dec(q), x) + 0.25 * commit
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="inner loop")
def actnorm_initialised_in_the_first_forward(run: surefoot.Run) -> None:
    """Glow: parameters set by the first batch, a flag in a uint8 buffer."""

    class ActNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.scale = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(8))
            self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

        def forward(self, x):
            if self.initialized.item() == 0:
                with torch.no_grad():
                    self.loc.data.copy_(-x.mean(0))
                    self.scale.data.copy_(1 / (x.std(0) + 1e-6))
                self.initialized.fill_(1)
            return self.scale * (x + self.loc)

    model = nn.Sequential(ActNorm(), nn.Linear(8, 3))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)
