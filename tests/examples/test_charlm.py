"""examples/charlm learns, and every process reads the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import surefoot

SMALL = {"width": 32, "heads": 2, "layers": 1, "context": 32, "text_bytes": 200_000, "eval_windows": 16}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "surefoot-charlm"


def test_the_loss_falls(import_example: Any) -> None:
    train = import_example("charlm", "train")
    config = SMALL | {"steps": 60, "eval_every": 30, "lr": 3e-3, "warmup": 5}
    rows = surefoot.run_local(train.train, batch_size=16, sub_tasks=8, config=config).rows
    first, last = rows[29].result.values, rows[59].result.values
    assert rows[0].result.values["loss"] == pytest.approx(5.55, abs=0.5)  # ln 256: it knows nothing yet
    assert last["loss"] < 4.0
    assert last["eval_loss"] < first["eval_loss"]


def test_the_full_model_has_ten_million_parameters(import_example: Any) -> None:
    model = import_example("charlm", "model").GPT()
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_893_312


def test_the_text_is_written_once_and_left_alone(import_example: Any, cache: Path) -> None:
    data = import_example("charlm", "data")
    first = data.corpus(50_000).tobytes()
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    assert data.corpus(50_000).tobytes() == first
    assert file.stat().st_mtime_ns == written
    assert len(first) == 50_000


def test_a_window_is_followed_by_the_next(import_example: Any) -> None:
    data = import_example("charlm", "data")
    text = data.corpus(1_001)
    windows = data.Text(text, 100)
    assert len(windows) == 10
    assert b"".join(windows[i][0].numpy().tobytes() for i in range(10)) == text[:1000].tobytes()
    x, y = windows[9]
    assert y.numpy().tobytes() == x.numpy().tobytes()[1:] + text[1000:1001].tobytes()


def test_the_rate_rises_and_falls(import_example: Any) -> None:
    factor = import_example("charlm", "train").warm_then_cosine
    assert factor(10, 100, 0) == pytest.approx(0.1)
    assert factor(10, 100, 9) == factor(10, 100, 10) == 1.0
    assert factor(10, 100, 100) == pytest.approx(0.1)
