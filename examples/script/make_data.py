"""Writes the folder that both read: four clouds of points, as .npy files."""

import sys
from pathlib import Path

import numpy as np


def make_data(folder: Path, samples: int = 2000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    centers = random.normal(size=(4, 16))
    for split, count in (("train", samples), ("val", samples // 4)):
        labels = random.integers(0, 4, count)
        np.save(folder / f"{split}_y.npy", labels)
        np.save(folder / f"{split}_x.npy", (centers[labels] + random.normal(size=(count, 16))).astype("float32"))


if __name__ == "__main__":
    make_data(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
