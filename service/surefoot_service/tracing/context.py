"""Which trace a job belongs to: its submitter's, as the W3C header `traceparent` names it, or one of its own. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Asked", "TraceContext", "context_of", "id_of", "read_context", "read_traceparent"]

# version, trace, parent, flags; a later version may have more behind them
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_SAMPLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A trace, and the span of it under which a job's spans lie."""

    trace_id: int
    # 0: there is none, as the trace is the job's own
    parent_id: int = 0
    sampled: bool = True

    def __str__(self) -> str:
        """As it is stored: a `traceparent`, but that the parent may be 0."""
        return f"00-{self.trace_id:032x}-{self.parent_id:016x}-{int(self.sampled):02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request that submits a job, of which a trace tells."""

    # when it came in
    at: datetime
    # the submitter's trace, if it named one
    context: TraceContext | None


def read_traceparent(header: str | None) -> TraceContext | None:
    """Read the header strictly. None: there is none, or it is malformed, and so to be ignored, as the standard says."""
    found = read_context(header)
    return found if found is not None and found.parent_id else None


def read_context(stored: str | None) -> TraceContext | None:
    """Read what `str(context)` has made, or any `traceparent`; None: it is neither."""
    match = _TRACEPARENT.fullmatch(stored or "")
    if match is None:
        return None
    version, trace, parent, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace, 16):
        return None
    return TraceContext(trace_id=int(trace, 16), parent_id=int(parent, 16), sampled=bool(int(flags, 16) & _SAMPLED))


def context_of(job: str, given: TraceContext | None) -> TraceContext:
    """Return the trace of a job: the given one, or one of its own, which is always the same."""
    return given or TraceContext(trace_id=id_of(16, "trace", job))


def id_of(num_bytes: int, *what: str) -> int:
    """Return the id of what these words name: the same ones have the same, in whichever process it is made. It is never 0."""
    digest = hashlib.sha256("\0".join(("surefoot", *what)).encode(errors="replace")).digest()
    return int.from_bytes(digest[:num_bytes], "big") or 1
