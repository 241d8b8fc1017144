"""The lines that a cause points at, found in the source alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot_actors.check.source import carrying_line, set_lines

SOURCE = """\
calls = 0
names = {"a", "b"}

def train(run):
    global calls
    average = 0.0
    seen = []
    for step in run.steps(3):
        calls += 1
        average = 0.9 * average + step.number
        fresh = step.number + 1
        seen.append(fresh)
        run.thing.count += 1
        for name in names:
            print(name)
        for name in sorted(names):
            print(name)
        print(list({1, 2} | names), hash("x"), len(names), max(names))
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.parametrize(
    ("name", "line"),
    [("calls", 9), ("average", 10), ("fresh", None), ("seen", 12), ("thing.count", 13), ("stats['calls']", None)],
)
def test_the_line_that_carries_a_value_on(file: str, name: str, line: int | None) -> None:
    assert carrying_line(file, name, certain=False) == line


def test_the_function_that_holds_the_name_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text("def one():\n    n = 0\n    n += 1\n\n@decorated\ndef two():\n    n = 0\n    n += 1\n")
    assert carrying_line(str(path), "n", certain=False) == 3
    assert carrying_line(str(path), "n", certain=False, begins=5) == 8


def test_any_use_will_do_for_what_is_known_to_be_carried_on(file: str) -> None:
    assert carrying_line(file, "fresh", certain=True) == 12


def test_lines_that_depend_on_the_order_of_a_set(file: str) -> None:
    assert set_lines(file) == [14, 18]


def test_a_file_that_is_no_python_has_no_lines(tmp_path: Path) -> None:
    assert set_lines(str(tmp_path / "gone.py")) == []
    assert carrying_line(str(tmp_path / "gone.py"), "x", certain=True) is None
