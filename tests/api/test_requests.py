"""What is sent and how answers are read, without any network."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from tests.api.conftest import make_spec, make_view

from surefoot import _requests as r
from surefoot.errors import (
    ConflictError,
    NotFoundError,
    PackageError,
    ServiceError,
    ServiceUnavailableError,
    SpecError,
    SurefootError,
    UnauthorizedError,
)
from surefoot.spec import JobState


def answer(status: int, body: object) -> r.Answer:
    return r.Answer(status=status, body=json.dumps(body).encode())


def problem(status: int, **more: object) -> r.Answer:
    return answer(status, {"title": HTTPStatus(status).phrase, "status": status} | more)


def test_submission_carries_the_spec_and_its_key() -> None:
    spec = make_spec(config={"lr": 0.1})
    call = r.create_job(spec, "key1")
    assert (call.method, call.path, call.headers["idempotency-key"]) == ("POST", "/v1/jobs", "key1")
    assert json.loads(call.body or b"") == spec.model_dump(mode="json")


def test_listing_sends_only_what_is_asked() -> None:
    assert r.list_jobs(limit=5).params == {"limit": "5"}
    assert r.list_jobs(state=JobState.RUNNING, limit=5, before="x").params == {
        "state": "running",
        "limit": "5",
        "before": "x",
    }


def test_a_missing_package_is_an_answer() -> None:
    assert r.receive(r.has_package("a" * 64), problem(404)) is False
    assert r.receive(r.has_package("a" * 64), answer(200, {})) is True


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthorizedError),
        (403, UnauthorizedError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, PackageError),
        (422, SpecError),
        (503, ServiceUnavailableError),
        (500, ServiceError),
        (418, ServiceError),
    ],
)
def test_every_problem_is_its_exception(status: int, kind: type[SurefootError]) -> None:
    with pytest.raises(kind, match="it is so") as raised:
        r.receive(r.get_job("x"), problem(status, detail="it is so"))
    assert type(raised.value) is kind


def test_a_refused_spec_is_told_field_by_field() -> None:
    errors = [
        {"field": "body.trainers", "message": "Value error, too many"},
        {"field": "body", "message": "batch_size 3 is not a multiple"},
        {"field": "query.limit", "message": "too small"},
    ]
    with pytest.raises(SpecError) as raised:
        r.receive(r.get_job("x"), problem(422, detail="body.trainers: too many; ...", errors=errors))
    assert str(raised.value).splitlines() == [
        "the control plane refused this:",
        "  trainers: too many",
        "  batch_size 3 is not a multiple",
        "  limit: too small",
    ]


def test_what_a_proxy_says_is_told_in_part() -> None:
    with pytest.raises(ServiceUnavailableError, match="answered 502: <html>bad gateway"):
        r.receive(r.get_job("x"), r.Answer(status=502, body=b"<html>bad gateway" + b"!" * 1000))


def test_an_answer_of_another_shape_is_no_crash() -> None:
    with pytest.raises(ServiceError, match="cannot be read"):
        r.receive(r.get_job("x"), answer(200, {"id": 3}))


def test_a_newer_service_may_add_fields() -> None:
    view = make_view()
    assert r.receive(r.get_job(view.id), answer(200, view.model_dump(mode="json") | {"cost": 3})) == view


def test_an_impossible_resize_is_refused_here() -> None:
    with pytest.raises(SpecError, match="trainers: Input should be greater than or equal to 1"):
        r.resize_job("x", 0)
