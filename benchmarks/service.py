"""The control plane by itself: reads, submissions, a long ledger, many watchers, and what a kill or a power cut takes away.

    python benchmarks/service.py [--save] [--jobs 10000] [--rows 100000] [--seconds 4] [--rounds 20] [--only reads,ledger,...]

A store of 10,000 ended jobs, two of them with a ledger of 100,000 rows, behind a real server process on SQLite; clients are in this
process, over loopback. Then supervisors tell rows and events as fast as they are acknowledged, while the service is killed (SIGKILL) at
random moments, and, on an ext4 of its own on a loop device, while the file system's power is cut (EXT4_IOC_SHUTDOWN, so that nothing
that was not synced is found again): all that was acknowledged must be there afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load import Connection, Rate, connected, load, percentile
from measure import peak_memory_bytes, save, table
from plane import Plane, claimable, fill
from service_losses import Writer, measure_cuts, measure_kills

CLIENTS = (1, 10, 100)
WATCHERS, WATCHED_S, ROWS_A_BATCH = 200, 10.0, 25
MIB = 2**20


# ---- reads and submissions


def ask_get(jobs: list[str]) -> Callable[[Connection, int], Any]:
    async def ask(connection: Connection, n: int) -> None:
        assert (await connection.ask("GET", f"/v1/jobs/{jobs[n * 7919 % len(jobs)]}"))[0] == 200

    return ask


def ask_path(path: str) -> Callable[[Connection, int], Any]:
    async def ask(connection: Connection, _n: int) -> None:
        assert (await connection.ask("GET", path))[0] == 200

    return ask


def ask_submit(spec: dict[str, Any]) -> Callable[[Connection, int], Any]:
    async def ask(connection: Connection, n: int) -> None:
        body = json.dumps(spec | {"seed": n}).encode()
        status, answer = await connection.ask(
            "POST", "/v1/jobs", body, Idempotency_Key=f"{os.getpid()}-{time.time_ns()}-{n}"
        )
        assert status == 201, answer

    return ask


def measure_requests(plane: Plane, jobs: list[str], seconds: float) -> dict[str, list[dict[str, float]]]:
    """Requests a second and their times, by kind, at each number of clients."""

    async def run() -> dict[str, list[dict[str, float]]]:
        async with connected(plane.url, plane.token) as connection:
            spec = (await connection.json("GET", f"/v1/jobs/{jobs[0]}"))["spec"]
        kinds = {
            "a job": ask_get(jobs),
            "a list of 100 jobs": ask_path("/v1/jobs?limit=100"),
            "a list of 1,000 jobs": ask_path("/v1/jobs?limit=1000"),
            "1,000 ledger rows": ask_path(f"/v1/jobs/{jobs[0]}/ledger?limit=1000&from_step=50000"),
            "a submission": ask_submit(spec),
        }
        found: dict[str, list[dict[str, float]]] = {}
        for kind, ask in kinds.items():
            for clients in CLIENTS:
                rate: Rate = await load(plane.url, plane.token, clients, seconds, plane.cpu_s, ask)
                found.setdefault(kind, []).append(rate.figures())
                print(f"{kind}, {clients} clients: {found[kind][-1]}", flush=True)
        return found

    return asyncio.run(run())


# ---- a long ledger


def measure_commands(plane: Plane, one: str, other: str, folder: Path) -> list[dict[str, Any]]:
    """Wall-clock time and peak memory of the CLI's commands over whole ledgers."""
    file = folder / "ledger.json"
    commands = {
        "ledger": ["ledger", one],
        "ledger --csv": ["ledger", one, "--csv"],
        "ledger --json": ["ledger", one, "--json"],
        "diff of two jobs": ["diff", one, other],
        "diff of a job and a file": ["diff", one, str(file)],
    }
    found = []
    for name, command in commands.items():
        to = file if name == "ledger --json" else folder / "out.txt"
        before = plane.cpu_s()
        seconds, cpu, peak = cli(plane, command, to)
        served = plane.cpu_s() - before
        found.append(
            {"command": name, "seconds": seconds, "cpu_s": cpu, "service_cpu_s": served, "peak_mib": peak / MIB}
        )
        print(found[-1], flush=True)
    return found


def cli(plane: Plane, command: list[str], to: Path) -> tuple[float, float, int]:
    env = {**os.environ, "SUREFOOT_URL": plane.url, "SUREFOOT_TOKEN": plane.token}
    began = time.perf_counter()
    with to.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", _CLI, *command], env=env, stdout=out, stderr=subprocess.PIPE, check=False
        )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"surefoot {' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
    cpu, peak = done.stderr.split()[-2:]
    return seconds, float(cpu), int(peak) * 1024


# tells its peak memory last: that of a child as its parent sees it has the parent's in it
_CLI = """
import sys, time
from surefoot.cli import main
try:
    main()
finally:
    peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
    print(time.process_time(), peak, file=sys.stderr)
"""


# ---- watchers of one stream


def measure_watchers(plane: Plane, claim: tuple[str, str, str]) -> dict[str, float]:
    """How late rows reach 200 streams of one job, at 100 steps a second."""
    job, attempt, code = claim
    lags: list[float] = []
    sent: dict[int, float] = {}

    async def watch(ready: asyncio.Semaphore, last: int) -> None:
        async with connected(plane.url, plane.token) as connection:
            connection.send("GET", f"/v1/jobs/{job}/stream")
            status, _ = await connection.head()
            assert status == 200
            ready.release()
            async for chunk in connection.chunks():
                now = time.perf_counter()
                for message in chunk.split(b"\n\n"):
                    if b"event: row" not in message:
                        continue
                    step = int(message.partition(b'"step":')[2].partition(b",")[0])
                    if step % ROWS_A_BATCH == 0:
                        lags.append(now - sent[step])
                    if step == last:
                        return

    async def run() -> dict[str, float]:
        num_batches = int(WATCHED_S * 100 / ROWS_A_BATCH)
        ready = asyncio.Semaphore(0)
        async with connected(plane.url, "") as connection, asyncio.TaskGroup() as group:
            writer = Writer(plane, job, attempt)
            await writer.claim(connection, code)
            for _ in range(WATCHERS):
                group.create_task(watch(ready, num_batches * ROWS_A_BATCH - 1))
            for _ in range(WATCHERS):
                await ready.acquire()
            cpu, began = plane.cpu_s(), time.perf_counter()
            for n in range(num_batches):
                await asyncio.sleep(max(0.0, began + n * ROWS_A_BATCH / 100 - time.perf_counter()))
                sent[n * ROWS_A_BATCH] = time.perf_counter()
                await writer.post(connection, ROWS_A_BATCH)
        took = time.perf_counter() - began
        return {
            "watchers": WATCHERS,
            "p50_ms": 1000 * percentile(lags, 0.5),
            "p99_ms": 1000 * percentile(lags, 0.99),
            "cpu_share": (plane.cpu_s() - cpu) / took,
            "messages_per_s": num_batches * ROWS_A_BATCH * WATCHERS / took,
            "service_peak_mib": peak_memory_bytes(plane.pid) / MIB,
        }

    return asyncio.run(run())


# ---- what is told


def report(figures: dict[str, Any]) -> str:
    parts = ["# The control plane", (__doc__ or "").partition("\n\n    python")[2].partition("\n\n")[2].strip()]
    if "requests" in figures:
        rows = [
            [kind, str(f["clients"]), *(f"{f[name]:.1f}" for name in ("per_s", "p50_ms", "p99_ms", "cpu_ms"))]
            for kind, found in figures["requests"].items()
            for f in found
        ]
        parts.append(table(["request", "clients", "a second", "p50 ms", "p99 ms", "CPU of the service, ms each"], rows))
    if "commands" in figures:
        names = ("seconds", "cpu_s", "service_cpu_s")
        rows = [
            [f["command"], *(f"{f[name]:.2f}" for name in names), f"{f['peak_mib']:.0f}"] for f in figures["commands"]
        ]
        parts.append(f"The CLI over ledgers of {figures['rows']:,} rows:")
        parts.append(table(["command", "seconds", "its CPU, s", "the service's, s", "its peak memory, MiB"], rows))
    if "watchers" in figures:
        f = figures["watchers"]
        parts.append(
            f"{f['watchers']} watchers of one stream at 100 steps a second, told every quarter of a second: a row is at a watcher "
            f"{f['p50_ms']:.0f} ms (p50), {f['p99_ms']:.0f} ms (p99) after its supervisor began to tell it; {f['messages_per_s']:.0f} "
            f"messages a second cost {100 * f['cpu_share']:.0f}% of a core."
        )
    for name, what in (("kills", "kill -9"), ("cuts", "power cuts (ext4 on a loop device, EXT4_IOC_SHUTDOWN)")):
        if isinstance(f := figures.get(name), str):
            parts.append(f"{what}: not measured here: {f}")
        elif f:
            told, lost = (", ".join(f"{n} {what}" for what, n in f[k].items()) for k in ("acknowledged", "lost"))
            parts.append(f"{f['rounds']} rounds of {what} at full write rate: acknowledged {told}; lost {lost}.")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="requests,commands,watchers,kills,cuts")
    args = parser.parse_args()
    parts, figures = set(args.only.split(",")), dict[str, Any](jobs=args.jobs, rows=args.rows)
    with tempfile.TemporaryDirectory(prefix="sf-service-") as name:
        folder = Path(name)
        if parts & {"requests", "commands", "watchers"}:
            jobs, (one, other) = fill(folder / "data", args.jobs, args.rows)
            watched = claimable(folder / "data", 1)[0]
            plane = Plane(folder / "data")
            plane.start()
            try:
                if "commands" in parts:
                    figures["commands"] = measure_commands(plane, one, other, folder)
                if "watchers" in parts:
                    figures["watchers"] = measure_watchers(plane, watched)
                if "requests" in parts:
                    figures["requests"] = measure_requests(plane, jobs, args.seconds)
            finally:
                plane.stop()
        if "kills" in parts:
            figures["kills"] = measure_kills(folder / "killed", args.rounds)
        if "cuts" in parts:
            figures["cuts"] = measure_cuts(folder, args.rounds)
    text = report(figures)
    print(text)
    if args.save:
        save("service", text, figures)


if __name__ == "__main__":
    main()
