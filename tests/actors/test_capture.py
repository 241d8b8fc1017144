"""The collector beside a printing process, with real processes: what it reads, hides and outlives."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from surefoot_actors.liveness.server import LivenessServer
from surefoot_actors.logs.relay import LogRelay
from surefoot_actors.uplink.memory import MemoryUplink

from .test_logs import Line, printed

pytestmark = pytest.mark.process

LIMIT_S = 180.0
# The process: its capture, and what each test has it do.
_BEGIN = """
import os, signal, sys, threading
from surefoot_actors.logs.capture import Capture, Printing
from surefoot_actors.sealed import Sealed
capture = Capture(Printing("test", "t0", ("{}", {})), Sealed("{}"), ["secret-of-mine"])
told = os.dup(1)
def tell(word):
    os.write(told, f"{{word}}\\n".encode())
def collectors():
    mine = str(os.getpid()).encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            argv = open(f"/proc/{{pid}}/cmdline", "rb").read().split(b"\\0")
        except OSError:
            continue
        if any(b"collector import main" in word for word in argv) and mine in argv:
            found.append(int(pid))
    return found
{}
"""


class Told:
    def __init__(self, uplink: MemoryUplink, server: LivenessServer) -> None:
        self._uplink, self._server = uplink, server

    def script(self, text: str) -> str:
        return _BEGIN.format(*self._server.address, self._server.sealed.reveal(), text)

    def lines(self) -> list[Line]:
        return printed(self._uplink.told_logs).get("t0", [])

    def texts(self) -> list[str]:
        return [line.text for line in self.lines()]


@asynccontextmanager
async def supervisor() -> AsyncIterator[Told]:
    """The part of one that takes lines."""
    uplink, server = MemoryUplink(), LivenessServer("test")
    await server.start()
    relay = LogRelay(uplink)
    server.on_logs = relay.serve
    relay.start()
    try:
        yield Told(uplink, server)
        await relay.settle(LIMIT_S)
    finally:
        await relay.close()
        await server.close()


@contextmanager
def process(script: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        try:
            yield it
        finally:
            it.kill()


async def until(told: Told, text: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while text not in told.texts():  # noqa: ASYNC110  what is printed in another process rings nobody here
            await asyncio.sleep(0.05)


async def test_after_the_end_no_collector_is_started() -> None:
    script = """
capture.start()
print("a line")
capture.end()
next(t for t in threading.enumerate() if t.name == "log-collector").join(30)
tell([t.name for t in threading.enumerate() if t.name == "log-collector"])
"""
    async with supervisor() as told:
        with process(told.script(script)) as it:
            assert it.stdout is not None
            assert (await asyncio.to_thread(it.stdout.readline)).strip() == "[]"
        assert told.texts() == ["a line", "the process has ended"]


@pytest.mark.parametrize(
    "streams", ["sys.stdout.close()", "sys.stdout = sys.stderr = None", "sys.stderr = Tee()", "del sys.stderr"]
)
async def test_it_ends_whatever_training_code_has_done_to_the_streams(streams: str) -> None:
    async with supervisor() as told:
        script = told.script(f"""
class Tee:
    def write(self, text): pass
capture.start()
os.write(1, b"as it was\\n")
{streams}
capture.end()
tell("ended")
""")
        with process(script) as printing:
            assert await asyncio.to_thread(printing.stdout.readline) == "ended\n"  # type: ignore[union-attr]
            await until(told, "as it was")


async def test_a_stopped_collector_holds_up_nobody_who_prints() -> None:
    """However much of a pipe its writes use: each of these takes more than half a page."""
    script = """
capture.start()
print("before", flush=True)
sys.stdin.readline()
for pid in collectors():
    os.kill(pid, signal.SIGSTOP)
for n in range(2000):
    print("x" * 2100)
tell("printed")
print("after")
capture.end()
sys.stdin.readline()
"""
    async with supervisor() as told:
        with process(told.script(script)) as it:
            assert it.stdin is not None
            assert it.stdout is not None
            await until(told, "before")
            await asyncio.to_thread(_say, it)
            async with asyncio.timeout(LIMIT_S):
                assert (await asyncio.to_thread(it.stdout.readline)).strip() == "printed"
            await until(told, "after")
        assert any("bytes were lost" in text for text in told.texts())


async def test_a_new_collector_knows_what_is_masked_before_it_reads() -> None:
    script = """
capture.start()
print("before", flush=True)
sys.stdin.readline()
write = capture._write
def slowly(lines):  # as a process that is held up between starting it and telling it
    if lines.startswith("hide"):
        threading.Event().wait(1)
    write(lines)
capture._write = slowly
for pid in collectors():
    os.kill(pid, signal.SIGKILL)
print("the key is secret-of-mine")
sys.stdin.readline()
"""
    async with supervisor() as told:
        with process(told.script(script)) as it:
            await until(told, "before")
            await asyncio.to_thread(_say, it)
            await until(told, "the key is ***")
        assert not [text for text in told.texts() if "secret-of-mine" in text]


async def test_each_line_has_its_step_also_those_of_other_threads_and_of_forked_processes() -> None:
    """However often a step prints: what is printed late in a step goes another way than what comes first in it."""
    script = """
from surefoot_actors.logs.capture import begin_step
capture.start()
read, write = os.pipe()
back, done = os.pipe()
def others(name):
    while (step := os.read(read, 1)) != b"e":
        for n in range(3):
            print(f"{name} {step.decode()} {n}")
        os.write(done, b"d")
print("before")
thread = threading.Thread(target=others, args=("thread",))
thread.start()
for step in range(9):
    begin_step(step)
    for n in range(3):
        print(f"main {step} {n}")
    os.write(write, b"%d" % step)
    os.read(back, 1)
os.write(write, b"e")
thread.join()
if not (child := os.fork()):
    others("child")
    os._exit(0)
for step in range(4, 9):
    begin_step(step)
    os.write(write, b"%d" % step)
    os.read(back, 1)
os.write(write, b"e")
os.waitpid(child, 0)
capture.end()
"""
    async with supervisor() as told:
        with process(told.script(script)) as it:
            await asyncio.to_thread(it.wait, LIMIT_S)
        await until(told, "the process has ended")
        lines = [line for line in told.lines() if line.text.count(" ") == 2]
        assert len(lines) == 9 * 3 * 2 + 5 * 3
        assert [line for line in lines if line.step != int(line.text.split()[1])] == []


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
