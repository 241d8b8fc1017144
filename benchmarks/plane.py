"""A control plane to be measured: its own process on a data folder, filled with history, killed, or cut off from its power."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from measure import free_port
from sqlalchemy.orm import Session

from surefoot.events import Circumstances, LedgerRow, Result
from surefoot.spec import JobSpec
from surefoot_service.rest.app import open_service
from surefoot_service.settings import Settings
from surefoot_service.store import attempts
from surefoot_service.store.tables import AttemptRow, EventRow, JobRow, StepRow

__all__ = ["Disk", "Plane", "claimable", "fill", "make_row", "settings_of"]

_COMMAND = [
    sys.executable,
    "-m",
    "uvicorn",
    "--factory",
    "surefoot_service.rest.app:create_app",
    "--log-level",
    "warning",
]
_START_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


def settings_of(data: Path) -> Settings:
    return Settings(data=data, database_url=None, ray_address=None)


class Plane:
    """A service process; its port and data stay the same over its restarts."""

    def __init__(self, data: Path) -> None:
        self.data, self._port = data, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        env = {**os.environ, "SUREFOOT_DATA": str(self.data)}
        for name in ("SUREFOOT_DATABASE_URL", "SUREFOOT_RAY_ADDRESS"):
            env.pop(name, None)
        self._process = subprocess.Popen([*_COMMAND, "--port", str(self._port)], env=env)
        end = time.monotonic() + _START_S
        while True:
            try:
                httpx.get(f"{self.url}/v1/health", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the control plane did not start") from None
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_START_S)

    @property
    def token(self) -> str:
        return (self.data / "token").read_text().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_s(self) -> float:
        """What its process has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def make_row(step: int) -> LedgerRow:
    values = {"loss": 1 / (step + 1), "accuracy": 1 - 1 / (step + 2)}
    result = Result(step=step, first_sample=step * 64, num_samples=64, digest=f"{step:032x}", values=values)
    return LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=4, seconds=0.01, at=1.8e9))


def fill(data: Path, num_jobs: int, num_rows: int) -> tuple[list[str], list[str]]:
    """Fill a store with ended jobs, two of them with so many ledger rows; return all of them, and those two."""
    service = open_service(settings_of(data))
    spec = _spec(data)
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def store(session: Session, first: int, num: int) -> None:
        for n in range(first, first + num):
            job, at = f"job{n:07d}", began + timedelta(seconds=n)
            text = spec.model_copy(update={"seed": n, "name": f"run {n}"}).model_dump_json()
            done = {"state": "succeeded", "created_at": at, "started_at": at, "ended_at": at, "wanted_trainers": 4}
            session.add(JobRow(id=job, spec=text, steps_done=num_rows, num_steps=num_rows, digest="0" * 32, **done))
            session.flush()
            session.add(
                AttemptRow(
                    id=f"{job}-1",
                    job=job,
                    n=1,
                    created_at=at,
                    claim_hash="",
                    submission_id="",
                    cleaned_at=at,
                    fenced_at=at,
                )
            )
            for number, state in enumerate(("queued", "starting", "running", "succeeded"), 1):
                data = json.dumps({"state": state, "reason": ""})
                session.add(EventRow(job=job, source="service", n=number, at=at, kind="state", data=data))

    def rows(session: Session, job: str) -> None:
        session.add_all(StepRow(job=job, step=step, row=make_row(step).model_dump_json()) for step in range(num_rows))

    async def run() -> None:
        for first in range(0, num_jobs, 1000):
            await service.database.write(store, first, min(1000, num_jobs - first))
        for job in ("job0000000", "job0000001"):
            await service.database.write(rows, job)

    asyncio.run(run())
    service.database.close()
    return [f"job{n:07d}" for n in range(num_jobs)], ["job0000000", "job0000001"]


def _spec(data: Path) -> JobSpec:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.py", "def train(run):\n    pass\n")
    settings = settings_of(data)
    service = open_service(settings)

    async def put() -> str:
        async def body() -> Any:
            yield buffer.getvalue()

        from surefoot_service.store import packages

        sha256, size = await service.packages.receive(body(), service.waiting)
        await service.database.write(packages.add, sha256, size, now=datetime.now(UTC))
        return sha256

    sha256 = asyncio.run(put())
    service.database.close()
    config = {"lr": 0.1, "steps": 1000, "layers": [64, 64, 10], "note": "as a person would write it"}
    return JobSpec(entrypoint="train:train", package=sha256, batch_size=64, config=config, trainers=4)


def claimable(data: Path, num: int) -> list[tuple[str, str, str]]:
    """Submit jobs and start an attempt of each, as the reconciler would; return each job, its attempt and its claim code."""
    service = open_service(settings_of(data))
    spec = _spec(data)

    async def run() -> list[tuple[str, str, str]]:
        from surefoot_service.store import jobs

        made = []
        for _ in range(num):
            view, _new = await service.database.write(jobs.create, spec, idempotency_key=None, now=service.now())
            attempt = await service.database.write(
                attempts.make, view.id, keys=service.keys, session_name="s", reason="", now=service.now()
            )
            assert attempt is not None
            made.append((view.id, attempt.id, service.keys.claim_code(attempt.id)))
        return made

    found = asyncio.run(run())
    service.database.close()
    return found


class Disk:
    """An ext4 on a loop device whose power can be cut: what was not synced is gone. Needs root."""

    # EXT4_IOC_SHUTDOWN, and its flag to let nothing more reach the device, the journal neither
    _SHUTDOWN, _AT_ONCE = 0x8004587D, 2

    def __init__(self, folder: Path) -> None:
        self._image, self.path = folder / "disk.img", folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(2 * 2**30)
        _run("mkfs.ext4", "-q", self._image)
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.path)

    def unmount(self) -> None:
        _run("umount", self.path)

    def cut(self) -> None:
        """From now on nothing reaches the device."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, self._SHUTDOWN, struct.pack("I", self._AT_ONCE))
        finally:
            os.close(handle)


@contextmanager
def disk(folder: Path) -> Iterator[Disk | str]:
    """A disk whose power can be cut; or why there is none on this machine."""
    try:
        made = Disk(folder)
    except (OSError, RuntimeError) as error:
        yield str(error)
        return
    try:
        yield made
    finally:
        made.unmount()


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")
