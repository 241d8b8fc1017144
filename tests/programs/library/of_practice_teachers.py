"""Two models at once as it is published: teachers, targets, clones, adversaries, replay."""

import copy
import math
import random
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, mlp, program, waves
from practice import sgd
from torch import nn
from torch.utils.data import Dataset

import surefoot


@program(steps=6)
def byol_with_a_tau_schedule(run: surefoot.Run) -> None:
    online, target, predictor = (
        mlp(),
        mlp(),
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    )
    target = copy.deepcopy(online)
    for p in target.parameters():
        p.requires_grad = False
    optimizer = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=0.01)
    run.track(online=online, target=target, predictor=predictor, optimizer=optimizer)
    total = run.config["steps"]
    for step in run.steps(total):
        for x, _ in step.batches(POINTS):
            a, b = x + 0.1 * torch.randn_like(x), x * (torch.rand_like(x) > 0.1)
            with torch.no_grad():
                ta, tb = target(a), target(b)
            loss = (
                4
                - 2 * F.cosine_similarity(predictor(online(a)), tb).mean()
                - 2 * F.cosine_similarity(predictor(online(b)), ta).mean()
            )
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        tau = 1 - 0.04 * (math.cos(math.pi * step.number / total) + 1) / 2
        for o, t in zip(online.parameters(), target.parameters(), strict=True):
            t.data = tau * t.data + (1 - tau) * o.data


@program(refused="teacher")
def mean_teacher_untracked(run: surefoot.Run) -> None:
    """The teacher is a deepcopy that nobody tracks."""
    student = mlp()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = sgd(student)
    run.track(student=student, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            out = student(x)
            loss = F.cross_entropy(out, y) + F.mse_loss(out, teacher(x))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        with torch.no_grad():
            for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
                t.mul_(0.9).add_(s, alpha=0.1)


@program(steps=6)
def distillation_with_a_frozen_teacher(run: surefoot.Run) -> None:
    """The teacher is frozen, in eval mode, and not tracked: its weights come from a file's worth of constants."""
    teacher = mlp(16)
    for i, p in enumerate(teacher.parameters()):
        p.data = waves(*p.shape) * (i + 1) * 0.1
    teacher.eval()
    student = mlp()
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.02)
    run.track(student=student, optimizer=optimizer)
    t = 4.0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            with torch.no_grad():
                soft = teacher(x)
            out = student(x)
            loss = 0.7 * t * t * F.kl_div(F.log_softmax(out / t, 1), F.softmax(soft / t, 1), reduction="batchmean")
            loss = loss + 0.3 * F.cross_entropy(out, y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def distillation_with_batchnorm_teacher(run: surefoot.Run) -> None:
    """The teacher was left in training mode: its statistics move in forward. It is tracked."""
    teacher = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).requires_grad_(False)
    student = mlp()
    optimizer = sgd(student)
    run.track(student=student, teacher=teacher, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _y in step.batches(POINTS):
            loss = F.mse_loss(student(x), teacher(x))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="teacher")
def distillation_with_untracked_batchnorm_teacher(run: surefoot.Run) -> None:
    """As before, but the teacher is not tracked: silent state."""
    teacher = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).requires_grad_(False)
    student = mlp()
    optimizer = sgd(student)
    run.track(student=student, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, _y in step.batches(POINTS):
            loss = F.mse_loss(student(x), teacher(x))
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=7)
def replay_buffer(run: surefoot.Run) -> None:
    """A DQN of sorts: a dataset that is filled from what the target network and a seeded environment make at each step."""

    class Replay(Dataset):
        def __init__(self):
            self.items = deque(maxlen=64)
            for i in range(32):
                self.items.append((torch.sin(torch.arange(8) * (i + 1.0)), i % 3, float(i % 2)))

        def __len__(self):
            return len(self.items)

        def __getitem__(self, i):
            s, a, r = self.items[i]
            return s, a, torch.tensor(r)

    net, target = mlp(), mlp()
    target.load_state_dict(net.state_dict())
    optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-2)
    memory = Replay()
    run.track(net=net, target=target, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for _ in range(4):
            state = torch.randn(8)
            with torch.no_grad():
                action = int(net(state).argmax()) if random.random() > 0.1 else random.randrange(3)
            memory.items.append((state, action, float(np.random.rand())))
        for s, a, r in step.batches(memory):
            with torch.no_grad():
                goal = r + 0.9 * target(s).max(1).values
            loss = F.smooth_l1_loss(net(s).gather(1, a[:, None]).squeeze(1), goal)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(3):
            target.load_state_dict(net.state_dict())


@program(steps=6)
def adversarial_training(run: surefoot.Run) -> None:
    """PGD in the inner loop: inputs with gradients, the model's gradients cleared between."""
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            delta = torch.zeros_like(x).uniform_(-0.1, 0.1).requires_grad_()
            model.eval()
            for _ in range(2):
                F.cross_entropy(model(x + delta), y).backward()
                delta.data = (delta + 0.02 * delta.grad.sign()).clamp(-0.1, 0.1)
                delta.grad.zero_()
            model.train()
            optimizer.zero_grad()
            model.zero_grad()
            loss = F.cross_entropy(model(x + delta.detach()), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def domain_adversarial(run: surefoot.Run) -> None:
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, a):
            ctx.a = a
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return -ctx.a * g, None

    body, head, domain = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 2)
    params = [*body.parameters(), *head.parameters(), *domain.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    run.track(body=body, head=head, domain=domain, optimizer=optimizer)
    total = run.config["steps"]
    for step in run.steps(total):
        alpha = 2.0 / (1.0 + np.exp(-10 * step.number / total)) - 1
        for x, y in step.batches(POINTS):
            f = F.relu(body(x))
            loss = F.cross_entropy(head(f), y) + F.cross_entropy(domain(Reverse.apply(f, alpha)), (y > 0).long())
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def maml(run: surefoot.Run) -> None:
    """A copy of the model is adapted by an optimizer of its own in every sub-task."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            fast = copy.deepcopy(model)
            inner = torch.optim.SGD(fast.parameters(), lr=0.1)
            for _ in range(2):
                inner.zero_grad()
                F.cross_entropy(fast(x[:2]), y[:2]).backward()
                inner.step()
            fast.zero_grad()
            loss = F.cross_entropy(fast(x[2:]), y[2:])
            loss.backward()
            for p, f in zip(model.parameters(), fast.parameters(), strict=True):
                p.grad = f.grad if p.grad is None else p.grad + f.grad
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def target_network_by_turns(run: surefoot.Run) -> None:
    """SAC's shape: three optimizers over parts, some only every second step; alpha a lone parameter."""
    actor, critic = mlp(), mlp()
    target = copy.deepcopy(critic).requires_grad_(False)
    log_alpha = torch.zeros(1, requires_grad=True)
    oa, oc, ol = (
        torch.optim.Adam(actor.parameters(), 1e-2),
        torch.optim.Adam(critic.parameters(), 1e-2),
        torch.optim.Adam([log_alpha], 1e-2),
    )
    run.track(actor=actor, critic=critic, target=target, oa=oa, oc=oc, ol=ol)
    for step in run.steps(run.config["steps"]):
        for s, _ in step.batches(POINTS):
            with torch.no_grad():
                goal = target(s).max(1).values * 0.9 + log_alpha.exp() * 0.1
            loss = F.mse_loss(critic(s)[:, 0], goal)
            loss.backward()
            step.log(q=loss)
        oc.step()
        if step.number % 2 == 0:
            for s, _ in step.batches(POINTS):
                probs = actor(s).softmax(1)
                loss = (probs * (log_alpha.exp().detach() * probs.log() - critic(s).detach())).sum(1).mean()
                loss.backward()
                entropy = -(probs * probs.log()).sum(1).mean().detach()
                (log_alpha.exp() * (entropy - 0.5)).sum().backward()
                step.log(pi=loss)
            oa.step()
            ol.step()
        with torch.no_grad():
            for t, c in zip(target.parameters(), critic.parameters(), strict=True):
                t.data.mul_(0.9).add_(0.1 * c.data)
