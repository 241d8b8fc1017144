"""The training contract: what a train function is given. The engine implements it (`surefoot_actors.engine.contract.run`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot.config import Config
from surefoot.data import Data

if TYPE_CHECKING:
    import torch

__all__ = ["Run", "Step", "TrainFunction"]


class Step(ABC):
    """One optimizer step over one global batch."""

    #: the step's number, from 0
    number: int

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The epoch, from 0, that the step's first sample is of: an epoch is one pass over the dataset that `batches` got first.

        Batches keep their size, so a step may have the last samples of one epoch and the first of the next.
        """

    @property
    @abstractmethod
    def ends_epoch(self) -> bool:
        """Whether this step's batch has the last sample of an epoch. Raises ContractError before the first inner loop of a run."""

    @abstractmethod
    def batches(
        self,
        dataset: Any,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        sampler: Any = None,
        shuffle: Literal["samples", "blocks"] = "samples",
        block_size: int | Sequence[int] | None = None,
        accumulate: bool = False,
    ) -> Iterator[Any]:
        """Yield this trainer's sub-tasks of the step's batch, one collated batch of batch_size / sub_tasks samples each.

        `dataset` is map-style: `__len__` and `__getitem__`, whatever else it is. Leaving the loop means that every sub-task of the
        round is merged on every trainer, and `.grad` of every tracked parameter holds the merged mean. When a trainer is lost
        meanwhile, the loop yields a few more batches. Each call of `batches` in a step is a round of its own and sees the same samples.

        The dataset may change between rounds, as a function of the step: data workers follow it. `sampler` is the order of samples
        in place of the usual shuffling: one weight a sample (floats: drawn with replacement), sample numbers (integers), a sampler of
        torch.utils.data, or a function of (seed, epoch) that returns sample numbers. It has to be a pure function of seed and epoch.

        `shuffle="blocks"`: the dataset's blocks (shards) come in a seeded order, each whole, its samples in a seeded order, so that
        data which is read by shards is read one shard after another. `block_size` is the number of samples a block, or a list with
        that of each; without it, the dataset's `samples_per_shard` or `lengths` says it.

        `accumulate`: the merge is added to the gradients that there are, in the parameter's dtype, the same on every trainer: over
        several loops of a step, or over several steps (gradients are part of the state then). Without it, a merge that no optimizer
        has used is not overwritten: that is an error, as is clearing it.

        Raises ContractError for an iterable dataset, an empty one, a sparse gradient, or a broken rule in the round before.
        """

    @abstractmethod
    def evaluate(self, dataset: Any, *, collate: Callable[[list[Any]], Any] | None = None) -> Iterator[Any]:
        """Yield this trainer's share of the whole of `dataset`, in order, in eval mode and without gradients.

        A sub-task whose share is empty, with fewer samples than sub-tasks, gets one sample of weight 0. Logged values are means
        weighted by the number of samples of each batch. Modes, buffers and RNG are restored after.
        """

    @abstractmethod
    def log(self, **values: torch.Tensor | float) -> None:
        """Log scalars of the current sub-task; every sub-task of a round logs the same names. Merged like gradients.

        Outside of the inner loops: values of the step (a learning rate, say), which must be the same on every trainer.
        """

    @abstractmethod
    def gather(self, **tensors: torch.Tensor) -> None:
        """Gather rows of the current sub-task, a sample's in each: predictions for an F1 or an AUC, say. See `gathered`.

        A tensor's first dimension counts the samples; the others, and the dtype, are the same in every sub-task. Every trainer gets
        all of it, in host memory.
        """

    @property
    @abstractmethod
    def gathered(self) -> Mapping[str, torch.Tensor]:
        """What the step's rounds so far have gathered, the same on every trainer: CPU tensors, rows in the order of the samples.

        An evaluation's rows are in the order of its dataset.
        """

    @abstractmethod
    def weigh(self, weight: float) -> None:
        """Weigh the current sub-task (token counts, say): the merge becomes the weighted mean. At least 0; default 1."""

    @abstractmethod
    def discard_gradients(self) -> None:
        """Clear the gradients that were delivered, on purpose: a step that is skipped, or gradients that were read by hand.

        Decide by `merged` values, which are the same on every trainer, such as `if not math.isfinite(step.merged["loss"])`.
        """

    @abstractmethod
    def every(self, n: int) -> bool:
        """Whether this is the last of n steps: true at steps n-1, 2n-1, ..."""

    @property
    @abstractmethod
    def merged(self) -> Mapping[str, float]:
        """The merged values of the step's rounds so far, the same on every trainer. Use these, not local losses, to decide."""


class Run(ABC):
    """What a train function is given: its device, config, and the loop."""

    #: the device this trainer computes on
    device: torch.device
    #: the job's config: `config["lr"]`, `config.get("lr")` and `config.lr` are the same
    config: Config
    #: the job's seed
    seed: int
    #: samples a step
    batch_size: int
    #: sub-tasks a step
    sub_tasks: int
    #: the job's data by name (`--data NAME=URL`): a `Path` where it is copied to this node or is a path, else its URL, which can be opened
    data: Data

    @abstractmethod
    def track(self, **objects: Any) -> None:
        """Name everything that training changes: modules, optimizers, whatever else has `state_dict` and `load_state_dict`, and dicts.

        A dict holds values of your own, numbers and tensors; it is overwritten in place on a trainer that joins.

        Call it once before `steps`. Raises ContractError for an object without state, or a name used twice.
        """

    @abstractmethod
    def once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        """Have one trainer of the job call `prepare`, while the others wait here: `run.once(lambda: download(path))`.

        Whoever comes here later, a replacement say, goes on at once; if the trainer that is at it dies, another one does it, from the
        beginning. It is done once an attempt: a job that is resumed does it anew, since its machines may be others. A call is known by
        `name`, or by the lines that it came through. What `prepare` returns is dropped; random states are as before.

        Raises ContractError after `steps`, or for a name that is used twice.
        """

    @abstractmethod
    def node_once(self, prepare: Callable[[], object], *, name: str | None = None) -> None:
        """Have one trainer of each node call `prepare`, as `once` does for the job: for data on the node's own disk."""

    @property
    @abstractmethod
    def output_dir(self) -> Path:
        """A folder for files that training writes: plots, tables, event files. On whoever is `elected` it holds the job's files.

        What is in it is kept in the job's place: with every checkpoint, every half minute, on pause and at the end; `surefoot files`
        lists and fetches it. Whoever is elected next, after a loss or a resume, finds the files as they were when a step began, this
        one or one before. What another trainer writes there is on its node alone. Close or flush what you write, step by step.
        """

    @property
    @abstractmethod
    def elected(self) -> bool:
        """Whether this trainer is the one whose `output_dir` is kept: one of them at any time, and another once that one is lost.

        In the loop over `steps`, and after it: raises ContractError before, when nobody is a member yet. It may become true in the
        midst of a step, never false.
        """

    @property
    @abstractmethod
    def cache_dir(self) -> Path:
        """A folder on this node's disk that outlives trainers: for what can be made again, such as downloads, as `node_once` makes them.

        Trainers of this node share it, and so do jobs of the same code; changed code begins with an empty one. It is removed when
        nobody has used it for two weeks, or when its room is needed.
        """

    @abstractmethod
    def steps(self, num_steps: int | None = None, *, epochs: int | None = None) -> Iterator[Step]:
        """Yield the steps 0..num_steps-1, or those that are left for a trainer that joins. Called once.

        `epochs`, in place of a number of steps: as many steps as have all samples of so many epochs of the dataset that
        `step.batches` is given first; the last batch is filled up with the first samples of the epoch after.

        The commit of a step is this iterator coming round again. After the loop, code runs on one elected trainer. Leaving the loop
        by break or return ends training at this step's boundary, as `stop` does.
        """

    @abstractmethod
    def stop(self) -> None:
        """End training at this step's boundary, on all trainers alike: decide by `step.merged`. The code after the loop runs.

        What the decision remembers (the best loss so far) is state: track a dict for it, `run.track(early={"best": inf})`.
        """

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The present step's epoch: see `Step.epoch`."""

    @abstractmethod
    def nondeterministic(self, name: str) -> AbstractContextManager[None]:
        """Let an operation run that has no deterministic form: `with run.nondeterministic("max_unpool2d"):`, the backward pass inside.

        The promise does not hold for what it computes, unless it happens to: the ledger's circumstances tell its name.
        """


TrainFunction = Callable[[Run], None]
