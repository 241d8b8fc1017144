"""The chart as it was released last: packaged, with the scenarios' values of then.

To be written anew with each release, from the repository's root: python -m tests.helm.released. Before the first release it is the
chart of the day on which this began.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .chart import CHART, DEFAULTS, NAMESPACE, RELEASE, Object, run, tool

FOLDER = Path(__file__).with_name("released")


def write() -> None:
    """Put the chart of this checkout in place of the one that was released before."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run(tool("helm"), "package", CHART, "--destination", FOLDER)
    for path in (CHART / "ci").iterdir():
        shutil.copy(path, FOLDER / path.name)


@cache
def released(scenario: str) -> tuple[Object, ...]:
    """What the released chart makes of a scenario of then."""
    [chart] = FOLDER.glob("*.tgz")
    return _rendered(chart, *_values(scenario))


@cache
def upgraded(scenario: str) -> tuple[Object, ...]:
    """What this chart makes of the same values: an upgrade by somebody who changes nothing."""
    return _rendered(CHART, *_values(scenario))


def values() -> str:
    """The defaults of then, as YAML."""
    [chart] = FOLDER.glob("*.tgz")
    return run(tool("helm"), "show", "values", chart).stdout


def _values(scenario: str) -> list[str]:
    return [] if scenario == DEFAULTS else ["--values", str(FOLDER / f"{scenario}-values.yaml")]


def _rendered(chart: Path, *options: str) -> tuple[Object, ...]:
    done = run(tool("helm"), "template", RELEASE, chart, "--namespace", NAMESPACE, *options)
    return tuple(one for one in yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one)


def name_of(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Every place where two objects differ, as "spec.replicas"; lists of names go by their names."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and (before and after):
        yield from changes(_by_name(before), _by_name(after), path)
    elif before != after:
        yield path


def _by_name(items: list[Any]) -> dict[str, Any]:
    words = ("name", "groupName", "mountPath")
    keys = [next((str(one[w]) for w in words if w in one), None) if isinstance(one, dict) else None for one in items]
    return {key or str(n): one for n, (key, one) in enumerate(zip(keys, items, strict=True))}


if __name__ == "__main__":
    write()
