"""Queues between threads: what is in them, read and put back under their own lock."""

from __future__ import annotations

import queue
from typing import Any

__all__ = ["OF_QUEUES", "fill_queue"]

# The attributes that every queue has: its content, and how it is waited for.
OF_QUEUES = frozenset(vars(queue.Queue()))


def fill_queue(thing: queue.Queue[Any], items: list[Any]) -> None:
    """Give a queue these items. What was taken from another trainer's, and is being worked on there, is nobody's business here."""
    with thing.mutex:
        thing.queue.clear()
        thing.queue.extend(items)
        thing.unfinished_tasks = len(items)
        thing.all_tasks_done.notify_all()
        thing.not_full.notify_all()
        thing.not_empty.notify_all()
