"""Data sets as they are published: databases, archives, mapped files, locks, generators of their own."""

import contextlib
import random
from collections import namedtuple

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import Points, mlp, program
from practice import sgd
from torch.utils.data import Dataset

Sample = namedtuple("Sample", "x y")


def _folder():
    import tempfile

    return tempfile.mkdtemp(prefix="sf-practice-")


class Sqlite(Dataset):
    """A connection per process, opened at the first use."""

    def __init__(self):
        import sqlite3

        self.path, self.db = _folder() + "/a.db", None
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            db.execute("create table t (i integer primary key, y integer, x blob)")
            db.executemany(
                "insert into t values (?, ?, ?)",
                [(i, i % 3, np.sin(np.arange(8, dtype=np.float32) * (i + 1)).tobytes()) for i in range(100)],
            )
            db.commit()

    def __len__(self):
        return 100

    def __getitem__(self, i):
        import sqlite3

        if self.db is None:
            self.db = sqlite3.connect(self.path)
        y, x = self.db.execute("select y, x from t where i = ?", (int(i),)).fetchone()
        return torch.frombuffer(bytearray(x), dtype=torch.float32), y


class Mapped(Dataset):
    def __init__(self):
        path = _folder() + "/a.npy"
        np.save(path, np.sin(np.arange(900, dtype=np.float32)).reshape(100, 9))
        self.rows = np.load(path, mmap_mode="r")

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return torch.from_numpy(self.rows[i, 1:].copy()), i % 3


class Zipped(Dataset):
    def __init__(self):
        import zipfile

        self.path, self.zip = _folder() + "/a.zip", None
        with zipfile.ZipFile(self.path, "w") as z:
            for i in range(100):
                z.writestr(f"{i}.bin", np.sin(np.arange(8, dtype=np.float32) * (i + 1)).tobytes())

    def __len__(self):
        return 100

    def __getitem__(self, i):
        import zipfile

        if self.zip is None:
            self.zip = zipfile.ZipFile(self.path)
        return torch.frombuffer(bytearray(self.zip.read(f"{i}.bin")), dtype=torch.float32), i % 3


class ZippedAtOnce(Zipped):
    def __init__(self):
        import zipfile

        super().__init__()
        self.zip = zipfile.ZipFile(self.path)


class Locked(Points):
    """Holds a lock, a logger, and counts its samples: none of it decides anything."""

    def __init__(self):
        import logging
        import threading

        self.lock, self.log, self.n = threading.Lock(), logging.getLogger("data"), 0

    def __getitem__(self, i):
        with self.lock:
            self.n += 1
        return super().__getitem__(i)


class Lazily(Points):
    """Loads everything at the first sample."""

    rows = None

    def __getitem__(self, i):
        if self.rows is None:
            self.rows = torch.sin(torch.arange(8) * torch.arange(1.0, 101.0)[:, None])
        return self.rows[i], i % 3


class OwnGenerator(Points):
    """Draws from a generator of its own, carried on."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + torch.from_numpy(self.rng.normal(size=8)).float() * 0.1, y


class OwnGeneratorByIndex(Points):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + torch.from_numpy(np.random.default_rng(int(i)).normal(size=8)).float() * 0.1, y


class Pairs(Points):
    """Triplets chosen at random, and samples as dicts."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        j = random.choice([k for k in range(100) if k % 3 == y])
        return {"x": x, "y": y, "other": super().__getitem__(j)[0], "name": f"s{i}", "where": 1.5, "pair": (i, [x, y])}


class Named(Points):
    def __getitem__(self, i):
        return Sample(*super().__getitem__(i))


def _sets(name, make, **how):
    for workers in (0, 2):

        def train(run, make=make):
            model, data = mlp(), make()
            optimizer = sgd(model)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps(run.config["steps"]):
                for batch in step.batches(data):
                    x, y = (batch["x"] + batch["other"], batch["y"]) if isinstance(batch, dict) else batch
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    step.log(loss=loss)
                optimizer.step()

        train.__name__ = train.__qualname__ = f"data_{name}{'_workers' if workers else ''}"
        globals()[train.__name__] = program(steps=4, data_workers=workers, **how)(train)


for _name, _make in {
    "sqlite": Sqlite, "mmap": Mapped, "zip": Zipped, "zip_at_once": ZippedAtOnce, "locked": Locked, "lazily": Lazily,
    "generator_by_index": OwnGeneratorByIndex, "pairs": Pairs, "named": Named,
}.items():  # fmt: skip
    _sets(_name, _make)


_sets("own_generator", OwnGenerator, refused="was computed twice")
