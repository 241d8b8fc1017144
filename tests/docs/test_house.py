"""The house stays in order: no file is long, most functions are short. Who imports whom is import-linter's (`make lint`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
FILES = sorted(file for part in ("api", "actors", "service") for file in (ROOT / part).rglob("*.py"))

MOST_LINES = 400
MEDIAN_FUNCTION_LINES = 8


def test_no_file_is_long() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_functions_are_short() -> None:
    """Lines of a function: its code, without its docstring."""
    assert median(length for file in FILES for length in _lengths(file)) <= MEDIAN_FUNCTION_LINES


def test_source_is_parsed_by_surefoot_parsing() -> None:
    """Which says why `ast.parse` by itself fails at times; a child process that does nothing else has no such times."""
    lawful = {"api/surefoot/parsing.py", "service/surefoot_service/packages/entrypoint_reader.py"}
    assert {str(file.relative_to(ROOT)) for file in FILES if "ast.parse(" in file.read_text()} == lawful


def test_what_catches_everything_says_why() -> None:
    """`except Exception` stands at an edge, and a comment names it; or it raises again what it has caught."""
    silent = [
        f"{file.relative_to(ROOT)}:{handler.lineno}"
        for file in FILES
        for handler in _catching_all(file)
        if not isinstance(handler.body[-1], ast.Raise) and not _says_why(file, handler)
    ]
    assert silent == []


def _catching_all(file: Path) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ExceptHandler):
            kinds = [None] if node.type is None else [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
            if {None, "Exception", "BaseException"} & {*kinds}:
                yield node


def _says_why(file: Path, handler: ast.ExceptHandler) -> bool:
    """Whether there is a comment beside the line, or below it before the first statement."""
    lines = file.read_text().splitlines()[handler.lineno - 1 : handler.body[0].lineno]
    return any(line.partition("#")[2].strip().removeprefix("noqa: BLE001").strip() for line in lines)


def _lengths(file: Path) -> list[int]:
    functions = [
        n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [_end(f) - f.lineno + 1 - _docstring_lines(f) for f in functions]


def _end(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno


def _docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1
