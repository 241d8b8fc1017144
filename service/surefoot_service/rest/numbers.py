"""Numbers in queries: written in digits, as the OpenAPI document says; pydantic takes "+0.0" and "1_000" for whole numbers too."""

from __future__ import annotations

import re

from pydantic import BeforeValidator

__all__ = ["Digits"]

_DIGITS = re.compile(r"-?[0-9]{1,20}")


def _in_digits(value: object) -> object:
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("give a whole number in digits")
    return value


Digits = BeforeValidator(_in_digits)
