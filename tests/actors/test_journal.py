"""What outlives a supervisor."""

from __future__ import annotations

from surefoot_actors.journal.journal import Journal
from surefoot_actors.journal.memory import MemoryJournal


def check(first: Journal, again: Journal) -> None:
    """`again` is the same journal as another supervisor opens it."""
    assert [first.next_incarnation(), again.next_incarnation(), first.next_incarnation()] == [1, 2, 3]
    assert [first.reserve(), first.reserve(), again.reserve()] == [1, 2, 3]
    assert again.recorded() is None
    first.record(3, ("t1", "t2"))
    assert again.recorded() == (3, ("t1", "t2"))
    assert again.finished() is None
    first.finish("succeeded")
    assert again.finished() == "succeeded"
    first.finish("failed")
    assert first.finished() == "succeeded", "the first outcome stands"
    assert again.incarnation() == 3
    assert (first.num_started(), first.expected(), first.wanted()) == (0, None, None)
    for number in (2, 3, 3):
        first.start(number)
    first.expect(100)
    first.want(4)
    assert again.listening() is None
    first.listen("127.0.0.1", 70, "secret")
    assert again.listening() == ("127.0.0.1", 70, "secret")
    assert again.begun() is None
    for step in (1, 2):
        first.begin(f"/c/{step}", step)
    assert again.begun() == ("/c/1", 1)
    assert again.onced() == ([], {})
    first.once(["a"], {"b": "t1"})
    assert again.onced() == (["a"], {"b": "t1"})
    assert first.run_id() == again.run_id() != ""
    assert (again.num_started(), again.expected(), again.wanted()) == (3, 100, 4)
    keys = [first.keep(["one", "two"]), first.keep(["three"])]
    assert again.kept() == [(keys[0], ["one", "two"]), (keys[1], ["three"])]
    first.drop(keys[:1])
    assert again.kept() == [(keys[1], ["three"])]
    again.forget()
    assert (first.kept(), first.num_started(), first.incarnation()) == ([], 0, 0)
    assert (first.recorded(), first.finished(), first.reserve()) == (None, None, 1)
    first.forget()


def test_memory_journal() -> None:
    journal = MemoryJournal()
    check(journal, journal)
