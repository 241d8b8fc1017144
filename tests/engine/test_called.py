"""The source of the user's functions is read."""

from __future__ import annotations

import ast

from surefoot_actors.engine.contract.called import tree_of


def test_a_function_is_found_with_the_lines_of_its_file() -> None:
    def function() -> int:
        return 1

    tree = tree_of(function.__code__)
    assert isinstance(tree, ast.Module)
    assert tree.body[0].lineno == function.__code__.co_firstlineno
    assert "return 1" in ast.unparse(tree)
