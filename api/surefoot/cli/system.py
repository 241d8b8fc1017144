"""What trainers use of their machines, in words."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence

from surefoot.cli.format import duration, number, size
from surefoot.cli.session import say
from surefoot.cli.tables import print_table
from surefoot.client import Job
from surefoot.errors import NotFoundError
from surefoot.system import SystemPoint

__all__ = ["glance", "live_trainers", "print_system", "print_trainers"]

# a column is told where any trainer has something to tell there
_HEADS = (
    "TRAINER",
    "CPUS",
    "MEMORY",
    "MACHINE",
    "GPU",
    "GPU MEMORY",
    "RECEIVES",
    "SENDS",
    "SAMPLES/S",
    "EXCHANGE",
    "WAITS",
)


def live_trainers(job: Job) -> list[SystemPoint]:
    """The newest samples of trainers that live; none where the service keeps none."""
    try:
        return [point for point in job.system() if point.live]
    except NotFoundError:
        return []  # a service before there were samples


def print_system(job: Job, *, as_csv: bool, as_json: bool) -> None:
    """Print what is kept of all trainers as CSV or JSON, or each one's newest sample as a table."""
    points = job.system(history=as_csv or as_json)
    if as_json:
        say(json.dumps([point.model_dump(mode="json") for point in points], indent=1))
    elif as_csv:
        names = ["at", *(name for name in SystemPoint.model_fields if name not in ("at", "live"))]
        write = csv.writer(sys.stdout, lineterminator="\n").writerow
        write(names)
        for point in points:
            told = point.model_dump(mode="json")
            write(["" if told[name] is None else told[name] for name in names])
    elif points:
        print_trainers(sorted(points, key=lambda point: point.at)[-_MOST:])
    else:
        say("no trainer has told anything yet")


# lost trainers have rows as well
_MOST = 100


def print_trainers(points: Sequence[SystemPoint]) -> None:
    """Print a line a trainer."""
    rows = [_cells(point) for point in sorted(points, key=lambda point: (len(point.trainer), point.trainer))]
    told = [n for n in range(len(_HEADS)) if any(row[n] for row in rows)]
    heads = [_HEADS[n] for n in told]
    print_table(heads, [[row[n] for n in told] for row in rows], right=heads[1:])


def _cells(point: SystemPoint) -> tuple[str, ...]:
    return (
        point.trainer if point.live else f"{point.trainer} (gone)",
        _part(point.cpus, point.cpus_limit),
        _bytes(point.memory_bytes),
        _share(point.machine_memory_bytes, point.machine_memory_limit_bytes),
        "" if point.gpu_percent is None else f"{point.gpu_percent:.0f}%",
        _share(point.gpu_memory_bytes, point.gpu_memory_limit_bytes),
        _rate(point.received_bytes_per_s),
        _rate(point.sent_bytes_per_s),
        "" if point.samples_per_s is None else number(point.samples_per_s),
        "" if point.exchange_s is None else duration(point.exchange_s),
        "" if point.wait_s is None else duration(point.wait_s),
    )


def glance(points: Sequence[SystemPoint]) -> str:
    """What to know of all trainers, in a few words: "memory 87%" where that is fullest, "GPU 95%" on average; empty: nothing is known."""
    full = [p.machine_memory_bytes / p.machine_memory_limit_bytes for p in points
            if p.machine_memory_bytes is not None and p.machine_memory_limit_bytes]  # fmt: skip
    busy = [p.gpu_percent for p in points if p.gpu_percent is not None]
    parts = [f"memory {max(full):.0%}"] if full else []
    parts += [f"GPU {sum(busy) / len(busy):.0f}%"] if busy else []
    return "  ".join(parts)


def _part(value: float | None, whole: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if whole is None else f"{value:.2f} of {whole:g}"


def _bytes(value: float | None) -> str:
    return "" if value is None else _binary(value)


def _binary(num_bytes: float) -> str:
    """A size of memory as machines have it: "4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def _share(used: float | None, limit: float | None) -> str:
    return "" if used is None or not limit else f"{used / limit:.0%} of {_binary(limit)}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{size(int(value))}/s"
