"""The log: what goes wrong ten thousand times is counted, and what was sent to us does no harm where it is read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from surefoot_service.up import logs
from surefoot_service.up.flood import Flood


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=200))
def test_every_line_is_written_or_counted_and_few_are_written(lines: list[tuple[str, float]]) -> None:
    flood, now = Flood(burst=2, window_s=10.0), 0.0
    told = dict.fromkeys("abc", 0)
    written: dict[str, list[float]] = {name: [] for name in "abc"}
    for name, pause in lines:
        now += pause
        left_out = flood.admit(name, now)
        if left_out is not None:
            told[name] += 1 + left_out
            written[name].append(now)
        for other, number in flood.untold(now).items():
            told[other] += number
    for other, number in flood.untold(now + 100).items():
        told[other] += number
    for name in "abc":
        assert told[name] == sum(n == name for n, _ in lines)
        for third_later, first in zip(written[name][4:], written[name], strict=False):
            assert third_later - first >= 10.0


def test_so_many_kinds_are_remembered_and_no_more() -> None:
    flood = Flood(most=10)
    for n in range(1000):
        assert flood.admit(f"line {n}", 0.0) == 0
    assert len(flood._lines) <= 10


@contextmanager
def configured() -> Iterator[None]:
    """Logs to standard error as it is now; pytest has another for each phase of a test."""
    root, structured = logging.getLogger(), structlog.get_config()
    before = root.handlers[:]
    root.handlers.clear()
    logs.configure()
    try:
        yield
    finally:
        root.handlers[:] = before
        structlog.configure(**structured)


def test_a_flood_is_counted_in_both_kinds_of_logs(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        for n in range(10_000):
            structlog.get_logger().warning("store_away", path=f"/v1/jobs/{n}")
            logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
            logging.getLogger("asyncio").error(f"socket.accept() out of system resource\nsocket: <socket {n}>")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 50
    for what in ("store_away", "Invalid HTTP request received.", "out of system resource"):
        assert any(what in line for line in lines)


def test_news_are_never_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        for n in range(100):
            structlog.get_logger().info("job_started", job=f"job{n}")
    assert len(capsys.readouterr().err.splitlines()) == 100


@given(st.text(min_size=1, max_size=50))
def test_what_is_sent_does_nothing_to_a_terminal(text: str) -> None:
    event = logs._made_plain(None, "warning", {"event": "refused", "path": text + "\x1b]52;c;aGk=\x07\n"})
    assert re.search(r"[\x00-\x1f\x7f-\x9f]", event["path"]) is None


def test_a_traceback_does_nothing_to_a_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        try:
            raise ValueError("\x1b[2J gone " + "\x07")
        except ValueError:
            structlog.get_logger().exception("request_failed", path="/x" * 10_000)
    found = capsys.readouterr().err
    assert "gone" in found
    assert "\x1b[2J" not in found
    assert "\x07" not in found
    assert len(found) < 8000


def test_a_full_disk_behind_the_log_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  closed below, where what it holds cannot be written either
    monkeypatch.setattr("sys.stderr", full)
    with configured():
        structlog.get_logger().error("ours")
        logging.getLogger("theirs").error("theirs")
    with pytest.raises(OSError, match="No space"):
        full.close()
