"""The processes that probes are forked from, as whoever runs the check sees them."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from surefoot.spec import JobSpec
from surefoot_actors.check.child import ProbeRequest
from surefoot_actors.cluster.environment import trainer_env

__all__ = ["QUIET", "Template", "Templates"]

# Environment of all that runs the user's code here: it leaves no compiled files.
QUIET = {"PYTHONDONTWRITEBYTECODE": "1"}
_COMMAND = [sys.executable, "-P", "-c", "from surefoot_actors.check.child import main; main()"]


class Template:
    """One process. It is started when there is something to do, and again after it had to be ended."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, request: ProbeRequest) -> None:
        """Have it perform a request; `wait` before the next."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = self._started()
        file = Path(request.out) / "request"
        file.write_bytes(pickle.dumps(request))
        cast(IO[bytes], self._process.stdin).write(f"{file}\n".encode())

    def wait(self, until: float) -> bool:
        """Wait for the request's end, till `time.monotonic()` is `until`, and return whether it came in time. Where not, all is ended."""
        assert self._process is not None
        replies = cast(IO[bytes], self._process.stdout)
        ready, _, _ = select.select([replies], [], [], max(0.0, until - time.monotonic()))
        if not ready or not replies.readline():
            self.close()
        return bool(ready)

    def close(self) -> None:
        """Kill it, and with it all that it has forked."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for file in (process.stdin, process.stdout):
            cast(IO[bytes], file).close()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_COMMAND, str(os.getpid())],
            env=self._env,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for whoever started us, who then closes us
        )


class Templates:
    """Two that are alike, since one process cannot tell what differs from one to the next, and one with another PYTHONHASHSEED.

    They serve any number of checks of jobs that have the spec's environment and threads.
    """

    def __init__(self, spec: JobSpec) -> None:
        env = {**os.environ, **trainer_env(spec), **QUIET}
        self.main, self.again = Template(env), Template(env)
        self.hashes = Template({**env, "PYTHONHASHSEED": "1"})

    def __enter__(self) -> Templates:
        return self

    def __exit__(self, *_: object) -> None:
        for template in (self.main, self.again, self.hashes):
            template.close()
