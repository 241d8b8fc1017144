"""Answers of the right kinds with odd values, by no service of ours: commands show them, or say a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import make_event, make_row, make_view
from tests.api.test_broken import JOB, run

from surefoot._sse import Decoder
from surefoot.cli.format import duration
from surefoot.errors import ServiceError
from surefoot.events import EventKind

TIMES = ("2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", 0)
DATA: tuple[Any, ...] = ([], {}, 10**400, -1, 1.5, "\x1b]52;c;QQ==\x07", None, True)
NAMES = (
    "state",
    "seconds",
    "num_steps",
    "generation",
    "trainers",
    "trainer",
    "step",
    "url",
    "reason",
    "kind",
    "message",
)


def transport(view: dict[str, Any], events: list[dict[str, Any]], checkpoint: dict[str, Any]) -> httpx.MockTransport:
    row = make_row(0).model_dump(mode="json")

    def answer(request: httpx.Request) -> httpx.Response:
        last = request.url.path.rpartition("/")[2]
        first = request.url.params.get("after", "0") == "0"
        if last == "stream":
            said = [("event", e) for e in events] + [("row", row), ("job", view)]
            text = "".join(f"event: {kind}\ndata: {json.dumps(what)}\n\n" for kind, what in said)
            return httpx.Response(200, content=text, headers={"content-type": "text/event-stream"})
        found = {
            "jobs": {"jobs": [view]},
            "events": {"events": events if first else []},
            "checkpoints": {"checkpoints": [checkpoint]},
        }
        return httpx.Response(200, content=json.dumps(found.get(last, view)))

    return httpx.MockTransport(answer)


CHECKPOINT = {"url": "/c", "step": 1, "at": TIMES[0], "bytes": 5, "seconds": 1.0, "stall_s": 1.0}


def oddities() -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]], dict[str, Any]]]:
    view = make_view(JOB, "succeeded").model_dump(mode="json")  # type: ignore[arg-type]
    event = make_event(1).model_dump(mode="json")
    for time in TIMES:
        for name in ("created_at", "started_at", "ended_at"):
            yield (
                f"{name} {time}",
                view | {"started_at": TIMES[1], "ended_at": TIMES[3], name: time},
                [event],
                CHECKPOINT,
            )
        yield f"at {time}", view, [event, event | {"seq": 2, "at": time}], CHECKPOINT | {"at": time}
    for value in (10**400, -1):
        for name in ("trainers", "wanted_trainers", "generation", "steps_done", "num_steps", "attempts"):
            yield f"{name} {value}", view | {name: value}, [event], CHECKPOINT
        for name in ("bytes", "seconds", "stall_s"):
            yield f"checkpoint's {name} {value}", view, [event], CHECKPOINT | {name: value}
    lost = event | {"kind": str(EventKind.TRAINER_LOST), "data": {"trainer": 1}}
    for value in DATA:
        odd = [
            event | {"seq": n, "kind": str(kind), "data": dict.fromkeys(NAMES, value)}
            for n, kind in enumerate(EventKind, 2)
        ]
        yield f"events of {value!r}", view, [lost, *odd], CHECKPOINT


def test_no_value_is_too_odd(tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    commands = (("ls",), ("show", JOB), ("watch", JOB), ("checkpoints", JOB))
    for what, view, events, checkpoint in oddities():
        for command in commands:
            if "checkpoint" in what and command[0] != "checkpoints":
                continue
            result = run(command, transport(view, events, checkpoint), tmp_path, code)
            assert result.exception is None or isinstance(result.exception, SystemExit), (what, command)
            assert "mistake of surefoot's own" not in result.output, (what, command, result.output)
            assert "\x1b" not in result.output, (what, command)


@pytest.mark.parametrize("seconds", [float("inf"), float("-inf"), float("nan")])
def test_a_duration_that_is_none(seconds: float) -> None:
    assert duration(seconds) == "?"


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n"], ids=["a line", "a message"])
def test_a_message_without_end_is_given_up(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that does not end: a stream may be followed for days, its memory stays."""
    monkeypatch.setattr("surefoot._sse.MOST_BYTES", 1_000_000)
    decoder = Decoder()
    with pytest.raises(ServiceError, match="does not end"):
        list(map(decoder.feed, [piece] * 100))
    # small ones may go on for ever
    decoder = Decoder()
    for _ in range(100):
        assert len(decoder.feed(b"data: " + b"x" * 65_536 + b"\n\n")) == 1
