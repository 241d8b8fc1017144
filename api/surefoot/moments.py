"""Times as they are stored or answered, by whatever version or program: read so that any two can be compared and shown. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Moment"]

# A day from the calendar's ends: any time zone's clock can show them.
_FIRST = datetime(1, 1, 2, tzinfo=timezone.utc)
_LAST = datetime(9999, 12, 30, tzinfo=timezone.utc)


def _comparable(moment: datetime) -> datetime:
    """The moment in UTC, which one without a time zone is taken to be in; beyond the calendar's ends, the nearer of them."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    return min(max(aware, _FIRST), _LAST).astimezone(timezone.utc)


Moment = Annotated[datetime, AfterValidator(_comparable)]
