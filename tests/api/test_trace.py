"""The caller's trace goes with what it submits, where there is one."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from surefoot._requests import clone_job, create_job
from surefoot.spec import JobSpec

SPEC = JobSpec(entrypoint="train:train", package="0" * 64, batch_size=8)
GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def sent() -> set[str | None]:
    return {create_job(SPEC, "k").headers.get("traceparent"), clone_job("ab2cd3ef4g", {}, "k").headers.get("traceparent")}  # fmt: skip


def _in_a_span(monkeypatch: pytest.MonkeyPatch, *, valid: bool) -> None:
    context = SimpleNamespace(is_valid=valid, trace_id=10, span_id=11, trace_flags=1)
    span = SimpleNamespace(get_span_context=lambda: context)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=lambda: span))


def test_none_is_sent_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert sent() == {None}
    for nonsense in ("", "x", f"{GIVEN}\r\nx-evil: 1", GIVEN.upper()):
        monkeypatch.setenv("TRACEPARENT", nonsense)
        assert sent() == {None}


def test_the_environments_is_sent_and_the_present_span_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", GIVEN)
    _in_a_span(monkeypatch, valid=False)
    assert sent() == {GIVEN}
    _in_a_span(monkeypatch, valid=True)
    assert sent() == {f"00-{10:032x}-{11:016x}-01"}
