"""The command line. `surefoot.cli:main` is what `surefoot` runs."""

from __future__ import annotations

import sys

__all__ = ["main"]

# as MISTAKE in cli/session.py, which may not be there yet
_INTERRUPTED = 2


def main() -> None:
    """Run the command line of this process. Ctrl-C is told in a word while commands are put together, too."""
    try:
        from surefoot.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("surefoot: interrupted\n")
        sys.exit(_INTERRUPTED)
