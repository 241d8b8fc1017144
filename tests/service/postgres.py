"""A Postgres server of the tests' own: in a short folder that it owns, on a socket in it and a loopback port, ended with all it started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

# generous: what takes longer is broken, not slow
_LIMIT_S = 180.0
# the server refuses to be root, and Debian's package makes this user for it
_USER = "postgres"


def binaries() -> Path | None:
    """Where the server's programs are; None: not on this machine."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def needed() -> Path:
    """The same; skips the test without them, but in CI, where they must be."""
    found = binaries()
    if found is not None:
        return found
    message = "needs the server binaries of Postgres (Debian package postgresql)"
    if os.environ.get("SUREFOOT_CI"):
        pytest.fail(message)
    pytest.skip(message)


class Postgres:
    """One server; it can be stopped and started again, with its data."""

    def __init__(self, bin_folder: Path, folder: Path) -> None:
        self._bin, self._data, self._sockets = bin_folder, folder / "data", folder
        self._log = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "-D", str(self._data), "-U", _USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str, like: str = "template1") -> str:
        """Make a database, empty or as another is to which nobody is connected; return its SQLAlchemy URL."""
        where = f"host=127.0.0.1 port={self.port} user={_USER} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
        return self.url(name)

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._sockets} -c fsync=off"
        )
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: "immediate" as a crash would, "fast" with good-byes."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def freeze(self) -> None:
        """Have the server and all of its processes stand still: connections are taken, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> None:
        become = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*become, str(self._bin / program), *arguments]
        # the server keeps whatever it inherits open: it gets none of ours
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else None,
            timeout=_LIMIT_S,
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, f"{program} failed: {done.stderr!r}; {self._last_words()}"

    def _last_words(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else ""


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    bin_folder = needed()
    folder = Path(tempfile.mkdtemp(prefix="sf-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, _USER, _USER)
    server = None
    try:
        server = Postgres(bin_folder, folder)
        yield server
    finally:
        if server is not None and (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
