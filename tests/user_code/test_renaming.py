"""What an import statement binds and imports is the same after it was rewritten."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot_actors.user_code.renaming import renamed

PACKAGE = "own_package_of_tests"
MODULES = ("a", "a.b", "a.b.c", "d", "d.e")


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    """The modules under their own names, and under the package: each says which it is."""
    made = {}
    for prefix in ("", f"{PACKAGE}."):
        for name in (*([PACKAGE] if prefix else []), *(prefix + m for m in MODULES)):
            made[name] = sys.modules[name] = types.ModuleType(name)
            made[name].__path__ = []
            vars(made[name])["plain"] = name.removeprefix(f"{PACKAGE}.")
            above, _, last = name.rpartition(".")
            if above:
                setattr(made[above], last, made[name])
    yield
    for name in made:
        del sys.modules[name]


alias = st.tuples(st.sampled_from(MODULES), st.sampled_from(["", " as x", " as y", " as a"])).map("".join)
statement = st.one_of(
    st.lists(alias, min_size=1, max_size=4).map(lambda names: f"import {', '.join(names)}"),
    st.sampled_from(MODULES).map(lambda m: f"from {m} import plain"),
    st.sampled_from(["from a import b", "from a import b as d", "from a.b import c, plain as z", "from d import *"]),
    st.just("def f():\n    import a.b, d\n    global g\n    g = a.b.plain, d.plain\nf()"),
)


@given(st.lists(statement, min_size=1, max_size=5), st.sets(st.sampled_from(["a", "d"])))
def test_the_same_names_are_bound_to_the_same_modules_of_the_other_kind(texts: list[str], names: set[str]) -> None:
    source = "\n".join(["from __future__ import annotations", *texts])
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    exec(source, before)  # noqa: S102
    exec(compile(renamed(ast.parse(source), names, PACKAGE), "x", "exec"), after)  # noqa: S102
    assert list(before) == list(after)
    for name, value in before.items():
        other = after[name]
        if not isinstance(value, types.ModuleType):
            assert name in ("__builtins__", "annotations", "f") or value == other
            continue
        assert isinstance(other, types.ModuleType)
        mine = value.plain.partition(".")[0] in names
        assert other.__name__ == (f"{PACKAGE}." if mine else "") + value.__name__


def test_lines_stay_where_they_are() -> None:
    tree = renamed(ast.parse("x = 1\nimport a.b, d\nimport a as z\nraise ValueError"), {"a", "d"}, PACKAGE)
    assert [(node.lineno, node.end_lineno) for node in tree.body] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    compile(tree, "x", "exec")
