"""Show the promise: digits on 1 trainer, and again on 3 of which one is killed and which become 4, with the same bytes.

    make demo

Starts a service of its own (`surefoot up`, with a Ray head and a data folder of their own) and ends it, whatever happens. The exit code
is 0 only if the second run lost a trainer, recovered, grew to 4, computed no more again than the lost trainer owned, lost no
step, and ended with the first run's ledger and final state, byte for byte, at 97% accuracy or more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from surefoot.client import Client, Job
from surefoot.errors import SurefootError
from surefoot.events import Event, EventKind, LedgerRow
from surefoot.views import JobView

DIGITS = Path(__file__).resolve().parent / "digits"
STEPS, SUB_TASKS, BATCH_SIZE = 1500, 8, 64
KILL_AFTER, RESIZE_AFTER = STEPS // 8, STEPS // 4
# Generous: what takes longer than this is broken, not slow.
START_LIMIT_S, STOP_LIMIT_S, JOB_LIMIT_S = 120.0, 60.0, 400.0

console = Console(soft_wrap=True, highlight=False)


# ---- the service


@contextmanager
def service(folder: Path) -> Iterator[Client]:
    """Run `surefoot up` on a free port, and yield its client. It is stopped as Ctrl-C would, and is gone at the end."""
    for name in ("SUREFOOT_URL", "SUREFOOT_TOKEN"):
        os.environ.pop(name, None)  # of another service
    os.environ["SUREFOOT_DATA"] = str(folder / "data")
    command = [sys.executable, "-c", "from surefoot.cli import main; main()", "up", "--port", "0"]
    log = folder / "up.log"
    with log.open("wb") as output:
        # in a session of its own: a Ctrl-C here must not reach it twice
        up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_announced(folder / "data" / "service.json", up)
        with Client() as client:
            yield client
    except BaseException:
        console.print(f"the service's last lines:\n{tail(log)}", highlight=False, markup=False)
        raise
    finally:
        stop(up)


def wait_until_announced(service_file: Path, up: subprocess.Popen[bytes]) -> None:
    """Wait for the file that says where the service is: it is written when the service answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while not service_file.exists():
        if up.poll() is not None or time.monotonic() > deadline:
            raise SurefootError(f"`surefoot up` did not start within {START_LIMIT_S:.0f} s, or ended: {up.poll()}")
        time.sleep(0.1)


def stop(up: subprocess.Popen[bytes]) -> None:
    """Ask with Ctrl-C, then SIGTERM, then insist."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if up.poll() is None:
            up.send_signal(number)
            try:
                up.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                continue
    if up.poll() is None:
        os.killpg(up.pid, signal.SIGKILL)
        up.wait()


def tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


# ---- the runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    trainer: str
    # unix time
    at: float
    generation: int


@dataclass
class Director:
    """Watches the second run, kills one of three trainers, and then asks for a fourth."""

    job: Job
    pids: dict[str, int] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)
    kill: Kill | None = None
    resized: bool = False

    def see(self, event: Event) -> None:
        match event.kind:
            case EventKind.TRAINER_READY:
                self.pids[str(event.data["trainer"])] = int(str(event.data["pid"]))
            case EventKind.GENERATION:
                self.members = [str(name) for name in cast(list[JsonValue], event.data["trainers"])]

    def act(self, row: LedgerRow) -> str | None:
        """Do what is due after this step, and say what was done."""
        step, now = row.result.step, row.circumstances
        if not self.kill and step >= KILL_AFTER and now.trainers == len(self.members) == 3:
            trainer = self.members[-1]
            os.kill(self.pids[trainer], signal.SIGKILL)
            self.kill = Kill(trainer=trainer, at=time.time(), generation=now.generation)
            return f"[red]SIGKILL[/] to trainer {trainer} (pid {self.pids[trainer]}), around step {step}"
        if self.kill and not self.resized and step >= RESIZE_AFTER and now.generation > self.kill.generation:
            self.job.resize(4)
            self.resized = True
            return f"[blue]resize[/] to 4 trainers, around step {step}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that a finished run told."""

    view: JobView
    rows: list[LedgerRow]
    events: list[Event]

    @property
    def accuracy(self) -> float:
        return self.rows[-1].result.values["accuracy"]

    @property
    def ledger(self) -> bytes:
        """The ledger's result part: what two runs are compared by."""
        return b"\n".join(row.result.canonical() for row in self.rows)

    @property
    def steps(self) -> list[int]:
        return [row.result.step for row in self.rows]


def run(client: Client, *, trainers: int, directed: bool) -> tuple[Outcome, Director]:
    """Submit digits, show it until its end, and return what it told. Raises JobFailedError and TimeoutError."""
    job = client.submit(
        "train:train",
        folder=DIGITS,
        name=f"digits on {trainers}",
        config={"steps": STEPS, "eval_every": STEPS // 10},
        batch_size=BATCH_SIZE,
        sub_tasks=SUB_TASKS,
        trainers=trainers,
        # four trainers share two cores here
        cpus=0.25,
    )
    director = Director(job)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"digits on {trainers}", total=STEPS, told="starting")
        for update in job.follow(JOB_LIMIT_S):
            if isinstance(update, Event):
                director.see(update)
                tell(progress, update)
            elif isinstance(update, LedgerRow):
                advance(progress, bar, update)
                if directed and (done := director.act(update)):
                    say(progress, done)
    view = job.wait(JOB_LIMIT_S)
    return Outcome(view=view, rows=job.ledger(), events=list(job.events())), director


def advance(progress: Progress, bar: TaskID, row: LedgerRow) -> None:
    loss, trainers = row.result.values["loss"], row.circumstances.trainers
    told = f"step {row.result.step + 1}/{STEPS}  loss {loss:.4f}  {trainers} trainer{'s' * (trainers != 1)}"
    progress.update(bar, completed=row.result.step + 1, told=told)


def tell(progress: Progress, event: Event) -> None:
    match event.kind:
        case EventKind.TRAINER_LOST:
            say(progress, f"[red]lost[/] {event.data['trainer']}: {short(event.data['reason'])}")
        case EventKind.RECOVERED:
            again = event.data["sub_tasks_again"]
            say(progress, f"[green]recovered[/] at step {event.data['step']}, {again} sub-tasks computed again")
        case EventKind.GENERATION:
            trainers = ", ".join(str(name) for name in cast(list[JsonValue], event.data["trainers"]))
            where = f"generation {event.data['generation']}, from step {event.data['step']}"
            say(progress, f"[dim]{where}: {trainers} ({short(event.data['reason'])})[/]")


def say(progress: Progress, words: str) -> None:
    progress.console.print(f"  {words}")


def short(reason: JsonValue) -> str:
    """The beginning of a reason, safe to print: a library's own words may look like markup."""
    return escape(textwrap.shorten(str(reason), 80, placeholder=" ..."))


# ---- the result


def kill_to_commit_ms(outcome: Outcome, kill: Kill) -> float | None:
    """Milliseconds from the kill to the first step committed without the killed trainer."""
    after = [row.circumstances.at for row in outcome.rows if row.circumstances.generation > kill.generation]
    return (min(after) - kill.at) * 1000 if after else None


def sub_tasks_again(outcome: Outcome) -> int:
    return sum(int(str(e.data["sub_tasks_again"])) for e in outcome.events if e.kind is EventKind.RECOVERED)


def judge(first: Outcome, second: Outcome, director: Director) -> bool:
    """Print the table, and return whether all of the promise was kept."""
    kill = director.kill
    took_ms = kill_to_commit_ms(second, kill) if kill else None
    again = sub_tasks_again(second)
    most_trainers = max(row.circumstances.trainers for row in second.rows)
    owned = -(-SUB_TASKS // 3)
    same = first.ledger == second.ledger and first.view.digest == second.view.digest is not None
    checks = {
        "accuracy of both is 97% or more": min(first.accuracy, second.accuracy) >= 0.97,
        "a trainer was killed and a step committed without it": took_ms is not None,
        f"no more sub-tasks computed twice than it owned ({owned})": again <= owned,
        "no step lost or doubled": first.steps == second.steps == list(range(STEPS)),
        "the second run grew to 4 trainers": director.resized and most_trainers == 4,
        "ledgers and final states are identical": same,
    }
    table = Table(title="\nthe same training, twice", title_justify="left")
    for name in ("", "1 trainer", "3 trainers, one killed, then 4"):
        table.add_column(name, overflow="fold")
    table.add_row("test accuracy", f"{first.accuracy:.2%}", f"{second.accuracy:.2%}")
    table.add_row("final digest", str(first.view.digest), str(second.view.digest))
    table.add_row("ledger and final state", "", "[green]identical[/]" if same else "[red]DIFFERENT[/]")
    table.add_row("kill to next committed step", "", f"{took_ms:.0f} ms" if took_ms is not None else "no kill")
    table.add_row("sub-tasks computed twice", "0", f"{again} of {STEPS * SUB_TASKS:,}")
    console.print(table)
    for name, kept in checks.items():
        console.print(f"  {'[green]yes[/]' if kept else '[red]NO [/]'} {name}")
    return all(checks.values())


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="sf-demo-", ignore_cleanup_errors=True) as folder:
        try:
            console.print("starting the service, and a Ray head for it")
            with service(Path(folder)) as client:
                first, _ = run(client, trainers=1, directed=False)
                second, director = run(client, trainers=3, directed=True)
            return 0 if judge(first, second, director) else 1
        except KeyboardInterrupt:
            console.print("stopped")
            return 130
        except (SurefootError, TimeoutError) as error:
            console.print(f"[red]failed:[/] {escape(str(error))}")
            return 1


if __name__ == "__main__":
    sys.exit(main())
