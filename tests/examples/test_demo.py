"""The demo's verdict: yes only if every part of the promise was kept. What it judges is made by `make demo` itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from surefoot.events import Circumstances, Event, EventKind, LedgerRow, Result
from surefoot.spec import JobSpec, JobState
from surefoot.views import JobView

DIGEST = "ab" * 16
KILLED_AT = 1000.0


@pytest.fixture
def demo(import_example: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: ModuleType = import_example(".", "demo")
    monkeypatch.setattr(module, "STEPS", 4)
    return module


def row(step: int, *, generation: int = 1, trainers: int = 1, at: float = 0.0, accuracy: float = 0.98) -> LedgerRow:
    result = Result(step=step, first_sample=64 * step, num_samples=64, digest=DIGEST, values={"accuracy": accuracy})
    return LedgerRow(
        result=result, circumstances=Circumstances(generation=generation, trainers=trainers, seconds=0.1, at=at)
    )


def outcome(demo: ModuleType, rows: list[LedgerRow], again: int | None = None, digest: str = DIGEST) -> Any:
    spec = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=64)
    now = datetime.now(UTC)
    view = JobView(id="j", spec=spec, state=JobState.SUCCEEDED, created_at=now, wanted_trainers=1, digest=digest)
    recovered = Event(source="s", n=1, at=now, kind=EventKind.RECOVERED, data={"sub_tasks_again": again})
    return demo.Outcome(view=view, rows=rows, events=[recovered] if again is not None else [])


def disturbed_rows() -> list[LedgerRow]:
    return [
        row(0, trainers=3, at=999.9),
        row(1, generation=2, trainers=2, at=KILLED_AT + 0.2),
        row(2, generation=3, trainers=3, at=1001.0),
        row(3, generation=4, trainers=4, at=1002.0),
    ]


def director(demo: ModuleType) -> Any:
    kill = demo.Kill(trainer="t3", at=KILLED_AT, generation=1)
    return demo.Director(job=None, kill=kill, resized=True)


def test_all_kept(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = outcome(demo, [row(step) for step in range(4)]), outcome(demo, disturbed_rows(), again=3)
    assert demo.judge(first, second, director(demo)) is True
    told = capsys.readouterr().out
    assert "identical" in told
    assert "200 ms" in told
    assert "98.00%" in told


@pytest.mark.parametrize(
    "broken",
    ["digest", "ledger", "accuracy", "lost step", "too many again", "never killed", "never resized", "never four"],
)
def test_one_broken_part_is_a_no(demo: ModuleType, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, first_rows, seen = disturbed_rows(), [row(step) for step in range(4)], director(demo)
    digest, again = DIGEST, 3
    match broken:
        case "digest":
            digest = "cd" * 16
        case "ledger":
            rows[2] = rows[2].model_copy(update={"result": rows[2].result.model_copy(update={"digest": "0" * 32})})
        case "accuracy":
            first_rows = [row(step, accuracy=0.96) for step in range(4)]
            rows = [r.model_copy(update={"result": f.result}) for r, f in zip(rows, first_rows, strict=True)]
        case "lost step":
            del rows[1], first_rows[1]
        case "too many again":
            again = 4
        case "never killed":
            seen = demo.Director(job=None, resized=True)
        case "never resized":
            seen = replace(seen, resized=False)
        case "never four":
            rows[3] = row(3, generation=4, trainers=3, at=1002.0)
    first, second = outcome(demo, first_rows), outcome(demo, rows, again=again, digest=digest)
    assert demo.judge(first, second, seen) is False
    assert "NO" in capsys.readouterr().out
