"""The command line. `surefoot.cli:main` is what `surefoot` runs."""

from __future__ import annotations

import sys

__all__ = ["main"]

# as any mistake ends a command: what says so may not be imported yet
_INTERRUPTED = 2


def main() -> None:
    """Run the command line of this process. Ctrl-C is told in a word while commands are put together, too."""
    try:
        from surefoot.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("surefoot: interrupted\n")
        sys.exit(_INTERRUPTED)
