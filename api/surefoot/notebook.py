"""A train function from a notebook as a file: its source, that of what it uses of the notebook, its imports and plain constants."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import math
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

from surefoot.errors import EntrypointError
from surefoot.parsing import parsed

__all__ = ["MODULE", "is_of_a_notebook", "source_of"]

# the name of the file that is made
MODULE = "surefoot_notebook"
_PLAIN = (bool, int, str, bytes, type(None))


def is_of_a_notebook(train: object) -> bool:
    """Whether this is a top-level function of a module that is no file, and whose source is known all the same."""
    module = sys.modules.get(getattr(train, "__module__", None) or "")
    if not inspect.isfunction(train) or module is None or getattr(module, "__file__", None):
        return False
    return "." not in train.__qualname__ and "<" not in train.__qualname__ and _source(train) is not None


def source_of(train: Callable[..., Any]) -> str:
    """Return a file's text that defines the function. Raises EntrypointError for what no text can be made of."""
    gathered = _Gathered(train)
    gathered.define(train.__name__, train)
    parts = [*sorted(gathered.imports), "", *gathered.constants, "", *(f"\n{text}" for text in gathered.definitions)]
    return "\n".join(parts).lstrip("\n") + "\n"


def _source(thing: Any) -> str | None:
    if inspect.isclass(thing):
        return _source_of_class(thing)
    try:
        return textwrap.dedent(inspect.getsource(thing)).rstrip()
    except (OSError, TypeError):
        return None


def _source_of_class(thing: type) -> str | None:
    """Find it in the cells, where `inspect` looks in files alone: by its methods' lines, or else by its name, the newest cell first."""
    methods = [each.__code__ for each in vars(thing).values() if inspect.isfunction(each)]
    names = [code.co_filename for code in methods] or [n for n in reversed(list(linecache.cache)) if _is_a_cell(n)]
    for name in names:
        lines = linecache.getlines(name)
        for node in reversed(_classes("".join(lines))):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            last = node.end_lineno or node.lineno
            if node.name == thing.__name__ and all(first <= code.co_firstlineno <= last for code in methods):
                return textwrap.dedent("".join(lines[first - 1 : last])).rstrip()
    return None


def _is_a_cell(name: str) -> bool:
    return name.startswith("<") or "ipykernel" in name


def _classes(text: str) -> list[ast.ClassDef]:
    try:
        return [node for node in parsed(text).body if isinstance(node, ast.ClassDef)]
    except (SyntaxError, ValueError):
        return []  # a cell with a line of another language


class _Gathered:
    """What the file is to have. Definitions come after what they use."""

    def __init__(self, train: Callable[..., Any]) -> None:
        self._home, self._globals = train.__module__, getattr(train, "__globals__", {})
        self._seen: set[str] = set()
        self.imports: set[str] = set()
        self.constants: list[str] = []
        self.definitions: list[str] = []

    def define(self, name: str, thing: Any) -> None:
        """Add a function or a class of the notebook, with all that it uses."""
        text = _source(thing)
        if text is None:
            raise _refused(name, thing)
        self._seen.add(name)
        for used in _names(text):
            if (
                used in self._globals
                and used not in self._seen
                and not (used.startswith("__") and hasattr(builtins, used))
            ):
                self._seen.add(used)
                self._add(used, self._globals[used])
        self.definitions.append(text)

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        elif _is_plain(value):
            self.constants.append(f"{name} = {value!r}")
        elif getattr(value, "__module__", None) == self._home and (inspect.isfunction(value) or inspect.isclass(value)):
            if value.__name__ != name:
                raise _refused(name, value)
            self.define(name, value)
        else:
            self.imports.add(self._imported(name, value))

    def _imported(self, name: str, value: Any) -> str:
        """The import of what belongs to a module: by its own word, or since a module that the notebook imports has it."""
        own, called = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        modules = [each for each in self._globals.values() if isinstance(each, ModuleType)]
        if isinstance(own, str) and own != self._home and own in sys.modules:
            modules.insert(0, sys.modules[own])
        for module in modules:
            for attribute in (called, name):
                if isinstance(attribute, str) and getattr(module, attribute, None) is value:
                    return f"from {module.__name__} import {attribute}" + (f" as {name}" if name != attribute else "")
        raise _refused(name, value)


def _refused(name: str, value: Any) -> EntrypointError:
    return EntrypointError(
        f"{name!r} is {_kind(value)} of this notebook that no file can be made of: make it inside of the train function, or put the code "
        "into a .py file"
    )


def _kind(value: Any) -> str:
    kind = "function" if inspect.isfunction(value) else "class" if inspect.isclass(value) else type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _names(text: str) -> list[str]:
    """All names that a source reads, in order."""
    return list(dict.fromkeys(n.id for n in ast.walk(parsed(text)) if isinstance(n, ast.Name)))


def _is_plain(value: Any, depth: int = 8) -> bool:
    """Whether `repr` writes it down whole."""
    if type(value) is float:
        return math.isfinite(value)
    if type(value) in _PLAIN:
        return True
    if type(value) is dict and depth:
        return all(_is_plain(each, depth - 1) for pair in value.items() for each in pair)
    return type(value) in (list, tuple) and depth > 0 and all(_is_plain(each, depth - 1) for each in value)
