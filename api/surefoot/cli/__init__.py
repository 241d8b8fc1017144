"""The command line. `surefoot.cli:main` is what `surefoot` runs."""

from __future__ import annotations

from surefoot.cli.app import main

__all__ = ["main"]
