"""Background tasks with an owner."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Coroutine

import pytest

from surefoot_actors.tasks import JobThread, Tasks


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is logged."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


async def test_tasks_end_with_their_owner() -> None:
    tasks, ended = Tasks("mine"), asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = tasks.spawn(wait(), "one")
    assert task.get_name() == "one"
    await asyncio.sleep(0)
    await tasks.close()
    assert task.cancelled()
    assert ended.is_set()


async def test_what_runs_is_waited_for_whatever_it_comes_to(told: io.StringIO) -> None:
    tasks, gate = Tasks("mine"), asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise ValueError("as told")

    await _fails(tasks, fail, gate)
    assert told.getvalue().count("[error") == told.getvalue().count("task_failed") == 1
    assert told.getvalue().endswith("ValueError: as told\n")


async def _fails(tasks: Tasks, fail: Callable[[], Coroutine[None, None, None]], gate: asyncio.Event) -> None:
    task = tasks.spawn(fail())
    await tasks.settle(within_s=0.0)
    assert not task.done()
    gate.set()
    await tasks.settle()
    assert isinstance(task.exception(), ValueError)
    await tasks.settle()


def test_a_thread_does_one_job_after_the_other_whatever_they_raise(told: io.StringIO) -> None:
    thread, done, over = JobThread("mine"), list[tuple[int, str]](), threading.Event()

    def do(n: int) -> None:
        done.append((n, threading.current_thread().name))
        if n % 2:
            raise ValueError("as told")

    for n in range(5):
        thread.put(lambda n=n: do(n))  # type: ignore[misc]
    thread.put(over.set)
    assert over.wait(60)
    assert done == [(n, "mine") for n in range(5)]
    assert ["job_failed" in line for line in told.getvalue().splitlines()] == [True, True]
