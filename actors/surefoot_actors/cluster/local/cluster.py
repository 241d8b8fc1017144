"""A cluster of plain local processes, without Ray: for `surefoot check`, tests and benchmarks.

Each trainer is a process of its own, forked from a template process (cluster/local/template.py) that has imported torch, so
that a start takes a tenth of a second. A death is told by the template, its parent, within milliseconds and with the
reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surefoot.events import FaultKind
from surefoot_actors.cluster.environment import trainer_env
from surefoot_actors.cluster.local.trainer_process import LENGTH, Birth, Call, Reply
from surefoot_actors.cluster.ports import Inbox, TrainerGoneError, TrainerHandle, TrainerSetup, Where
from surefoot_actors.faults.refused import FaultRefusedError
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.protocol.messages import ToTrainer
from surefoot_actors.tasks import Tasks

__all__ = ["PRELOAD", "LocalCluster"]

# what every trainer needs
PRELOAD = ("torch", "surefoot_actors.trainer.trainer")
_RUN_TEMPLATE = "from surefoot_actors.cluster.local.template import main; main()"
# A process that is dead has written all it will: its last replies are read, but not waited for longer than this.
_DRAIN_S = 0.2
# A trainer that hung up is dead, or is made so after this long.
_HANG_UP_S = 1.0


class _Template:
    """The template process: one for each set of environment variables, since those count at import."""

    def __init__(self, env: Mapping[str, str], preload: Sequence[str]) -> None:
        self._env, self._preload = env, preload
        self._ids = itertools.count(1)
        self._ended: dict[str, Callable[[str], None]] = {}

    async def start(self) -> None:
        """Start it; returns when its imports are done."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        command = [sys.executable, "-c", _RUN_TEMPLATE, str(theirs.fileno()), str(os.getpid()), *self._preload]
        with theirs:
            # PR_SET_PDEATHSIG is bound to the thread that makes a process: so here, and not in a worker thread
            self.process = subprocess.Popen(  # noqa: ASYNC220 (milliseconds)
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for whoever started us, who then closes us
            )
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._control, self._take)
        await self._ready

    def fork(self, sock: socket.socket, ended: Callable[[str], None]) -> str:
        """Fork a trainer that serves `sock`. `ended` is called once with the reason when its process is gone."""
        name = str(next(self._ids))
        self._ended[name] = ended
        socket.send_fds(self._control, [f"start {name}".encode()], [sock.fileno()])
        return name

    def kill(self, name: str) -> None:
        """Kill a trainer, unless it is gone; `ended` tells when it is."""
        if name in self._ended:
            self._control.send(f"kill {name}".encode())

    def stop(self, name: str) -> None:
        """Stop a trainer, as SIGSTOP does, unless it is gone."""
        if name in self._ended:
            self._control.send(f"stop {name}".encode())

    def _take(self) -> None:
        try:
            text = self._control.recv(256).decode()
        except OSError:
            text = ""
        match text.split():
            case ["ready"]:
                self._ready.set_result(None)
            case ["ended", name, status]:
                self._ended.pop(name)(_reason(int(status)))
            case _:
                self._lost()

    def _lost(self) -> None:
        """The template is dead, and all trainers with it (PR_SET_PDEATHSIG)."""
        asyncio.get_running_loop().remove_reader(self._control)
        if not self._ready.done():
            self._ready.set_exception(TrainerGoneError("the template process of local trainers died in its imports"))
        for ended in self._ended.values():
            ended("killed with the template process of local trainers")
        self._ended.clear()

    async def close(self) -> None:
        """End it, and with it whatever it has forked."""
        asyncio.get_running_loop().remove_reader(self._control)
        self.process.kill()
        self._control.close()
        await asyncio.to_thread(self.process.wait)


def _reason(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by signal {number} ({signal.Signals(number).name})"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"


class _LocalTrainer(TrainerHandle):
    """The supervisor's end of one trainer process."""

    node = ""

    def __init__(
        self,
        trainer: str,
        template: _Template,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        theirs: socket.socket,
    ) -> None:
        """Fork the process that serves `theirs`, the other end of `reader` and `writer`."""
        self._trainer, self._writer = trainer, writer
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        # set once, to the reason, when the process is gone
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._template, self._id = template, template.fork(theirs, self._ended)
        self._reading = asyncio.create_task(self._read(reader), name=f"read-{trainer}")

    @property
    def trainer(self) -> str:
        return self._trainer

    async def start(self, birth: Birth) -> None:
        """Wait until its service answers."""
        await self._ask(0, birth)

    async def call(self, method: str, *arguments: Any) -> Any:
        n = next(self._numbers)
        return await self._ask(n, Call(n=n, method=method, arguments=arguments))

    async def tell_liveness(self, address: tuple[str, int], secret: str) -> None:
        """Have its watchdog beat to another server."""
        with contextlib.suppress(TrainerGoneError):
            await self.call("liveness", address, secret)

    async def deliver(self, message: ToTrainer) -> None:
        await self.call("deliver", message)

    async def collect(self, after: int, rows_below: int, wait_s: float) -> Inbox:
        inbox: Inbox = await self.call("collect", after, rows_below, wait_s)
        return inbox

    async def where(self) -> Where:
        where: Where = await self.call("where")
        return where

    def refusal(self, fault: FaultKind) -> str:
        possible = fault in (FaultKind.TRAINER, FaultKind.FREEZE)
        return "" if possible else f"a local trainer has no {fault} of its own"

    async def inject(self, fault: FaultKind) -> None:
        if refused := self.refusal(fault):
            raise FaultRefusedError(refused)
        if fault is FaultKind.TRAINER:
            self._template.kill(self._id)
        else:
            self._template.stop(self._id)

    async def kill(self) -> None:
        self._template.kill(self._id)
        await asyncio.shield(self.gone)

    async def _ask(self, n: int, frame: Birth | Call) -> Any:
        if self.gone.done():
            raise TrainerGoneError(self.gone.result())
        future = self._pending[n] = asyncio.get_running_loop().create_future()
        body = pickle.dumps(frame, protocol=5)
        try:
            self._writer.write(LENGTH.pack(len(body)) + body)
            reply: Reply = await future
        finally:
            self._pending.pop(n, None)
        if reply.raised:
            # the service is ours: what raises there is broken, and told as a loss
            await self.kill()
            raise TrainerGoneError(f"its service raised, so it was ended:\n{reply.raised}")
        return reply.value

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                reply = pickle.loads(await reader.readexactly(length))  # noqa: S301 (from our own child)
                future = self._pending.get(reply.n)
                if future is not None and not future.done():
                    future.set_result(reply)
        await asyncio.wait({self.gone}, timeout=_HANG_UP_S)
        self._template.kill(self._id)

    def _ended(self, reason: str) -> None:
        self._ending = asyncio.create_task(self._end(reason), name=f"end-{self._trainer}")

    async def _end(self, reason: str) -> None:
        """Read what is still in the pipe, then fail whoever waits."""
        self.gone.set_result(reason)
        await asyncio.wait({self._reading}, timeout=_DRAIN_S)
        self._reading.cancel()
        self._writer.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(TrainerGoneError(reason))


class LocalCluster:
    """Trainers as local processes, of one attempt.

    `path` is where trainers find the user's code, `env` on top of this process's environment as it is now. `service` is the
    "module:Class" that a trainer serves; `preload` what the template imports, never user code. `log_dir` takes
    trainers' output, a file each. `liveness`, where set, is told to the trainers that `find_trainers` finds: set it anew
    for a restarted supervisor.
    """

    installs = False

    def __init__(
        self,
        attempt: str,
        path: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        service: str = "surefoot_actors.trainer.trainer:TrainerProcess",
        preload: Sequence[str] = PRELOAD,
        log_dir: Path | None = None,
        liveness: LivenessServer | None = None,
    ) -> None:
        self.liveness = liveness
        # no node is ever drained here, so it is never called
        self.on_notice: Callable[[str, str], None] = lambda trainer, reason: None
        self.on_waiting: Callable[[str], None] = lambda what: None
        self._attempt, self._path, self._env = attempt, tuple(path), {**os.environ, **(env or {})}
        self._service, self._preload, self._log_dir = service, tuple(preload), log_dir
        self._templates: dict[tuple[tuple[str, str], ...], asyncio.Task[_Template]] = {}
        self._trainers: list[_LocalTrainer] = []
        self._telling = Tasks("liveness")

    async def __aenter__(self) -> LocalCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start_trainer(self, setup: TrainerSetup) -> TrainerHandle:
        template = await self._template(setup)
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            trainer = _LocalTrainer(setup.trainer, template, reader, writer, theirs)
        self._trainers.append(trainer)
        log = str(self._log_dir / f"{setup.trainer}.log") if self._log_dir else ""
        try:
            secret = setup.liveness_secret.reveal() if setup.liveness_secret else ""
            born = replace(setup, liveness_secret=None)
            await trainer.start(Birth(setup=born, secret=secret, service=self._service, path=self._path, log=log))
        except asyncio.CancelledError:
            await trainer.kill()
            raise
        return trainer

    async def find_trainers(self) -> list[TrainerHandle]:
        found = [trainer for trainer in self._trainers if not trainer.gone.done()]
        for trainer in found if self.liveness is not None else ():
            assert self.liveness is not None
            # not awaited: one that is stopped answers no more, and the detector, which expects it, says so
            self.liveness.expect(trainer.trainer)
            self._telling.spawn(trainer.tell_liveness(self.liveness.address, self.liveness.sealed.reveal()))
        return list(found)

    async def close(self) -> None:
        await asyncio.gather(*(trainer.kill() for trainer in self._trainers))
        for task in self._templates.values():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                await task.result().close()
        self._templates.clear()

    async def _template(self, setup: TrainerSetup) -> _Template:
        env = {**self._env, **trainer_env(setup.spec)}
        key = tuple(sorted(env.items()))
        if key not in self._templates:
            self._templates[key] = asyncio.create_task(_started(_Template(env, self._preload)), name="template")
        return await asyncio.shield(self._templates[key])


async def _started(template: _Template) -> _Template:
    try:
        await template.start()
    except (asyncio.CancelledError, TrainerGoneError):
        await template.close()
        raise
    return template
