"""Data as others shard it, by their own libraries: indexed like any dataset, in blocks as their shards lie."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
import torch
import wids

from surefoot.contract import Run, Step

from .kit import results, run_local, run_scripted

pytestmark = pytest.mark.process  # data workers, and mosaicml-streaming in a process of its own

HERE = Path(__file__).parent
#: see tests/libraries.txt
LIBRARIES = Path(sys.prefix, "libraries")
SHARDS = (7, 12, 0, 5, 16)
LENGTH = sum(SHARDS)
STEPS = 10
IN_SOME_ORDER: dict[str, Any] = {"order": [2, 0, 3, 1], "parts": [[0], [1, 2], [3]]}


def a_row(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).standard_normal(4).astype(np.float32)


def write_tar(path: Path, numbers: range) -> None:
    """Write a shard as webdataset has it: files of one name make a sample."""
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            array = io.BytesIO()
            np.save(array, a_row(number))
            for kind, data in (("json", json.dumps({"number": number}).encode()), ("npy", array.getvalue())):
                info = tarfile.TarInfo(f"{number:04}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def of_wids(folder: Path) -> Any:
    shards, first = [], 0
    for size in SHARDS:
        path = folder / f"{first}-{size}.tar"
        write_tar(path, range(first, first + size))
        shards.append({"url": str(path), "nsamples": size})
        first += size
    decode = lambda sample: (np.load(sample[".npy"]), json.load(sample[".json"])["number"])  # noqa: E731
    return wids.ShardListDataset(shards, cache_dir=str(folder / "cache"), keep=True, transformations=[decode])


class Rows(grain.sources.RandomAccessDataSource[Any]):
    """A source of Grain's: any object with length and index."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: Any) -> Any:
        return a_row(int(index)), int(index)


def of_grain_source(folder: Path) -> Any:
    return Rows()


def of_grain(folder: Path) -> Any:
    return grain.MapDataset.source(Rows()).map(lambda row: (row[0] * 2, row[1]))


def training(dataset: Any, seen: list[int], **how: Any) -> Callable[[Run], None]:
    def train(run: Run) -> None:
        torch.manual_seed(run.seed)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(STEPS):
            a_step(step, model, optimizer)
            seen.extend(step.gathered["number"].tolist())

    def a_step(step: Step, model: Any, optimizer: Any) -> None:
        for x, number in step.batches(dataset, **how):
            loss = (model(x) ** 2).mean()
            loss.backward()
            step.log(loss=loss)
            step.gather(number=number)
        optimizer.step()

    return train


def trained(dataset: Any, **how: Any) -> list[int]:
    """Train in order, in another order as by three trainers, and with data workers. Returns the samples; the bits must be the same."""
    seen: list[int] = []
    whole = run_local(training(dataset, seen, **how), batch_size=8, sub_tasks=4, seed=1)
    numbers = list(seen)
    for again in (
        run_scripted(training(dataset, seen, **how), batch_size=8, seed=1, **IN_SOME_ORDER),
        run_local(training(dataset, seen, **how), batch_size=8, sub_tasks=4, seed=1, data_workers=1),
    ):
        assert results(again) == results(whole)
        assert again.digest == whole.digest
    assert seen == numbers * 3
    return numbers


def shards_in_turn(numbers: list[int]) -> list[int]:
    """Return the shards of samples, each once for as long as it is read."""
    ends = np.cumsum(SHARDS)
    found = np.searchsorted(ends, numbers, side="right").tolist()
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


@pytest.mark.parametrize("make", [of_wids, of_grain_source, of_grain], ids=lambda make: make.__name__)
def test_an_epoch_has_every_sample_once(make: Callable[[Path], Any], tmp_path: Path) -> None:
    numbers = trained(make(tmp_path))
    assert sorted(numbers[:LENGTH]) == list(range(LENGTH))
    assert len(shards_in_turn(numbers[:LENGTH])) > len(SHARDS)


def test_wids_in_blocks_opens_one_shard_after_another(tmp_path: Path) -> None:
    numbers = trained(of_wids(tmp_path), shuffle="blocks")
    assert sorted(numbers[:LENGTH]) == list(range(LENGTH))
    assert sorted(shards_in_turn(numbers[:LENGTH])) == [0, 1, 3, 4]


_MOSAIC = """
import sys, tempfile, warnings
from pathlib import Path
warnings.simplefilter("ignore")
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
import torch
# the functions that torchvision finds missing where its compiled part does not fit this build of torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from tests.engine import test_streams as streams
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import IterableDataset

class Numbered(StreamingDataset):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample["x"].copy(), sample["number"]

far, near = (Path(sys.argv[3], name) for name in ("far", "near"))
with MDSWriter(out=str(far), columns={"x": "ndarray:float32:4", "number": "int"}, size_limit=400) as writer:
    for number in range(streams.LENGTH):
        writer.write({"x": streams.a_row(number), "number": number})
dataset = Numbered(remote=str(far), local=str(near), batch_size=1)
assert isinstance(dataset, IterableDataset)
streams.SHARDS = tuple(dataset.samples_per_shard)
assert len(streams.SHARDS) > 3, streams.SHARDS
numbers = streams.trained(dataset, shuffle="blocks")
assert sorted(numbers[:40]) == list(range(40)), numbers
assert sorted(streams.shards_in_turn(numbers[:40])) == list(range(len(streams.SHARDS))), numbers
print("well")
"""


def test_mosaicml_streaming(tmp_path: Path) -> None:
    assert LIBRARIES.is_dir(), "make setup installs it"
    done = subprocess.run(
        [sys.executable, "-c", _MOSAIC, str(HERE.parents[1]), str(LIBRARIES), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.endswith("well\n"), done.stdout + done.stderr
