"""Following a job: every update once and in order, whatever the stream does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.conftest import FakeService, make_event, make_row, make_view, sse

from surefoot import _follow
from surefoot._follow import Follower, Update
from surefoot._requests import Answer, Flow, receive
from surefoot.errors import NotFoundError, ServiceError, ServiceUnavailableError
from surefoot.spec import JobState
from surefoot.views import JobView

NUM_EVENTS, NUM_ROWS = 4, 9


def service(state: JobState = JobState.SUCCEEDED) -> FakeService:
    fake = FakeService(
        events=[make_event(n + 1) for n in range(NUM_EVENTS)], rows=[make_row(n) for n in range(NUM_ROWS)]
    )
    fake.add(make_view(state=state))
    return fake


def run(flow: Flow[Any], fake: FakeService) -> Any:
    """Carry a flow to the fake service, without a client."""
    try:
        call = next(flow)
        while True:
            response = fake.answer(
                httpx.Request(call.method, f"http://x{call.path}", params=call.params, content=call.body)
            )
            call = flow.send(receive(call, Answer(status=response.status_code, body=response.content)))
    except StopIteration as stop:
        return stop.value


def stream_part(fake: FakeService, follower: Follower, upto: int | None) -> bytes:
    (view,) = fake.jobs.values()
    return fake.messages(httpx.Request("GET", "http://x", headers=follower.headers()), view, upto)


def keys(updates: list[Update]) -> list[object]:
    return [getattr(u, "seq", None) or u.result.step for u in updates if not isinstance(u, JobView)]  # type: ignore[union-attr]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.just("poll"), st.integers(0, 15)), max_size=8), st.integers(1, 40))
def test_broken_streams_and_polls_in_any_order_give_each_update_once(moves: list[str | int], chunk: int) -> None:
    fake, follower, got = service(), Follower("abc2345678"), list[Update]()
    for move in moves:
        if follower.done:
            break
        if isinstance(move, str):
            got += run(follower.poll(), fake)
        else:
            data = stream_part(fake, follower, move)
            for start in range(0, len(data), chunk):
                got += follower.feed(data[start : start + chunk])
            follower.failed(httpx.ReadError("broken"), 0.0)
    if not follower.done:
        got += follower.feed(stream_part(fake, follower, None))
        follower.closed()
    assert follower.done
    events = [u.seq for u in got if hasattr(u, "seq")]
    rows = [u.result.step for u in got if hasattr(u, "result")]
    assert events == list(range(1, NUM_EVENTS + 1))
    assert rows == list(range(NUM_ROWS))
    assert follower.view is not None
    assert follower.view.state is JobState.SUCCEEDED


def test_a_stream_that_closes_in_the_middle_is_not_the_end() -> None:
    fake, follower = service(), Follower("abc2345678")
    follower.feed(stream_part(fake, follower, 6))
    follower.closed()
    assert not follower.done
    assert follower.headers()["last-event-id"] == "4-1"


def test_the_end_of_a_running_jobs_stream_is_not_the_jobs() -> None:
    fake, follower = service(JobState.RUNNING), Follower("abc2345678")
    follower.feed(stream_part(fake, follower, None))
    follower.closed()
    assert not follower.done


def test_polling_does_not_jump_over_rows_that_are_still_to_come() -> None:
    fake, follower = service(JobState.RUNNING), Follower("abc2345678")
    missing = fake.rows.pop(3)
    fake.add(make_view(state=JobState.RUNNING, steps_done=3))
    assert [u.result.step for u in run(follower.poll(), fake) if hasattr(u, "result")] == [0, 1, 2]
    fake.rows.insert(3, missing)
    fake.add(make_view(state=JobState.RUNNING, steps_done=NUM_ROWS))
    assert [u.result.step for u in run(follower.poll(), fake) if hasattr(u, "result")] == [3, 4, 5, 6, 7, 8]


def test_polling_sees_a_ledger_that_begins_at_another_jobs_checkpoint() -> None:
    fake, follower = service(JobState.RUNNING), Follower("abc2345678")
    del fake.rows[:4]
    fake.add(make_view(state=JobState.RUNNING, steps_done=NUM_ROWS))
    assert [u.result.step for u in run(follower.poll(), fake) if hasattr(u, "result")] == [4, 5, 6, 7, 8]


def test_polling_asks_for_page_after_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_follow, "ROWS_PAGE", 4)
    fake, follower = service(), Follower("abc2345678")
    page = fake._ledger
    monkeypatch.setattr(fake, "_ledger", lambda request: page(_limited(request, 4)))
    assert len([u for u in run(follower.poll(), fake) if hasattr(u, "result")]) == NUM_ROWS


def _limited(request: httpx.Request, limit: int) -> httpx.Request:
    return httpx.Request(request.method, request.url.copy_set_param("limit", limit))


def test_after_three_breaks_it_polls_and_then_tries_the_stream_again() -> None:
    fake, follower = service(JobState.RUNNING), Follower("abc2345678")
    for n in range(3):
        assert not follower.polling
        follower.failed(httpx.ConnectError("no"), float(n))
    polls = 0
    while follower.polling:
        run(follower.poll(), fake)
        polls += 1
    assert polls == 15


def test_patience_ends_only_when_nobody_answers() -> None:
    fake, follower = service(JobState.RUNNING), Follower("abc2345678")
    follower.failed(httpx.ConnectError("no"), 0.0)
    follower.failed(httpx.ConnectError("no"), 119.0)
    follower.feed(stream_part(fake, follower, 1))
    follower.failed(httpx.ConnectError("no"), 200.0)
    follower.failed(httpx.ConnectError("no"), 300.0)
    with pytest.raises(ServiceUnavailableError, match="lost sight of job"):
        follower.failed(httpx.ConnectError("no"), 321.0)


def test_a_service_without_a_stream_is_polled() -> None:
    follower = Follower("x")
    follower.refused(Answer(status=405, body=b""))
    assert follower.polling


def test_a_job_that_is_gone_is_an_error() -> None:
    with pytest.raises(NotFoundError):
        Follower("x").refused(Answer(status=404, body=b""))


def test_messages_of_a_newer_service_are_passed_over() -> None:
    assert Follower("x").feed(sse("weather", "{}", "1-0")) == []


def test_a_message_that_cannot_be_read_is_not_retried_for_ever() -> None:
    with pytest.raises(ServiceError, match="cannot be read") as raised:
        Follower("x").feed(sse("row", "{}", "0-1"))
    assert not isinstance(raised.value, ServiceUnavailableError)
