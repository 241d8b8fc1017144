"""Vision as it is published: residual nets, augmentation, averages, schedules, frozen norms, meters and logs."""

import copy
import random

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import IMAGES, POINTS, mlp, program, waves
from practice import fit_tracked, sgd
from torch import nn
from torch.utils.data import Dataset

import surefoot


class Block(nn.Module):
    def __init__(self, inside, outside, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out + self.down(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.layer1, self.layer2 = Block(4, 4), Block(4, 8, 2)
        self.fc = nn.Linear(8, 3)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.bn(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class Augmented(Dataset):
    """Random crops and flips in numpy and random, and erasing in torch."""

    def __init__(self, size=8):
        self.images = waves(50, 3, 8, 8).numpy()
        self.size = size

    def __len__(self):
        return 50

    def __getitem__(self, i):
        x = np.pad(self.images[i], ((0, 0), (2, 2), (2, 2)))
        a, b = np.random.randint(0, 5, 2)
        x = x[:, a : a + 8, b : b + 8]
        if random.random() < 0.5:
            x = x[:, :, ::-1]
        x = torch.from_numpy(np.ascontiguousarray(x))
        if torch.rand(()) < 0.3:
            x[:, 2:4, 2:4] = torch.randn(3, 2, 2)
        return x, i % 3


class Meter:
    def __init__(self):
        self.reset()

    def reset(self):
        self.sum = self.n = 0

    def update(self, value, n=1):
        self.sum += value * n
        self.n += n

    @property
    def avg(self):
        return self.sum / max(1, self.n)


class EMA:
    """As in the shadow dict of many repositories."""

    def __init__(self, model, decay=0.9):
        self.model, self.decay, self.shadow, self.backup = model, decay, {}, {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.shadow[name] = p.data.clone()

    def update(self):
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                self.shadow[name] = (1 - self.decay) * p.data + self.decay * self.shadow[name]

    def apply(self):
        for name, p in self.model.named_parameters():
            self.backup[name] = p.data
            p.data = self.shadow[name]

    def restore(self):
        for name, p in self.model.named_parameters():
            p.data = self.backup[name]
        self.backup = {}

    def state_dict(self):
        return {"shadow": self.shadow, "decay": self.decay}

    def load_state_dict(self, state):
        self.shadow, self.decay = state["shadow"], state["decay"]


@program(steps=6)
def resnet_augmented(run: surefoot.Run) -> None:
    model = ResNet()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 1e-2}, {"params": plain, "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=run.config["steps"])
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    train_set, test_set = Augmented(), IMAGES
    losses, log = Meter(), []
    best_acc, best = 0.0, None
    for step in run.steps(run.config["steps"]):
        model.train()
        for x, y in step.batches(train_set):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            step.log(loss=loss, acc=(model(x).argmax(1) == y).float().mean())
            losses.update(loss.item(), len(x))
        optimizer.step()
        schedule.step()
        log.append(step.merged["loss"])
        if step.every(2):
            model.eval()
            for x, y in step.evaluate(test_set):
                step.log(top1=(model(x).argmax(1) == y).float().mean())
            if step.merged["top1"] > best_acc:
                best_acc = step.merged["top1"]
                best = copy.deepcopy(model.state_dict())
    if best is not None:
        model.load_state_dict(best)


@program(steps=6)
def ema_with_swapped_data(run: surefoot.Run) -> None:
    """The shadow's tensors stand in for the parameters' data while evaluating."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ema = EMA(model)
    run.track(model=model, optimizer=optimizer, ema=ema)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        ema.update()
        if step.every(2):
            ema.apply()
            for x, y in step.evaluate(POINTS):
                step.log(ema=F.cross_entropy(model(x), y))
            ema.restore()


@program(steps=6)
def cutmix_and_focal_loss(run: surefoot.Run) -> None:
    class Focal(nn.Module):
        def __init__(self, gamma=2.0, weight=None):
            super().__init__()
            self.gamma = gamma
            self.register_buffer("weight", weight)

        def forward(self, out, y):
            ce = F.cross_entropy(out, y, weight=self.weight, reduction="none")
            return ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()

    model = ResNet()
    criterion = Focal(weight=torch.tensor([1.0, 2.0, 0.5]))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(IMAGES):
            lam = np.random.beta(1.0, 1.0)
            perm = torch.randperm(len(x))
            cx, cy, w = np.random.randint(8), np.random.randint(8), int(8 * np.sqrt(1 - lam) / 2)
            x[:, :, max(0, cx - w) : cx + w, max(0, cy - w) : cy + w] = x[perm][
                :, :, max(0, cx - w) : cx + w, max(0, cy - w) : cy + w
            ]
            out = model(x)
            loss = lam * criterion(out, y) + (1 - lam) * criterion(out, y[perm])
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def learned_loss_weights(run: surefoot.Run) -> None:
    """Uncertainty weighting: parameters that belong to no module's forward, and center loss with an optimizer of its own."""

    class Center(nn.Module):
        def __init__(self):
            super().__init__()
            self.centers = nn.Parameter(torch.randn(3, 3))

        def forward(self, f, y):
            return (f - self.centers[y]).pow(2).sum(1).mean()

    model, center = mlp(), Center()
    log_vars = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*model.parameters(), log_vars], lr=0.01)
    second = torch.optim.SGD(center.parameters(), lr=0.5)
    run.track(model=model, center=center, optimizer=optimizer, second=second)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            f = model(x)
            loss = (
                F.cross_entropy(f, y) * torch.exp(-log_vars[0])
                + center(f, y) * torch.exp(-log_vars[1])
                + log_vars.sum()
            )
            loss.backward()
            step.log(loss=loss)
        for p in center.parameters():
            p.grad.mul_(2.0)
        optimizer.step()
        second.step()


@program(steps=6)
def progressive_resizing(run: surefoot.Run) -> None:
    """The size of images is an attribute of the data set that the loop sets by the step."""

    class Sized(Augmented):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return F.interpolate(x[None], size=self.size, mode="bilinear", antialias=True)[0], y

    model, data = ResNet(), Sized()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        data.size = 4 if step.number < 3 else 8
        for x, y in step.batches(data):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def layer_drop(run: surefoot.Run) -> None:
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(8, 8)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(4))
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            x = self.inside(x)
            for k, layer in enumerate(self.layers):
                p = 0.5 * (k + 1) / 4
                if not self.training or random.random() > p:
                    x = x + layer(x)
            return self.out(x)

    model = Deep()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer)


@program(steps=6)
def batchnorm_recomputed(run: surefoot.Run) -> None:
    """SWA with update_bn by a DataLoader after the loop of every second step, on a tracked average."""
    from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = sgd(model)
    average, schedule = AveragedModel(model), SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    run.track(model=model, optimizer=optimizer, average=average, schedule=schedule)
    loader = torch.utils.data.DataLoader(POINTS, batch_size=20)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number >= 2:
            average.update_parameters(model)
            schedule.step()
            update_bn(loader, average)


@program(steps=6)
def frozen_batchnorm(run: surefoot.Run) -> None:
    """Fine-tuning: train() is overridden to keep norms in eval, called at each step's begin and inside evaluation."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
            self.head = nn.Linear(8, 3)

        def train(self, mode=True):
            super().train(mode)
            for m in self.modules():
                if isinstance(m, nn.BatchNorm1d):
                    m.eval()
            return self

        def forward(self, x):
            return self.head(self.body(x))

    model = Net()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        model.train()
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in step.evaluate(POINTS):
                step.log(val=F.cross_entropy(model(x), y))


@program(steps=6)
def train_mode_inside_the_inner_loop(run: surefoot.Run) -> None:
    """model.train() in every batch, eval in between for pseudo labels."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            model.eval()
            with torch.no_grad():
                pseudo = model(x + 0.1 * torch.randn_like(x)).argmax(1)
            model.train()
            loss = F.cross_entropy(model(x), y) + 0.1 * F.cross_entropy(model(x), pseudo)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def eval_after_training_mode_left_alone(run: surefoot.Run) -> None:
    """train() only once before the loop, eval() for a hand-made check that forgets to go back, at step 2."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.number == 2:
            model.eval()
            with torch.no_grad():
                model(torch.randn(4, 8))
