"""Background tasks with an owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from structlog.testing import capture_logs

from surefoot_actors.tasks import Tasks


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


async def test_what_runs_is_waited_for_whatever_it_comes_to() -> None:
    tasks, gate = Tasks("mine"), asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise ValueError("as told")

    with capture_logs() as told:
        await _fails(tasks, fail, gate)
    assert [(entry["event"], str(entry["exc_info"])) for entry in told] == [("task_failed", "as told")]


async def _fails(tasks: Tasks, fail: Callable[[], Coroutine[None, None, None]], gate: asyncio.Event) -> None:
    task = tasks.spawn(fail())
    await tasks.settle(within_s=0.0)
    assert not task.done()
    gate.set()
    await tasks.settle()
    assert isinstance(task.exception(), ValueError)
    await tasks.settle()
