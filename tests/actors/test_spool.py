"""What waits for a control plane that is away: nothing lost, nothing doubled, in order, in bounded memory."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.events import Circumstances, LedgerRow, Result
from surefoot_actors.trainer import mailbox as mailboxes
from surefoot_actors.trainer.mailbox import Mailbox
from surefoot_actors.uplink import spool as module
from surefoot_actors.uplink.spool import Spool

# so little that a few lines go to the file
TINY = 400
Numbers = st.integers(-5, 40)
Act = st.one_of(
    st.tuples(st.just("add"), st.tuples(Numbers, st.binary(max_size=60))),
    st.tuples(st.just("drop"), st.lists(Numbers, max_size=5)),
    st.tuples(st.just("below"), Numbers),
    st.tuples(st.just("disk"), st.booleans()),
)


class Disk:
    """Opens the file behind, or fails as a full disk does."""

    def __init__(self) -> None:
        self.is_full = self.deletes_fail = False

    def connect(self) -> Any:
        file = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        file.execute("CREATE TABLE waiting (number INTEGER PRIMARY KEY, line BLOB NOT NULL)")
        disk = self

        class File:
            in_transaction = property(lambda _: file.in_transaction)

            def executemany(self, sql: str, rows: Any) -> Any:
                rows = list(rows)
                if disk.is_full and sql.startswith("INSERT"):
                    file.executemany(sql, rows[: len(rows) // 2])
                    raise sqlite3.OperationalError("database or disk is full")
                file.executemany(sql, rows)
                if disk.deletes_fail and sql.startswith("DELETE"):
                    raise sqlite3.OperationalError("database or disk is full")

            def execute(self, *args: Any) -> Any:
                return file.execute(*args)

        return File()


@settings(deadline=None)
@given(st.lists(Act, max_size=60))
def test_what_waits_is_what_was_added_and_not_dropped_whatever_the_disk_does(acts: list[tuple[str, Any]]) -> None:
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_open", disk.connect)
        waiting, expected = Spool(TINY), dict[int, bytes]()
        for what, value in acts:
            if what == "add":
                waiting.add(*value)
                expected.__setitem__(*value)
            elif what == "drop":
                waiting.drop(value)
                expected = {n: line for n, line in expected.items() if n not in value}
            elif what == "below":
                waiting.drop_below(value)
                expected = {n: line for n, line in expected.items() if n >= value}
            else:
                disk.is_full = value
            in_order = sorted(expected.items())
            assert list(waiting.lines()) == in_order
            assert waiting.page(3, 4) == [item for item in in_order if item[0] >= 3][:4]
            assert list(waiting.lines(2, below=9)) == [item for item in in_order if 2 <= item[0] < 9]
            assert waiting.first == (in_order[0][0] if expected else None)
            assert waiting.empty == (not expected)
            if not disk.is_full and what == "add" and value[1]:
                assert waiting.memory_bytes <= 4 * TINY or any(w == "disk" for w, _ in acts)


def test_a_drop_that_fails_is_taken_back_and_can_be_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(module, "_open", disk.connect)
    waiting = Spool(TINY)
    for number in range(10):
        waiting.add(number, b"x" * TINY)
    disk.deletes_fail = True
    with pytest.raises(sqlite3.OperationalError):
        waiting.drop([1, 2])
    assert [n for n, _ in waiting.lines()] == list(range(10))
    disk.deletes_fail = False
    waiting.drop([1, 2])
    assert [n for n, _ in waiting.lines()] == [0, *range(3, 10)]


def row(step: int, generation: int = 1) -> LedgerRow:
    result = Result(step=step, first_sample=step * 8, num_samples=8, digest=f"{step:032x}", values={"loss": 0.5})
    return LedgerRow(result=result, circumstances=Circumstances(generation=generation, trainers=1, seconds=0.1))


def steps(rows: Any) -> list[int]:
    return [r.result.step for r in rows]


MailboxAct = st.one_of(
    st.tuples(st.just("keep"), st.integers(1, 30)),
    # rows below this fraction of what is kept are acknowledged
    st.tuples(st.just("collect"), st.integers(0, 60)),
    st.tuples(st.just("another supervisor"), st.integers(0, 60)),
    st.tuples(st.just("adopt a peer's"), st.integers(0, 20)),
)


@settings(deadline=None)
@given(st.lists(MailboxAct, max_size=25))
def test_a_trainer_keeps_each_row_until_it_is_acknowledged_and_tells_it(acts: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailboxes, "Spool", lambda: Spool(TINY))
        patch.setattr(mailboxes, "MAX_ROWS", 7)
        box, kept, step, told = Mailbox(), list[int](), 0, set[int]()
        for what, value in acts:
            if what == "keep":
                for _ in range(value):
                    box.keep(row(step))
                    kept.append(step)
                    step += 1
            elif what == "adopt a peer's":
                before = box.kept()
                kept_before = list(kept)
                kept, step, told = list(range(step, step + value)), step + value, set()
                box.adopt([row(s).model_dump_json().encode() for s in kept])
                assert steps(before) == kept_before, "whoever writes a checkpoint still reads the rows of before"
            else:
                below = min(value, step)
                if what == "another supervisor":
                    told = set()
                found = steps(box.collect(0 if what == "another supervisor" else 1, below, 0.0, True).rows)
                kept = [s for s in kept if s >= below]
                assert found == [s for s in kept if s not in told][:7]
                told |= set(found)
            assert steps(box.kept()) == kept


def test_rows_are_told_again_when_none_is_acknowledged_and_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    box = Mailbox()
    box.collect(1, 0, 0.0, True)
    box.keep(row(0))
    told_at = []
    for _ in range(4000):
        now += 0.3
        if box.collect(1, 0, 0.0, True).rows:
            told_at.append(now - 1000.0)
    gaps = [b - a for a, b in itertools.pairwise(told_at)]
    assert gaps[0] == pytest.approx(mailboxes.TELL_AGAIN_S, abs=0.7)
    assert gaps == sorted(gaps)
    assert len(gaps) < 10
    box.collect(1, 1, 0.0, True)
    box.keep(row(1))
    assert steps(box.collect(1, 1, 0.0, True).rows) == [1]
    now += mailboxes.TELL_AGAIN_S + 0.1
    assert steps(box.collect(1, 1, 0.0, True).rows) == [1], "once something is acknowledged, patience is short again"


_AN_HOUR = """
import resource, sys
from datetime import UTC, datetime
from surefoot.events import Circumstances, EventKind, LedgerRow, Result
from surefoot_actors.trainer.mailbox import Mailbox
from surefoot_actors.uplink.outbox import Outbox

def row(step):
    values = {"loss": step / 7, "accuracy": step / 11}
    result = Result(step=step, first_sample=step * 64, num_samples=64, digest=f"{step:032x}", values=values)
    return LedgerRow(result=result, circumstances=Circumstances(generation=1, trainers=2, seconds=0.01, at=1e9 + step))

def kib():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])

num, what = int(sys.argv[1]), sys.argv[2]
before = kib()
if what == "mailbox":
    box = Mailbox()
    for step in range(num):
        box.keep(row(step))
    assert sum(1 for _ in box.kept().lines()) == num
else:
    box = Outbox("s")
    for step in range(num):
        box.rows([row(step)])
        if step % 36 == 0:
            box.event(EventKind.WARNING, {"message": "x" * 100}, datetime.now(UTC))
    stored = 0
    while not box.empty:
        batch = box.batch(1000)
        assert [r.result.step for r in batch.rows] == list(range(stored, min(num, stored + 1000)))
        stored += len(batch.rows)
        box.stored(batch, stored)
    assert stored == num
print(kib() - before)
"""


@pytest.mark.parametrize("what", ["mailbox", "outbox"])
def test_an_hour_without_a_control_plane_costs_little_memory(what: str) -> None:
    """A quarter of an hour at 100 steps a second; the memory does not grow after the first minute (an hour is measured alike)."""
    done = subprocess.run([sys.executable, "-c", _AN_HOUR, "90000", what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40 * 1024, f"{int(done.stdout) // 1024} MiB"
