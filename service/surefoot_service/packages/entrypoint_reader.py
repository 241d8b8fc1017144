"""Reads a source file for the function that an entrypoint names. Run as a process of its own, which may run out of anything.

Standard input: a line of JSON {"file", "function", "memory_bytes", "cpu_s"}, then the source. Standard output: JSON, what is wrong with it
in a sentence, or null. It imports nothing but the standard library, and never the source.
"""

import ast
import json
import resource
import sys
import warnings
from collections.abc import Iterator


def problem(source: bytes, file: str, function: str) -> str | None:
    """Say why the file has no such train function; None where it can have."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, not ours
            tree = ast.parse(source, filename=file)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"{file}{line} is not Python: {error}"
    except (RecursionError, MemoryError):
        return f"{file} is nested too deeply, or too large, to be read"
    return _problem_of(tree, file, function)


def _problem_of(tree: ast.Module, file: str, function: str) -> str | None:
    bound: dict[str, ast.stmt] = {n: s for s in _top_level(tree.body) for n in _bound_by(s)}
    found = bound.get(function)
    if isinstance(found, ast.AsyncFunctionDef):
        return f"{function!r} in {file} is an async function; a train function is a plain one"
    if isinstance(found, ast.FunctionDef) and not found.decorator_list and _yields(found):
        return f"{function!r} in {file} has a yield, so a call of it runs nothing; a train function is a plain one"
    if isinstance(found, ast.ClassDef):
        return f"{function!r} in {file} is a class; an entrypoint is a function"
    if found is None and "*" not in bound:
        functions = sorted(n for n, s in bound.items() if isinstance(s, ast.FunctionDef))
        there = f"there are {', '.join(functions[:20])}" if functions else "there are no functions"
        return f"{file} has no function {function!r}; {there}"
    return None


def _yields(function: ast.FunctionDef) -> bool:
    """Whether a function is a generator: functions inside it are their own."""
    waiting: list[ast.AST] = [function]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, ast.Yield | ast.YieldFrom):
                return True
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
                waiting.append(child)
    return False


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import, those under a top-level if, try or with as well. No recursion: a tower of elif is deep."""
    waiting = list(reversed(body))
    while waiting:
        statement = waiting.pop()
        yield statement
        below: list[ast.stmt] = []
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                below.extend(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            below.extend(handler.body)
        waiting.extend(reversed(below))


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (a.asname or a.name.split(".")[0] for a in names)
        case _:
            return


def _main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"], asked["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_s"], asked["cpu_s"]))
    # what it dies of is told by its exit code: no core is wanted
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(problem(sys.stdin.buffer.read(), asked["file"], asked["function"])))


if __name__ == "__main__":
    _main()
