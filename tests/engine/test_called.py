"""The source of the user's functions is read, whatever else the process does."""

from __future__ import annotations

import ast

import pytest

from surefoot_actors.engine.contract.called import tree_of


def test_a_source_is_parsed_though_another_thread_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.11 has it where two threads parse at a time."""
    parse, failed = ast.parse, []

    def interrupted(*given: object, **how: object) -> ast.AST:
        if len(failed) < 2:
            failed.append(given)
            raise SystemError("AST constructor recursion depth mismatch (before=147, after=28)")
        return parse(*given, **how)  # type: ignore[call-overload,no-any-return]

    def function() -> int:
        return 1

    monkeypatch.setattr(ast, "parse", interrupted)
    tree = tree_of(function.__code__)
    assert len(failed) == 2
    assert tree is not None
    assert "return 1" in ast.unparse(tree)
