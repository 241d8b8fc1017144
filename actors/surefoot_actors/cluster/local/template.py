"""The template process of LocalCluster: imports what is slow once, then forks a trainer in some milliseconds.

It has one thread and never starts another, so that a fork is safe; user code is imported in the forked process alone.
Its standard input is not used; a SOCK_SEQPACKET control socket, whose number is its first argument, carries small
texts:
    to it: "start ID" with a socket for the trainer, "kill ID", "stop ID"      from it: "ready", "ended ID STATUS"
All that it forks dies with it, and it dies with whoever started it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import traceback

from surefoot_actors.cluster.local import trainer_process

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent, whose pid is `parent`, ends (strictly: the thread that made it)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Template:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[str, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write)

    def run(self) -> None:
        """Serve until the control socket ends."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        self._control.send(b"ready")
        while True:
            for number, _ in poller.poll():
                if number == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        text, fds, _, _ = socket.recv_fds(self._control, 256, 1)
        if not text:
            return False
        what, name = text.decode().split()
        if what == "start":
            self._fork(name, fds[0])
        elif name in self._pids and what == "stop":
            os.kill(self._pids[name], signal.SIGSTOP)
        elif name in self._pids:
            _kill_group(self._pids[name])
        return True

    def _fork(self, name: str, fd: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_trainer(parent, fd)
        os.close(fd)
        self._pids[name] = pid

    def _be_trainer(self, parent: int, fd: int) -> None:
        """In the forked process: never returns, whatever happens."""
        try:
            die_with_parent(parent)
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (self._wake_read, self._wake_write, self._control.detach()):
                os.close(number)
            trainer_process.serve(socket.socket(fileno=fd))
            os._exit(0)
        except BaseException:  # noqa: BLE001 (it must not run on as a second template)
            traceback.print_exc()
        finally:
            os._exit(70)

    def _reap(self) -> None:
        for name, pid in tuple(self._pids.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                # before the pid is free to be another's: what the trainer itself started goes with it
                _kill_group(pid)
                _, status = os.waitpid(pid, 0)
                del self._pids[name]
                self._control.send(f"ended {name} {status}".encode())


def _kill_group(pid: int) -> None:
    """Kill a process not yet reaped and its group, if it has made its own by now."""
    os.kill(pid, signal.SIGKILL)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    """Arguments: number of the control socket, pid of the parent, modules to import."""
    die_with_parent(int(sys.argv[2]))
    for module in sys.argv[3:]:
        importlib.import_module(module)
    _Template(socket.socket(fileno=int(sys.argv[1]))).run()
