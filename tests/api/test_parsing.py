"""Source is parsed, whatever else the process does meanwhile."""

from __future__ import annotations

import ast
import contextlib

import pytest

from surefoot.parsing import parsed


class _Parses:
    """Garbage whose finalizer parses, as that of an asyncio task does whose exception, which nobody has asked for, is logged."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        with contextlib.suppress(SystemError):
            ast.parse("x = 1")


def test_a_source_is_parsed_although_a_finalizer_parses_within() -> None:
    """Which Python 3.11's `ast.parse` by itself most often does not."""
    source = "\n".join(f"f{k} = [{k}, ({k} + 1) * 2]" for k in range(3000))
    failed = 0
    for _ in range(10):
        for _ in range(20):
            _Parses()
        assert len(parsed(source).body) == 3000
        for _ in range(20):
            _Parses()
        try:
            ast.parse(source)
        except SystemError:
            failed += 1
    assert failed, "ast.parse has been mended: this Python needs surefoot.parsing no more"


@pytest.mark.parametrize("parse", [ast.parse, parsed])
def test_what_is_no_python_is_told_as_ever(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(SyntaxError) as told:
        parse(b"x = 1\ny = (", "theirs.py")
    assert (told.value.filename, told.value.lineno) == ("theirs.py", 2)
