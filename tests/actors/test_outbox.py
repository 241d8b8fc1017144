"""What is told and not stored yet, kept in order: no network."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.events import Event, EventKind, LedgerRow, UplinkBatch
from surefoot_actors.uplink.outbox import Outbox

from .uplink_plane import NOW, row

Act = st.one_of(
    st.tuples(st.just("rows"), st.lists(st.integers(0, 12), max_size=4)),
    st.tuples(st.just("event"), st.none()),
    st.tuples(st.sampled_from(["stored", "answer lost"]), st.integers(1, 3)),
)


@given(st.lists(Act, max_size=40))
def test_all_that_is_told_is_stored_in_order_and_then_forgotten(acts: list[tuple[str, Any]]) -> None:
    outbox, told_rows, num_events = Outbox("s"), set(), 0
    events: dict[int, Event] = {}
    ledger: dict[int, LedgerRow] = {}

    def post(most: int, *, answered: bool) -> None:
        batch = outbox.batch(most)
        assert len(batch.events) <= most
        assert len(batch.rows) <= most
        for event in batch.events:
            assert event.n == 1 or event.n - 1 in events
            events[event.n] = event
        ledger.update((r.result.step, r) for r in batch.rows)
        if answered:
            outbox.stored(batch, next(step for step in range(100) if step not in ledger))

    for what, value in acts:
        if what == "rows":
            outbox.rows([row(step) for step in value])
            told_rows |= set(value)
        elif what == "event":
            outbox.event(EventKind.WARNING, {}, NOW)
            num_events += 1
        else:
            post(value, answered=what == "stored")
    while not outbox.empty:
        post(3, answered=True)
    assert set(ledger) == told_rows
    assert sorted(events) == list(range(1, num_events + 1))


def test_a_long_string_is_cut_to_its_end() -> None:
    outbox = Outbox("s")
    outbox.event(EventKind.FAILED, {"traceback": "x" * 200_000 + "the error"}, NOW)
    [event] = outbox.batch(1).events
    text = event.data["traceback"]
    assert isinstance(text, str)
    assert text.endswith("xthe error")
    assert len(text) == 100_000


STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800\0")
    | st.just("x" * 200_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["message", "seconds", "trainers", "more"]), STRANGE, max_size=4))
@settings(deadline=None, max_examples=100)
def test_whatever_is_told_fits_through_the_door(data: dict[str, Any]) -> None:
    outbox = Outbox("a-1/supervisor-1")
    outbox.event(EventKind("trainer_lost"), {"more": data}, NOW)
    UplinkBatch.model_validate_json(outbox.batch(1).model_dump_json())
