"""Which tests are of which kind, and which run beside others.

Every test has one of four marks, by the folder that it lies in, so that none has to say it: `domain` (a whole cluster, whose parts are
broken), `ray` (said by the test), `process` (starts processes of its own), and `unit`, all the rest. A `unit` test that starts a process
fails: it is to be marked, or listed here. `make quick` runs the `unit` tests, but for those that are `thorough` as well: long searches.

What starts many processes is meant to run one test after the other: what starts a Ray head in one worker of pytest-xdist, the rest in
another, while a third worker has all other tests. With pytest 9.2 and xdist 3.8 it does not: pytest makes a test's id anew, and xdist's
groups, which are a suffix of it, are lost. So every worker takes any test, and makes clusters of its own, until xdist knows that pytest.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# Their processes share the machine's cores already; many such tests at a time would only wait for each other.
_FOLDERS = {"actors", "check", "domains", "examples"}

# A submission has its source read in a child process; programs have data workers; the chart is for Helm to render.
_FOLDERS_WITH_PROCESSES = {"helm", "programs", "service"}
# Start a process or a few, and share the machine well with others: data workers above all, and a Postgres.
_WITH_PROCESSES = {
    "api/test_against_service.py",
    "api/test_secrets.py",
    "engine/test_batch_memory.py",
    "engine/test_data_workers.py",
    "engine/test_following.py",
    "engine/test_loader.py",
    "engine/test_orders.py",
    "user_code/test_advice.py",
    "user_code/test_as_python.py",
    "user_code/test_seeded.py",
    "user_code/test_shadows.py",
}
# Searches that take minutes, though they start no process: `make quick` leaves them out.
_THOROUGH = ("programs/", "protocol/test_exhaustive.py", "protocol/test_rules.py", "protocol/test_walks.py")
_PARAMETERS_WITH_PROCESSES = ("workers", "postgres")

_HERE = Path(__file__).parent


def kind(item: pytest.Item) -> str:
    """Return the mark of a test's kind."""
    place = item.path.relative_to(_HERE)
    if place.parts[0] == "domains":
        return "domain"
    if item.get_closest_marker("ray"):
        return "ray"
    starts = place.parts[0] in _FOLDERS | _FOLDERS_WITH_PROCESSES or place.as_posix() in _WITH_PROCESSES
    starts = starts or any(word in item.name.partition("[")[2] for word in _PARAMETERS_WITH_PROCESSES)
    return "process" if starts or any(item.get_closest_marker(mark) for mark in ("slow", "process")) else "unit"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(kind(item))
        if item.path.relative_to(_HERE).as_posix().startswith(_THOROUGH):
            item.add_marker(pytest.mark.thorough)
        if group := _one_after_the_other(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _one_after_the_other(item: pytest.Item) -> str | None:
    """Return with which others a test does not run at the same time; None: it runs beside all."""
    if item.get_closest_marker("ray"):
        return "clusters"
    folder = item.path.relative_to(_HERE).parts[0]
    return "processes" if folder in _FOLDERS or item.get_closest_marker("slow") else None


# ---- what waits for nobody gives way

# A quarter of a core at the least while both others are busy.
_NICE = 5


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """In pytest-xdist the groups come first, so that a worker gives way once and for good."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.get_closest_marker("xdist_group"):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))


# ---- what a test sets for the whole process is put back


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Have later tests of this process log as before: a test's standard error, where its log has gone, is closed after it.

    The base package has no structlog, and some tests run with no more than that (api/test_pythons.py).
    """
    before = sys.modules["structlog"].get_config() if "structlog" in sys.modules else None
    yield
    if before is not None:
        sys.modules["structlog"].configure(**before)
    elif "structlog" in sys.modules:
        sys.modules["structlog"].reset_defaults()


# ---- what starts no process starts none

_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
_started: list[str] = []
_here = os.getpid()


def _note(event: str, arguments: tuple[object, ...], starts: frozenset[str] = _STARTS) -> None:
    # `starts` by itself: the hook is called until the interpreter has ended, when modules are empty
    if event in starts and os.getpid() == _here:
        _started.append(f"{event} {arguments[:2]}")


sys.addaudithook(_note)


@pytest.fixture(autouse=True)
def _starts_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    _started.clear()
    yield
    if _started and request.node.get_closest_marker("unit"):
        pytest.fail(f"a unit test has started a process: mark it `process` ({_started[0][:200]})", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a failure although a finalizer parses Python while pytest parses the test's source to show it.

    As that of a task whose exception nobody has asked for does, in Python 3.11: pytest's own parsing then fails, and with it the
    worker of pytest-xdist and the session.
    """
    try:
        return (yield)
    except SystemError:
        gc.collect()
        gc.disable()
        try:
            return pytest.TestReport.from_item_and_call(item, call)
        finally:
            gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Make what a test has printed, raised or is named by text again: half a surrogate pair in it would end pytest-xdist's worker."""
    return _as_text((yield))


def _as_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_as_text, value))
    return value


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> None:
    """Lines are as long as they are: workers of pytest-xdist have COLUMNS set, which commands heed."""
    os.environ.pop("COLUMNS", None)
