"""A local Ray head of `surefoot up`'s own: started, watched, and ended with all that it started."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from surefoot._loopback import keep_loopback_direct
from surefoot.errors import SurefootError
from surefoot_service.cluster.jobs_api import RayError, open_ray_jobs
from surefoot_service.cluster.processes import MARK, end_marked, kill_marked, marked
from surefoot_service.keys import new_token, private_file
from surefoot_service.settings import Settings

__all__ = ["HeadError", "RayHead", "clear_leftovers"]

# Ray's sockets lie below it, and a socket's path ends at 107 bytes
_TEMP = "/tmp" if os.path.isdir("/tmp") else None
_READY_S = 180.0
_PROBE_S = 0.1
_GRACE_S = 15.0
_TIDY_S = 5.0
# in the head's own folder, which nobody else may enter
_TOKEN_FILE = "auth_token"
# what of the caller's environment would lead the head astray, or is not for the code that runs on it
_NOT_PASSED_ON = (
    *("RAY_ADDRESS", "RAY_AUTH", "RAY_TMPDIR", "RAY_NAMESPACE", "RAY_START_HOOK"),
    # where the service exports its traces, and with which keys
    "OTEL_EXPORTER_OTLP",
)
# the service's own settings, secrets among them, and how the SDK finds it
_OUR_OWN = frozenset({"TOKEN", "URL", *(name.upper() for name in Settings.model_fields)})
_SECRET = frozenset({"PGPASSWORD", *(f"SUREFOOT_{name}" for name in _OUR_OWN)})
# Ray's name for what it does on a laptop of another kind: the node's address is the loopback, on which all of its processes then listen.
# (`--node-ip-address=127.0.0.1` does not: Ray takes another address of the machine for it.)
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# What Ray would do first that is of no use here: wait, when it is told to end, till the actors that end with it have moved to other nodes;
# try three times, each time with a copy of the whole Python environment, to install requirements that pip refuses; start a worker a core
# that no trainer can be, as those have an environment of their own.
_AT_ONCE = {
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RUNTIME_ENV_RETRY_TIMES": "1",
    "RAY_prestart_worker_first_driver": "0",
}
# Linux ends the head when whoever started it is gone, however that came.
_EXEC = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]])
"""


class HeadError(SurefootError):
    """The local Ray head did not start, or ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a head leaves if nobody stops it, kept in the data folder for the next `up`."""

    mark: str
    temp: str


class RayHead:
    """One head. `start`, then `ready`; `ended` returns when it dies by itself; `stop` ends it and leaves nothing."""

    def __init__(self, data: Path, *, cpus: int | None) -> None:
        self._record, self._cpus = data / "head.json", cpus
        self._traces = Traces(mark=secrets.token_hex(16), temp=tempfile.mkdtemp(prefix="sf-", dir=_TEMP))
        private_file(self._record, json.dumps(asdict(self._traces)))
        self._process: asyncio.subprocess.Process | None = None
        self.address = f"http://127.0.0.1:{_free_port()}"
        self.token = new_token()

    async def start(self) -> None:
        """Start the head's processes."""
        private_file(self._temp / _TOKEN_FILE, self.token)
        with (self._temp / "start.log").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _EXEC,
                *self._arguments(),
                env=self._environment(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._temp,
                # a session of its own: the terminal's Ctrl-C is for `up`, which stops the head in its own time
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Return once the head answers and has a live node. Raises HeadError where it ends before, or takes too long."""
        died = asyncio.create_task(self.ended())
        probe = asyncio.create_task(self._probe())
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.wait({died, probe}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise HeadError(f"the Ray head was not ready after {_READY_S:g} s\n{self._last_words()}") from None
        finally:
            died.cancel()
            probe.cancel()
            await asyncio.gather(died, probe, return_exceptions=True)
        if probe.cancelled():
            raise HeadError(f"the Ray head ended while it started\n{self._last_words()}")
        probe.result()

    async def ended(self) -> int:
        """Return the head's exit code when it ends."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """End the head and everything it started, and remove its files. Raises HeadError where a process would not go."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await self._process.wait()
            # Its processes go when it goes, and tidy up after themselves (semaphores, sockets) if they are let.
            await asyncio.to_thread(end_marked, self._traces.mark, _TIDY_S)
        await asyncio.to_thread(self.kill)
        if self._process is not None:
            await self._process.wait()

    def kill(self) -> None:
        """The same, at once and without asking."""
        _remove(self._traces, self._record)

    @property
    def _temp(self) -> Path:
        return Path(self._traces.temp)

    def _arguments(self) -> list[str]:
        options = {
            "port": 0,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.address.rpartition(":")[2],
            "dashboard-agent-listen-port": 0,
            "ray-client-server-port": _free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
            "temp-dir": self._traces.temp,
            "include-dashboard": "true",
            "include-log-monitor": "false",
        }
        if self._cpus is not None:
            options["num-cpus"] = self._cpus
        # no monitor: there is nothing to scale on one machine
        flags = ["--head", "--block", "--disable-usage-stats", "--no-monitor"]
        return ["start", *flags, *(f"--{name}={value}" for name, value in options.items())]

    def _environment(self, outer: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in outer.items() if not k.startswith(_NOT_PASSED_ON) and k.upper() not in _SECRET}
        keep_loopback_direct(kept)
        return kept | {
            MARK: self._traces.mark,
            "RAY_AUTH_MODE": "token",
            # by a file: an environment is shown to whoever can list processes, and goes on to whatever they start
            "RAY_AUTH_TOKEN_PATH": str(self._temp / _TOKEN_FILE),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
            **_AT_ONCE,
            **_LOOPBACK_ONLY,
        }

    async def _probe(self) -> None:
        """Ask until the head answers and has a node; the caller bounds it."""
        async with open_ray_jobs(self.address, self.token) as ray:
            while True:
                with suppress(RayError):
                    await ray.session_name()
                    if await ray.nodes():
                        return
                await asyncio.sleep(_PROBE_S)

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self._temp / "start.log").read_text(errors="replace")[-2000:]
        return ""


def clear_leftovers(data: Path) -> bool:
    """Remove what the head of an `up` that was killed has left. Return whether there was anything. The folder is locked."""
    record = data / "head.json"
    try:
        traces = Traces(**json.loads(record.read_text()))
    except FileNotFoundError:
        return False
    except (ValueError, TypeError):
        record.unlink()
        return False
    found = bool(marked(traces.mark)) or Path(traces.temp).exists()
    _remove(traces, record)
    return found


def _remove(traces: Traces, record: Path) -> None:
    left = kill_marked(traces.mark)
    shutil.rmtree(traces.temp, ignore_errors=True)
    if left:
        raise HeadError(f"processes of the local Ray head would not end: {', '.join(map(str, left))}")
    record.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
