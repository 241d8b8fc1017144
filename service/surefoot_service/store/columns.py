"""The types of columns. SQLite keeps whatever it is given, so what comes out of it is read leniently: a row can always be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Integer, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from surefoot.bounds import writable

__all__ = ["LAST_COMMAND", "LAST_NUMBER", "LongWords", "NoNumber", "Number", "UtcDateTime", "Whole", "Words"]

# Above it, numbers that count up have been changed by hand: they are passed over, so that the next one is a number, too. In SQLite's order
# texts and bytes are above every number.
LAST_NUMBER, LAST_COMMAND = 2**53, 2**31 - 2
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class NoNumber(int):
    """What stands for a stored number that is none: 0, and whoever shows it can tell."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC: SQLite forgets time zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """One that is none reads as the epoch."""
        process = super().result_processor(dialect, coltype)
        if process is None or dialect.name != "sqlite":
            return process

        def leniently(value: Any) -> Any:
            try:
                return process(value)
            except (TypeError, ValueError):
                return _NO_TIME

        return leniently


class Words(TypeDecorator[str]):
    """A text of bounded length; what is none reads as one that shows it."""

    impl = String
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return _words if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


class LongWords(Words):
    """A text of any length."""

    impl = Text
    cache_ok = True


class Whole(TypeDecorator[int]):
    """A whole number; what is none reads as a `NoNumber`."""

    impl = Integer
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return _whole if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


class Number(Whole):
    """A whole number of 64 bits."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # SQLite numbers rows by itself only where the column's type is exactly INTEGER (of 64 bits, there).
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else BigInteger())


def _words(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else writable(str(value))


def _whole(value: Any) -> int | None:
    if value is None or isinstance(value, int):
        return value
    return NoNumber(value) if isinstance(value, float) and math.isfinite(value) else NoNumber()
