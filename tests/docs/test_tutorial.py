"""The tutorial's Python, run as a reader would: all of it, in order, in one process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .source import ROOT, blocks

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.process
def test_every_python_snippet_of_the_tutorial_runs(tmp_path: Path) -> None:
    snippets = blocks(TUTORIAL, "python")
    assert len(snippets) >= 6
    (tmp_path / "tutorial.py").write_text("\n".join(snippets))
    done = subprocess.run(
        [sys.executable, "-W", "error", "tutorial.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is not tracked" in done.stdout  # the rule that it breaks on purpose, told by its line


@pytest.mark.parametrize("document", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_every_python_snippet_is_python(document: Path) -> None:
    for snippet in blocks(document, "python"):
        compile(snippet, document.name, "exec")
