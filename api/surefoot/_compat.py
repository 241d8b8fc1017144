"""What newer Pythons have, for the oldest one that the SDK and the command line run on, 3.10.

Nothing else here asks for a version, but `config_files`: TOML is read where the standard library reads it.

Names of `typing` that 3.10 lacks (Self, Unpack, Required) come from `typing_extensions`, which pydantic needs anyway.
"""

from __future__ import annotations

import sys

__all__ = ["StrEnum"]

if sys.version_info >= (3, 11):
    from enum import StrEnum  # novm
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """As `enum.StrEnum`: members are strings, and read as their values."""

        __str__ = str.__str__
