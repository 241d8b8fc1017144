"""Which tests are of which kind, and which run beside others.

The kinds are marks, derived from where a test lies, so that no test has to say it: `domain` (whole clusters), `ray` (told by the test), `process`
(starts processes of its own), and `unit`, which is all the rest: `make quick` runs these. What starts many processes runs one test after
the other, in one worker of pytest-xdist.
"""

from __future__ import annotations

from pathlib import Path

import pytest

# Their processes share the machine's cores already; two such tests at a time would only wait for each other.
_FOLDERS = {"actors", "check", "domains", "examples"}
_MARKS = ("slow", "ray")
