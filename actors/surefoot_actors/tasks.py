"""What is done in the background: tasks with an owner, who has all of them end with it, and a thread that does one job after the other."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine

from surefoot_actors.process_log import log

__all__ = ["JobThread", "Tasks"]


class Tasks:
    """Used on one event loop. The loop itself keeps no task alive that nobody holds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None], name: str = "") -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name or self._name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # nobody else may ask for it
            log.error("task_failed", task=task.get_name(), exc_info=error)

    async def settle(self, within_s: float | None = None) -> None:
        """Wait, so long at most, until those that run now are done, whatever they came to."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=within_s)

    def cancel(self) -> None:
        for task in tuple(self._running):
            task.cancel()

    async def close(self) -> None:
        """Cancel all; returns when nothing of them runs."""
        tasks = tuple(self._running)
        self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class JobThread:
    """Does one job after the other, on a thread that begins with the first and ends with the process. `put` may be called on any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Have this done. What it raises is logged, and the next job is done all the same."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            try:
                self._jobs.get()()
            except Exception as error:  # noqa: BLE001  the thread's edge: whoever waits for a later job waits for this thread
                log.warning("job_failed", thread=self._name, error=repr(error))
