"""The caller's trace, which a job that is submitted becomes part of: the W3C header `traceparent`."""

from __future__ import annotations

import os
import re
import sys

__all__ = ["trace_headers"]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def trace_headers() -> dict[str, str]:
    """Return the header for the caller's present span, or for what TRACEPARENT says; none where there is neither."""
    found = _present_span() or os.environ.get("TRACEPARENT", "").strip()
    return {"traceparent": found} if _TRACEPARENT.fullmatch(found) else {}


def _present_span() -> str:
    """The span of OpenTelemetry's that this code runs in; it is not imported for this: who has not, has no span."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "get_current_span"):
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
