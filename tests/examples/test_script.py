"""examples/script: a script as people have it, and the same as a train function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import surefoot


def test_the_script_and_the_train_function_leave_the_same_kinds_of_files(
    import_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, before, after = tmp_path / "data", tmp_path / "before", tmp_path / "after"
    import_example("script", "make_data").make_data(data, samples=320)
    monkeypatch.setattr(sys, "argv", ["before.py", "--data", str(data), "--out", str(before), "--epochs", "3"])
    import_example("script", "before").main()

    result = surefoot.run_local(
        import_example("script", "train").train,
        batch_size=32,
        data={"points": data},
        config={"epochs": 3, "lr": 0.05, "patience": 3},
        output_dir=after,
    )
    assert len(result.rows) == 30
    assert max(row.result.values.get("accuracy", 0.0) for row in result.rows) > 0.9
    for out in (before, after):
        assert sorted(file.name for file in out.iterdir()) == ["best.pt", "losses.csv", "tb"]
        assert len((out / "losses.csv").read_text().splitlines()) == 30
    ours, theirs = (torch.load(out / "best.pt") for out in (after, before))
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
