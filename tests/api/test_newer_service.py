"""A service newer than this SDK: its fields, states and kinds are taken as they are, and nothing that follows a job falls over."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError
from tests.api.conftest import FakeService, make_event, make_row, make_view, sse

from surefoot import Client
from surefoot._follow import Follower
from surefoot.bounds import read_object
from surefoot.chaos import report
from surefoot.cli.format import describe, state_style
from surefoot.cli.progress import Progress, told
from surefoot.events import Command, CommandKind, Event, EventKind, LedgerRow, UplinkAck
from surefoot.spec import JobState
from surefoot.timeline import troubles
from surefoot.views import Claimed, CommandPage, JobView, NumberedEvent
from surefoot.words import UnknownWord

# what is in these is the user's, or a kind's
OPEN = {"config", "env", "left_out", "data", "values", "events"}
ENDED_AT = "2026-01-01T00:00:00Z"


def newer(model: BaseModel, **changes: Any) -> str:
    """The model's JSON as a newer service has it: with more fields, at every level."""

    def more(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: each if name in OPEN else more(each) for name, each in value.items()} | {"of_a_newer": None}
        return [more(each) for each in value] if isinstance(value, list) else value

    return json.dumps(more(model.model_dump(mode="json") | changes))


@pytest.mark.parametrize(
    "model", [make_view(), make_event(1), make_row(0), Command(n=1, kind=CommandKind.CANCEL), UplinkAck(rows_below=3)]
)
def test_fields_of_a_newer_service_are_passed_over(model: BaseModel) -> None:
    assert type(model).model_validate_json(newer(model)).model_dump_json() == model.model_dump_json()


def test_a_state_that_is_not_known_is_its_name() -> None:
    view = JobView.model_validate_json(newer(make_view(), state="archiving", ended_at=None))
    assert isinstance(view.state, UnknownWord)
    assert (str(view.state), view.state.value, view.ended, state_style(view.state)) == (
        "archiving",
        "archiving",
        False,
        "",
    )
    assert json.loads(view.model_dump_json())["state"] == "archiving"
    assert JobView.model_validate_json(view.model_dump_json()) == view
    # which is the end, where there is a time of it
    assert JobView.model_validate_json(newer(make_view(), state="archived", ended_at=ENDED_AT)).ended
    assert JobView.model_validate_json(newer(make_view(), state="failed", ended_at=None)).ended


@pytest.mark.parametrize("ended_at", [None, ENDED_AT])
def test_following_a_job_into_a_state_that_is_not_known(ended_at: str | None) -> None:
    follower = Follower("abc2345678")
    follower.headers()
    running = sse("job", make_view(state=JobState.RUNNING).model_dump_json(), "0-0")
    unknown = sse("job", newer(make_view(), state="archived", ended_at=ended_at), "0-0")
    event = sse("event", newer(make_event(1), kind="of_a_newer_version", data={"a": [1]}), "1-0")
    assert len(follower.feed(running + event + unknown)) == 3
    follower.closed()
    assert follower.done is (ended_at is not None)


def client_of(fake: FakeService) -> Client:
    return Client("http://x", "t", transport=fake.transport)


def test_waiting_for_a_job_that_ends_in_a_state_that_is_not_known() -> None:
    fake = FakeService()
    view = JobView.model_validate_json(newer(make_view(), state="archived", ended_at=ENDED_AT))
    fake.add(view)
    fake.events = [make_event(1)]
    with client_of(fake) as client:
        job = client.job(view.id)
        assert str(job.wait(10, raise_on_failure=False).state) == "archived"
        assert [str(j.state) for j in client.jobs()] == ["archived"]
        assert "archived" in repr(job)


def test_the_commands_show_what_they_do_not_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from surefoot.cli.app import app

    fake = FakeService()
    view = JobView.model_validate_json(newer(make_view(), state="archived", ended_at=ENDED_AT))
    fake.add(view)
    fake.events = [NumberedEvent.model_validate_json(newer(make_event(1), kind="of_a_newer_version", data={"a": 1}))]
    monkeypatch.setattr(httpx, "Client", _over(fake, httpx.Client))
    monkeypatch.setenv("SUREFOOT_URL", "http://x")
    monkeypatch.setenv("SUREFOOT_TOKEN", "t")
    for command in (["ls"], ["show", view.id], ["watch", view.id]):
        result = CliRunner().invoke(app, command)
        assert not isinstance(result.exception, Exception), (command, result.exception)
        assert "archived" in result.output, (command, result.output)


def _over(fake: FakeService, kind: Any) -> Any:
    def make(**options: Any) -> Any:
        return kind(**options | {"transport": fake.transport})

    return make


def test_a_spec_of_a_newer_service_is_shown_and_not_run() -> None:
    spec = json.loads(make_view().spec.model_dump_json())
    strange = spec | {"shards": 4, "name": "x", "seed": "many"}
    view = JobView.model_validate_json(newer(make_view(), spec=strange))
    assert (view.spec.name, view.spec.seed) == ("x", 0)
    claimed = {"token": "t", "package_uri": "", "spec": spec | {"shards": 0, "of_a_newer": None}}
    assert Claimed.model_validate(claimed).spec == make_view().spec  # it says nothing
    with pytest.raises(ValidationError, match="shards"):
        Claimed.model_validate(claimed | {"spec": spec | {"shards": 4}})


def test_events_and_faults_of_a_newer_service() -> None:
    unknown = NumberedEvent.model_validate_json(
        newer(make_event(1), kind="of_a_newer_version", data={"a": [1], "b": "x"})
    )
    assert describe(unknown) == "of_a_newer_version: a [1], b x"
    assert json.loads(unknown.model_dump_json())["kind"] == "of_a_newer_version"
    Progress().after(unknown)
    assert told(unknown) is None
    fault = Event(source="s", n=1, at=unknown.at, kind=EventKind.FAULT, data={"kind": "flood", "trainer": "t1"})
    assert report([fault, unknown], [make_row(0), make_row(1)]).faults == {}
    assert [t.event for t in troubles([fault, unknown])] == [fault]


def test_commands_of_a_newer_service() -> None:
    page = CommandPage.model_validate_json(
        '{"commands":[{"n":1,"kind":"dance","to":"x"},{"n":2,"kind":"fault","fault":"flood"},{"n":3,"kind":"cancel"}]}'
    )
    assert [str(c.kind) for c in page.commands] == ["dance", "fault", "cancel"]
    assert page.commands[2].kind is CommandKind.CANCEL


def test_a_row_of_a_newer_service_is_compared_by_what_is_known() -> None:
    row = LedgerRow.model_validate_json(newer(make_row(0)))
    assert row.result.canonical() == make_row(0).result.canonical()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "[" * 50_000, '{"a":NaN,"b":1e999,"c":-Infinity}', '{"a":"\\ud800"}']
)
def test_any_text_is_read_as_an_object(text: str) -> None:
    json.dumps(read_object(text), allow_nan=False).encode()
    Event(source="s", n=1, at=make_event(1).at, kind=EventKind.WARNING, data=read_object(text)).model_dump_json()
