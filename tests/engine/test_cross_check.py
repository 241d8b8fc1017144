"""A sub-task of another trainer, computed to be compared: it changes nothing here, and comes to the bits that the other has."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
import torch
import torch.nn.functional as F

from surefoot.contract import Run
from surefoot_actors.engine.contract.for_another import ForAnother
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.exchange.contribution import NO_DIGEST
from surefoot_actors.engine.state.attributes import Attributes
from surefoot_actors.engine.types import Node, Position
from surefoot_actors.local_run.coordinator import LocalCoordinator

from .kit import Net, points, same

SUB_TASKS = 4


class Witness(LocalCoordinator):
    """Has one sub-task of each training round computed once more, after all; and everything shown."""

    is_compared = True

    def __init__(self, again: int | None) -> None:
        super().__init__(SUB_TASKS, keep_state=True)
        self._again, self._due = again, False
        self.shown: list[tuple[int, int, bytes]] = []
        self.put: list[int] = []

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        super().open_round(position)
        self._due = checks and self._again is not None

    def next_sub_task(self) -> int | None:
        self.is_own = self._next < SUB_TASKS or not self._due
        if not self.is_own:
            self._due = False
            return self._again
        return super().next_sub_task()

    def show(self, sub_task: int, digest: bytes) -> None:
        self.shown.append((self._position.step, sub_task, digest))

    def put_leaf(self, leaf: Node) -> None:
        self.put.append(leaf.range.lo)
        super().put_leaf(leaf)


# what the inner loop has kept, by run
KEPT: list[tuple[list[int], dict[str, float], torch.Tensor]] = []


def train(run: Run) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    run.track(model=model, optimizer=optimizer)
    steps: list[int] = []
    sums = {"samples": 0.0}
    totals = torch.zeros(2)
    data = points(64)
    for step in run.steps(4):
        for x, y in step.batches(data):
            steps.append(step.number)
            sums["samples"] += len(x)
            totals += torch.bincount(y, minlength=2)
            print(f"step {step.number} batch {y.tolist()}")
            print("to standard error", file=sys.stderr)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        for x, y in step.evaluate(data):
            step.log(accuracy=(model(x).argmax(1) == y).float().mean())
    KEPT.append((steps, sums, totals))


def chance(run: Run) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(2):
        for x, y in step.batches(points(64)):
            with run.nondeterministic("an operation"):
                F.cross_entropy(model(x), y).backward()
        optimizer.step()


def run_with(coordinator: Witness, function: object = train) -> Witness:
    options = RunOptions(config={}, seed=3, batch_size=16, sub_tasks=SUB_TASKS, data_workers=0)
    run_training(function, options, coordinator)  # type: ignore[arg-type]
    return coordinator


@pytest.mark.parametrize("again", range(SUB_TASKS))
def test_it_comes_to_the_bits_of_the_other_and_leaves_nothing_behind(
    again: int, capsys: pytest.CaptureFixture[str]
) -> None:
    KEPT.clear()
    alone, printed = run_with(Witness(None)), capsys.readouterr()
    witness = run_with(Witness(again))
    assert capsys.readouterr() == printed
    assert printed.out.count("step 2 batch") == SUB_TASKS
    assert same(alone.result(), witness.result())
    assert alone.put == witness.put
    (steps, sums, totals), (its_steps, its_sums, its_totals) = KEPT
    assert (steps, sums) == (its_steps, its_sums)
    assert torch.equal(totals, its_totals)
    for step in range(4):
        own, other = (digest for at, sub_task, digest in witness.shown if (at, sub_task) == (step, again))
        assert own == other != NO_DIGEST
        # of one sub-task alone
        assert len({digest for at, _, digest in witness.shown if at == step}) == SUB_TASKS


def failing(run: Run) -> None:
    """Raises in the sub-task that is computed for another trainer, and prints why."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(2):
        try:
            for num, (x, y) in enumerate(step.batches(points(64))):
                F.cross_entropy(model(x), y).backward()
                if step.number and num == SUB_TASKS:
                    print("about to fail")
                    raise RuntimeError("no room")
        except RuntimeError as error:
            print(f"failed: {error}")
            raise
        optimizer.step()
    raise AssertionError


def test_what_is_printed_where_it_fails_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = sys.stdout, sys.stderr
    with pytest.raises(RuntimeError, match="no room"):
        run_with(Witness(1), failing)
    assert capsys.readouterr().out == "about to fail\nfailed: no room\n"
    assert (sys.stdout, sys.stderr) == (out, err)


def test_other_threads_print_meanwhile_and_who_keeps_the_stream_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    muted = ForAnother(Attributes(roots=[]))
    kept = sys.stdout
    thread = threading.Thread(target=print, args=("another thread",))
    thread.start()
    thread.join()
    print("this one")
    kept.flush()
    muted.end()
    print("after", file=kept)
    assert capsys.readouterr().out == "another thread\nafter\n"


def test_what_is_logged_meanwhile_is_held_back_and_not_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    """A handler keeps the stream that was there when it was made."""
    logger, handler = logging.getLogger("tests.of-a-user"), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        muted = ForAnother(Attributes(roots=[]))
        logger.warning("meanwhile")
        muted.end()
        logger.warning("afterwards")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == "afterwards\n"


def test_nothing_is_shown_where_bits_may_differ() -> None:
    assert {digest for _, _, digest in run_with(Witness(1), chance).shown} == {NO_DIGEST}
