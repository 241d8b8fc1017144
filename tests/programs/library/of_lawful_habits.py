"""Programs that obey the contract, in the habits of real repositories: what is shown, timed, written by threads, and configured."""

import contextlib
import os
import queue
import threading
import time
import weakref

import torch
import torch.nn.functional as F
from kinds import POINTS, program, waves
from practice import begun
from torch import nn
from torch.utils.data import Dataset

import surefoot


def trained(step, model, optimizer, data=POINTS):
    for x, y in step.batches(data):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        step.log(loss=loss)
    optimizer.step()
    optimizer.zero_grad()


@program(steps=4)
def examples_shown(run: surefoot.Run) -> None:
    """Predictions are collected in an evaluation, and the first few shown: that loop is left, training is not."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        trained(step, model, optimizer)
        predicted = []
        for x, y in step.evaluate(POINTS):
            predicted.append((model(x).argmax(1), y))
            step.log(accuracy=(predicted[-1][0] == y).float().mean())
        for i, (p, y) in enumerate(predicted):
            if i >= 2:
                break
            p.tolist(), y.tolist()
        while predicted:
            if predicted.pop()[0].sum() > 3:
                break


@program(steps=4, refused="training ends by i", refused_by=0)
def left_within_a_loop_of_examples(run: surefoot.Run) -> None:
    """As before, but by a return."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        predicted = []
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            predicted.append(loss.item())
        optimizer.step()
        for i, _ in enumerate(predicted):
            if i >= 3:
                return


@program(steps=4, refused="lr is set by n", refused_by=0)
def turns_of_a_loop_left_by_a_local_value(run: surefoot.Run) -> None:
    """How often a loop has turned decides the rate."""
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        losses, n = [], 0
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        while True:
            if sum(losses) < n:
                break
            n += 1
        optimizer.param_groups[0]["lr"] = 0.01 * n


def validated(step, model):
    """Return a mean of this trainer's own, for a print, beside the merged one."""
    total = n = 0
    for x, y in step.evaluate(POINTS):
        loss = F.cross_entropy(model(x), y)
        step.log(val=loss)
        total, n = total + loss.item(), n + 1
    return total / max(1, n), step.merged["val"]


@program(steps=4)
def pair_of_a_running_mean_and_a_merged_one(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    best = 1e9
    for step in run.steps(run.config["steps"]):
        trained(step, model, optimizer)
        running, merged = validated(step, model)
        best, shown = min(best, merged), running
        assert f"{shown:.3f} {best:.3f}"
        optimizer.param_groups[0]["lr"] = 0.1 * best
        if merged < 1e-6:
            break


@program(steps=4, refused="training ends by running", refused_by=0)
def pair_whose_running_mean_decides(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        trained(step, model, optimizer)
        running, _ = validated(step, model)
        if running < 1e-6:
            break


class Timer:
    """Has a step() as optimizers have, and nothing else of them."""

    def __init__(self):
        self.samples, self.began = 0, time.perf_counter()

    def step(self, samples):
        self.samples += samples


@program(steps=4)
def names_that_are_taken_again(run: surefoot.Run) -> None:
    """What was a batch's in the inner loop is a file, a number, an error afterwards; a timer has a step()."""
    model, optimizer = begun(run)
    timer, seen = Timer(), 0
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            f = model(x)
            loss = F.cross_entropy(f, y)
            loss.backward()
            step.log(loss=loss)
            seen += len(x)
        optimizer.step()
        optimizer.zero_grad()
        timer.step(seen)
        with open(os.devnull) as f, contextlib.suppress(ValueError):
            text = f.read()
        optimizer.param_groups[0]["lr"] = 0.1 if not text else 0.2
        (x := step.number)
        optimizer.param_groups[0]["lr"] /= 1 + x
        try:
            y = step.merged["loss"]
        except KeyError as loss:
            y = len(str(loss))
        if y > 1e9:
            break


@program(steps=4)
def thread_of_a_nested_function(run: surefoot.Run) -> None:
    """A thread that reads what its function closes over all the time, while Surefoot looks at those variables."""
    done, waiting, seen, raised = threading.Event(), queue.Queue(), [], []

    def work():
        try:
            while not done.is_set():
                with contextlib.suppress(queue.Empty):
                    seen.append(waiting.get(timeout=0.0005))
        except BaseException as error:
            raised.append(error)
            raise

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        model, optimizer = begun(run)
        for step in run.steps(run.config["steps"]):
            trained(step, model, optimizer)
            waiting.put(step.number)
            assert thread.is_alive(), raised
    finally:
        done.set()
    thread.join()


class Writer:
    """Writes by a thread, and waits for it in the end."""

    def __init__(self):
        self.waiting, self.written = queue.Queue(), []
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        while True:
            item = self.waiting.get()
            time.sleep(0.01)
            self.written.append(item)
            self.waiting.task_done()
            if item is None:
                return

    def close(self):
        self.waiting.put(None)
        waiter = threading.Thread(target=self.waiting.join, daemon=True)
        waiter.start()
        waiter.join(20)
        assert not waiter.is_alive(), "the queue says that there is something left to do"


@program(steps=4)
def writer_with_a_queue(run: surefoot.Run) -> None:
    """What the writer has taken, and works on, is not for a joiner's writer to finish."""
    writer = Writer()
    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        trained(step, model, optimizer)
        writer.waiting.put((step.number, step.merged["loss"]))
    writer.close()


class Settings(dict):
    """Raises KeyError for attributes that it does not have, whoever asks."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Owner:
    """Gone when it is asked for."""


class Tied(nn.Module):
    """Knows its trainer by a weak proxy, as Lightning's modules do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        owner = Owner()
        self.trainer = weakref.proxy(owner)
        self.trainers = [self.trainer]

    def forward(self, x):
        return self.layer(x)


class TiedData(Dataset):
    def __init__(self):
        self.trainer = weakref.proxy(Owner())
        self.trainers = {"one": self.trainer}

    def __len__(self):
        return 60

    def __getitem__(self, i):
        return torch.sin(torch.arange(8) * (i + 1.0)), i % 3


class Trainer:
    def __init__(self, run):
        self.run, self.model, self.data = run, Tied(), TiedData()
        self.settings = Settings(lr=0.1, inner=Settings(turns=[Settings(n=1)]))
        self.dead, self.me = self.model.trainer, weakref.proxy(self)

    def fit(self):
        model, optimizer = begun(self.run, self.model)
        gone = [self.dead]
        for step in self.run.steps(self.run.config["steps"]):
            trained(step, model, optimizer, self.data)
            self.settings.inner.turns[0].n += 1
            optimizer.param_groups[0]["lr"] = self.me.settings.lr / self.settings.inner.turns[0].n
        assert gone


@program(steps=4)
def proxies_of_what_is_gone(run: surefoot.Run) -> None:
    Trainer(run).fit()


@program(steps=5)
def training_mode_set_by_every_batch(run: surefoot.Run) -> None:
    """Hugging Face's trainer: an evaluation leaves the model in eval mode, and every training step begins with train()."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    model, optimizer = begun(run, model)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            step.log(before=model(x).std())
            model.train()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        for x, y in step.evaluate(POINTS):
            step.log(val=F.cross_entropy(model(x), y))


class Sample:
    def __init__(self, x, y):
        self.x, self.y = x, y


@program(steps=4)
def many_samples_in_lists(run: surefoot.Run) -> None:
    """Lists of more things than are looked at one by one, of every kind, of which the loop changes one now and then."""
    data = waves(400, 8)
    tensors, arrays = list(data.clone().unbind()), [x.numpy().copy() for x in data]
    samples = [Sample(x.clone(), i % 3) for i, x in enumerate(data)]
    rows = {i: {"x": i, "y": [i % 3]} for i in range(400)}

    class Samples(Dataset):
        def __len__(self):
            return 400

        def __getitem__(self, i):
            return tensors[i] + torch.from_numpy(arrays[i]) + samples[i].x, rows[i]["y"][0]

    model, optimizer = begun(run)
    for step in run.steps(run.config["steps"]):
        trained(step, model, optimizer, Samples())
        for i in range(step.number, 400, 7):
            tensors[i] *= 0.5
            arrays[i] *= -1
            samples[i].x = samples[i].x + 1
            rows[i]["y"][0] = (i + step.number) % 3


class History(list):
    """A list that is only ever added to."""

    def __setitem__(self, place, value):
        raise TypeError("history is not rewritten")

    def clear(self):
        raise TypeError("history is not rewritten")


class Options(dict):
    """A dict that is written by one method alone, which counts."""

    turns = 0

    def __setitem__(self, key, value):
        raise TypeError("use set()")

    update = pop = clear = __delitem__ = __setitem__

    def set(self, key, value):
        self.turns += 1
        super().__setitem__(key, value)


@program(steps=5)
def containers_that_refuse(run: surefoot.Run) -> None:
    model, optimizer = begun(run)
    history, options, records = History([1.0]), Options(lr=0.1), History()
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
            records.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        history.append(step.merged["loss"])
        options.set("lr", options["lr"] * (0.5 + history[-1] / (1 + history[-2] + options.turns)))
        options.set(f"of {step.number}", history[-1])
        optimizer.param_groups[0]["lr"] = options["lr"]
