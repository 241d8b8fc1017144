"""Runs whole attempts on real processes: the supervisor here, trainers in a LocalCluster, everything told kept in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surefoot.events import Event, EventKind, LedgerRow
from surefoot.spec import JobSpec
from surefoot_actors.cluster.local.cluster import PRELOAD, LocalCluster
from surefoot_actors.cluster.local.lent_cluster import LentCluster
from surefoot_actors.cluster.ports import TrainerSetup
from surefoot_actors.journal.memory import MemoryJournal
from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.logs.relay import LogRelay
from surefoot_actors.supervisor.supervisor import Outcome, Supervisor
from surefoot_actors.uplink.memory import MemoryUplink

JOBS = Path(__file__).parent / "jobs"
EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(kw_only=True)
class Story:
    """What an attempt told."""

    outcome: Outcome
    rows: list[LedgerRow]
    events: list[Event]
    num_calls: int
    fired: list[str] = field(default_factory=list)
    # by (step, samples): the processes that computed this sub-task, in order
    computed: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    # what trainers printed: bodies as they are posted
    logs: list[bytes] = field(default_factory=list)

    @property
    def ledger(self) -> list[bytes]:
        return [row.result.canonical() for row in self.rows]

    @property
    def digest(self) -> str:
        return str(self.last(EventKind.FINISHED).data["digest"])

    def of(self, kind: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    def last(self, kind: EventKind) -> Event:
        return self.of(kind)[-1]

    @property
    def computed_twice(self) -> int:
        return sum(len(pids) - 1 for pids in self.computed.values())

    @property
    def again_by_survivors(self) -> list[tuple[int, str]]:
        """Sub-tasks that more than one trainer computed of those on which no fault fired."""
        lost = {line.rpartition("pid=")[2] for line in self.fired}
        return [key for key, pids in self.computed.items() if sum(pid not in lost for pid in pids) > 1]


class Keep(LentCluster):
    """The session's cluster, lent to one supervisor at a time; it counts what is said."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(cluster)
        # every call to a trainer: all that supervisor and trainers say to each other goes by these
        self.num_calls = 0

    async def start_trainer(self, setup: TrainerSetup) -> Any:
        handle = await super().start_trainer(setup)
        self._count(handle)
        return handle

    def _count(self, handle: Any) -> None:
        call = handle.call

        async def counted(method: str, *arguments: Any) -> Any:
            self.num_calls += 1
            return await call(method, *arguments)

        handle.call = counted


class Stage:
    """Where attempts are run. One event loop and one template process for many attempts."""

    def __init__(self, folder: Path, code: Sequence[Path] = (), libraries: Sequence[str] = ()) -> None:
        """`code`: more folders that trainers import from. `libraries`: what they find imported, as each would take seconds for it."""
        self.folder = folder
        self.fired = folder / "fired"
        self.runner = asyncio.Runner()
        self.cluster = LocalCluster(
            "test",
            [str(JOBS), str(EXAMPLES), str(EXAMPLES / "charlm"), *map(str, code)],
            {"SUREFOOT_FAULTS_FIRED": str(self.fired)},
            preload=(*PRELOAD, *libraries),
            log_dir=folder,
        )
        self._count = 0

    def close(self) -> None:
        self.runner.run(self.cluster.close())
        self.runner.close()

    def run(
        self,
        *,
        faults: Sequence[str] = (),
        drive: Callable[[MemoryUplink, Keep], Awaitable[None]] | None = None,
        within_s: float = 120.0,
        checkpoints: str | Path = "",
        stored_below: int = 0,
        uplink: MemoryUplink | None = None,
        logs: bool = False,
        in_turn: bool = False,
        **spec: Any,
    ) -> Story:
        """Run an attempt. `drive` runs beside it; `checkpoints` is where its checkpoints lie.

        `logs`: what trainers print is told, too. `in_turn`: each checkpoint that is due by its step is made before training passes
        the next step (of `small` and `keeps_files`), so that which ones there are is no matter of time.

        `stored_below`: an earlier attempt's rows of steps below this are stored already. `uplink`: one that does less than keep
        all that it is told.
        """
        uplink = uplink or MemoryUplink()
        uplink.rows_below = stored_below
        if in_turn:
            spec["env"] = {"IN_TURN": f"{spec['checkpoint']['every_steps']}:{checkpoints}", **spec.get("env", {})}
        return self.runner.run(self._run(tuple(faults), drive, within_s, str(checkpoints), uplink, logs, spec))

    async def _run(
        self,
        faults: tuple[str, ...],
        drive: Any,
        within_s: float,
        checkpoints: str,
        uplink: MemoryUplink,
        logs: bool,
        overrides: dict[str, Any],
    ) -> Story:
        self._count += 1
        computed = self.folder / f"computed-{self._count}"
        config = {"steps": 8, "computed": str(computed), **overrides.pop("config", {})}
        if not checkpoints:
            overrides.setdefault("checkpoint", {"every_s": None, "final": False})
        fields = {"entrypoint": "small:train", "package": "0" * 64, "batch_size": 32, "seed": 7, **overrides}
        spec = JobSpec(config=config, **fields)
        self.fired.unlink(missing_ok=True)
        cluster = Keep(self.cluster)
        liveness = LivenessServer("test")
        await liveness.start()
        relay = LogRelay(uplink)
        if logs:
            liveness.on_logs = relay.serve
            relay.start()
        driver = asyncio.create_task(drive(uplink, cluster)) if drive else None
        try:
            async with asyncio.timeout(within_s):
                supervisor = Supervisor(
                    spec, "test", cluster, uplink, MemoryJournal(), liveness, faults, checkpoints=checkpoints, logs=logs
                )
                outcome = await supervisor.run()
        except TimeoutError:
            raise AssertionError(f"the attempt did not end; it told: {_tale(uplink)}; logs in {self.folder}") from None
        finally:
            if driver:
                driver.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await driver
            if logs:
                await relay.settle(20.0)
                await relay.close()
            await liveness.close()
        return Story(
            outcome=outcome,
            rows=sorted(uplink.ledger.values(), key=lambda r: r.result.step),
            events=list(uplink.events),
            num_calls=cluster.num_calls,
            fired=self.fired.read_text().splitlines() if self.fired.exists() else [],
            computed=_computed(computed),
            logs=uplink.told_logs,
        )


@contextlib.contextmanager
def staged(code: Sequence[Path] = (), libraries: Sequence[str] = ()) -> Iterator[Stage]:
    """A Stage in a folder of its own, whose path is short, as those of sockets must be; nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="sf-", ignore_cleanup_errors=True) as folder:
        stage = Stage(Path(folder), code, libraries)
        try:
            yield stage
        finally:
            stage.close()


def _tale(uplink: MemoryUplink) -> str:
    return "\n".join(f"{e.kind} {e.data}" for e in uplink.events)


def _computed(path: Path) -> dict[tuple[int, str], list[str]]:
    computed: dict[tuple[int, str], list[str]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        step, samples, pid = line.split()
        computed[int(step), samples].append(pid)
    return computed


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
