"""Names that two packages share are made and parsed in one place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot import names
from surefoot_actors.launch.supervisor_actor import SupervisorActor

JOBS = st.from_regex(names.JOB_PATTERN, fullmatch=True)


@given(JOBS, st.integers(1, 10**6))
def test_what_is_made_is_parsed(job: str, number: int) -> None:
    attempt = names.attempt_name(job, number)
    assert names.is_job(job)
    assert names.is_attempt(attempt)
    assert names.attempt_number(attempt) == number
    assert names.attempt_of(names.name_within(attempt, names.trainer_name(number))) == attempt
    assert names.trainer_number(names.trainer_name(number)) == number


@given(JOBS, st.integers(1, 10**6), st.text("0123456789abcdef", min_size=8, max_size=8))
def test_a_supervisors_source_is_one_that_is_taken(job: str, number: int, token: str) -> None:
    source = names.name_within(names.attempt_name(job, number), f"{names.SUPERVISOR}-{token}")
    assert re.fullmatch(names.SOURCE_PATTERN, source)


@pytest.mark.parametrize("text", ["", "a/b", "A", "s3://bucket/runs", "job\n", "a" * 41])
def test_what_is_no_job_is_told_apart(text: str) -> None:
    assert not names.is_job(text)


@pytest.mark.parametrize("text", ["", "a/b", "A-1", "job-1\n", "a" * 61])
def test_what_is_no_attempt_is_told_apart(text: str) -> None:
    assert not names.is_attempt(text)


def test_names_without_a_number_or_an_attempt_are_read_too() -> None:
    assert names.attempt_number("local") == 1
    assert names.attempt_of("trainer") == ""


def test_ray_knows_the_supervisor_by_its_class() -> None:
    assert SupervisorActor.__name__ == names.SUPERVISOR_CLASS
