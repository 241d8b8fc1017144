"""The story: the last events and commands of a state machine, as text, and carried by the error that ends it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from surefoot_actors.story import MAX_LINE_CHARS, NUM_KEPT, BrokenMachineError, Story


@dataclass(frozen=True)
class Told:
    number: int
    words: str = ""


def test_the_last_events_are_kept_with_their_commands_oldest_first() -> None:
    story = Story()
    for number in range(NUM_KEPT + 10):
        story.note(Told(number), [Told(-number)] if number % 2 else [])
    lines = story.lines()
    assert len(lines) == NUM_KEPT
    assert lines[0].endswith("Told(number=10, words='')")
    assert lines[-1].endswith(f"Told(number={NUM_KEPT + 9}, words='') -> Told(number=-{NUM_KEPT + 9}, words='')")


def test_a_line_is_bounded() -> None:
    story = Story()
    story.note(Told(1, "x" * 10_000))
    assert len(story.lines()[0]) == MAX_LINE_CHARS


def test_what_breaks_is_printed_and_carried_by_the_error_across_processes(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    story.note(Told(1), [Told(2)])
    story.note(Told(3))
    error = story.broken("trainer t1", AssertionError("counts differ"))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BrokenMachineError)
    assert str(again) == str(error) == "a fault of Surefoot: trainer t1: AssertionError('counts differ')"
    assert again.story == error.story == story.lines()
    assert len(again.story) == 2
    said = capsys.readouterr().err
    assert all(line in said for line in error.story)


def test_an_error_that_carries_a_story_keeps_it() -> None:
    first = BrokenMachineError("the first", ("a line",))
    assert Story().broken("trainer t1", first) is first
