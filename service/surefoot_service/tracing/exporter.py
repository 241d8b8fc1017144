"""Spans, sent by OTLP over HTTP to where the standard OTEL_... variables say. Only this file knows OpenTelemetry, and only once they do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Protocol

from surefoot.errors import UserError
from surefoot_service.tracing.spans import SpanFacts

__all__ = ["SpanExporter", "check_traces", "open_exporter"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OURS = "http/protobuf"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SpanExporter(Protocol):
    """Where spans go."""

    def export(self, spans: Sequence[SpanFacts]) -> bool:
        """Send the spans, within the exporter's timeout; return whether they were taken. Called on a thread."""

    def close(self) -> None:
        """Let go of its connections; an export that waits to try again ends."""


def open_exporter(env: Mapping[str, str]) -> SpanExporter | None:
    """Return an exporter to the endpoint that the environment names; None: see `check_traces`, which also says what this raises."""
    return _OtlpExporter(env) if check_traces(env) else None


def check_traces(env: Mapping[str, str]) -> bool:
    """Whether traces are exported: the environment names an endpoint, and does not say that there are to be none.

    Raises UserError where they cannot be: the extra is missing, or another protocol is asked for.
    """
    endpoint = next((name for name in _ENDPOINTS if env.get(name)), None)
    is_off = env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER", "").lower() == "none"
    if endpoint is None or is_off:
        return False
    protocol = next((env[name] for name in _PROTOCOLS if env.get(name)), _OURS)
    if protocol != _OURS:
        raise UserError(
            f"traces are sent by OTLP as {_OURS} alone, and OTEL_EXPORTER_OTLP_PROTOCOL asks for {protocol!r}: take it away, and "
            f"name the collector's HTTP port (4318, as a rule) in {endpoint}"
        )
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401

        return True
    except ModuleNotFoundError as error:
        raise UserError(
            f"{endpoint} is set, and traces need OpenTelemetry ({error.name} is missing): pip install 'surefoot[otel]', or take "
            "the variable away"
        ) from None


class _OtlpExporter:
    """OpenTelemetry's own exporter, which reads endpoint, headers, certificates, compression and timeout from the environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        # it tells every failure with words of its own; whoever exports tells one once in a while
        for name in ("trace_exporter", "_common"):
            logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{name}").setLevel(logging.CRITICAL + 1)
        self._exporter = OTLPSpanExporter()
        named = env.get("OTEL_SERVICE_NAME") or "surefoot"
        self._resource = Resource.create({"service.name": named, "service.version": version("surefoot")})

    def export(self, spans: Sequence[SpanFacts]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return self._exporter.export([self._readable(span) for span in spans]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: SpanFacts) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(span_id: int, *, remote: bool) -> SpanContext:
            return SpanContext(span.trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        is_request = span.name == "submit"
        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, remote=False),
            parent=None if span.parent_id is None else context(span.parent_id, remote=span.name == "job"),
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if is_request else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=_nanoseconds(span.begin),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=InstrumentationScope("surefoot", version("surefoot")),
        )


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000
