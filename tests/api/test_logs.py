"""Printed lines as the SDK and the command line show them, against the real control plane."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import BEGIN
from tests.api.test_against_service import Attempt, Running, begin, running  # noqa: F401  a fixture
from typer.testing import CliRunner

from surefoot import AsyncClient, Client
from surefoot._logs import OneTrainer
from surefoot.cli.app import app as cli_app
from surefoot.cli.logs import _since
from surefoot.errors import UserError
from surefoot.logs import LOGS_TYPE, FrameHead, LogLine, LogStream


def tell(attempt: Attempt, trainer: str, first: int, *texts: str, stream: str = "stdout") -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    runs = [{"t": now, "s": first + i, "f": stream, "x": f"{text}\n"} for i, text in enumerate(texts)]
    content = zlib.compress("\n".join(map(json.dumps, runs)).encode())
    head = FrameHead(source=f"{trainer}-00000000", first=first, count=len(texts), bytes=len(content))
    url = attempt.uplink.replace("/uplink", "/logs")
    headers = {"authorization": f"Bearer {attempt.token}", "content-type": LOGS_TYPE}
    answer = httpx.post(url, content=head.model_dump_json().encode() + b"\n" + content, headers=headers)
    assert answer.status_code == 200, answer.text


def cli(*arguments: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(cli_app, list(arguments))
    return result.exit_code, result.output.splitlines()


@pytest.mark.process
def test_lines_of_a_job_from_its_first_to_its_last(running: Running, code: Path) -> None:  # noqa: F811
    with Client() as client:
        job = client.submit("train:train", folder=code, batch_size=64, trainers=2)
        attempt = running.attempt(job.id)
        begin(attempt)
        tell(attempt, "t0", 1, "one", "two", "three")
        tell(attempt, "t1", 1, "other", "and \x1b[2Jodd")
        assert [line.text for line in job.logs(trainer="t0", tail=2)] == ["two", "three"]
        assert [line.text for line in job.logs(contains="o", since=datetime.now(UTC) - timedelta(hours=1))] == [
            "one",
            "two",
            "other",
            "and \x1b[2Jodd",
        ]
        assert cli("logs", job.id, "--trainer", "t0", "--bare") == (0, ["one", "two", "three"])
        lines = cli("logs", "last", "--tail", "2", "--since", "10m")[1]
        assert [line.partition(" ")[2] for line in lines] == ["t1 1 | other", "t1 2 | and odd"]
        assert [json.loads(line)["number"] for line in cli("logs", job.id, "--json", "--grep", "th")[1]] == [2, 3]

        # followed to the end
        seen: list[str] = []
        follower = threading.Thread(target=lambda: seen.extend(x.text for x in job.logs(follow=True, trainer="t0")))
        follower.start()
        tell(attempt, "t0", 4, "four")
        failed = {"reason": "it raised", "traceback": "Traceback: why", "trainer": "t0"}
        attempt.tell(failed=failed, state={"state": "failed", "reason": "it raised"})
        for trainer in ("t0", "t1"):
            tell(attempt, trainer, 5, "the process has ended", stream="surefoot")
        follower.join(30)
        assert seen == ["one", "two", "three", "four", "the process has ended"]
        assert asyncio.run(_of_an_async_client(job.id)) == ["one", "two", "three", "four"]

        # beside the traceback
        shown = cli("show", job.id)[1]
        where = shown.index("Traceback: why")
        assert shown[where + 1 :] == [
            "",
            f"t0 printed last (all: surefoot logs {job.id}):",
            "  one",
            "  two",
            "  three",
            "  four",
        ]
        exit_code, watched = cli("watch", job.id)
        assert (exit_code, "  four" in watched) == (1, True)


async def _of_an_async_client(job_id: str) -> list[str]:
    async with AsyncClient() as client:
        job = await client.job(job_id)
        return [line.text async for line in job.logs(trainer="t0") if line.stream == LogStream.STDOUT]


@pytest.mark.process
def test_submit_shows_what_one_trainer_prints(running: Running, code: Path) -> None:  # noqa: F811
    found: list[tuple[int, list[str]]] = []

    def submit() -> None:
        found.append(cli("submit", "train:train", "--folder", str(code), "-b", "64", "--trainers", "2", "--logs"))

    submitting = threading.Thread(target=submit)
    submitting.start()
    with Client() as client:
        while not (jobs := client.jobs()):
            pass
        attempt = running.attempt(jobs[0].id)
    begin(attempt)
    tell(attempt, "t0", 1, "step 1", "step 2")
    tell(attempt, "t1", 1, "step 1", "step 2")
    tell(attempt, "t0", 3, "the process has ended", stream="surefoot")
    tell(attempt, "t1", 3, "step 3", "step 4")
    attempt.tell(3, 4, finished={"steps": 5, "digest": "d" * 32}, state={"state": "succeeded", "reason": ""})
    tell(attempt, "t1", 5, "the process has ended", stream="surefoot")
    submitting.join(30)
    exit_code, lines = found[0]
    assert exit_code == 0
    texts = [line.partition(" | ")[2] for line in lines if " | " in line]
    assert [text for text in texts if text.startswith("step")] == ["step 1", "step 2", "step 3", "step 4"]
    assert "succeeded" in lines[-1]


def _line(trainer: str, step: int, at_s: int, *, attempt: int = 1, stream: str = "stdout") -> LogLine:
    at = BEGIN + timedelta(seconds=at_s)
    return LogLine(number=0, attempt=attempt, trainer=trainer, step=step, at=at, stream=LogStream(stream), text="x")


def _shown(lines: Sequence[LogLine]) -> list[int]:
    one = OneTrainer()
    return [n for n, line in enumerate(lines) if one.shows(line)]


def test_one_trainer_is_shown_until_it_has_nothing_more_to_say() -> None:
    both = [_line("t0", 0, 0), _line("t1", 0, 0), _line("supervisor", -1, 0), _line("t0", 1, 1), _line("t1", 1, 1)]
    assert _shown(both) == [0, 3]
    ended = [*both, _line("t0", 1, 2, stream="surefoot"), _line("t1", 0, 2), _line("t1", 2, 2)]
    assert _shown(ended) == [0, 3, 5, 7], "what was shown of a step is not shown again"
    # its node has died, without a word
    assert _shown([*both, _line("t1", 2, 5), _line("t1", 3, 20)]) == [0, 3, 6]
    # everything was lost: the next attempt begins before where this one was
    assert _shown([*both, _line("t0", 0, 3, attempt=2), _line("t0", 1, 3, attempt=2)]) == [0, 3, 5, 6]


def test_since_is_so_long_ago_or_a_time() -> None:
    ago = _since("10m")
    assert ago is not None
    assert abs((datetime.now(UTC) - ago).total_seconds() - 600) < 60
    assert _since("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(UserError, match="--since 'yesterday' is neither"):
        _since("yesterday")
