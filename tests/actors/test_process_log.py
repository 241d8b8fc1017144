"""The log of trainers and supervisors is apart from training code: neither sees what the other sets up, nor has its errors."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import structlog

import surefoot_actors
from surefoot_actors.masking import Masking
from surefoot_actors.process_log import log, say

SOURCE = Path(surefoot_actors.__file__).parent


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


def test_what_training_code_redirects_has_none_of_our_lines(written: io.StringIO) -> None:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        log.warning("ours", n=1)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert re.fullmatch(r"\S+ \S+ \[warning  \] ours +n=1\n", written.getvalue())


def test_what_training_code_sets_up_of_structlog_is_its_own(written: io.StringIO) -> None:
    seen: list[object] = []

    def theirs(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        seen.append(event["epoch"])
        return event

    structlog.configure(processors=[theirs], logger_factory=structlog.ReturnLoggerFactory())
    log.info("ours")
    try:
        raise ValueError("as told")
    except ValueError:
        log.exception("ours too")
    assert seen == []
    assert "ValueError: as told" in written.getvalue()


def test_it_is_lost_where_training_code_has_closed_the_stream(written: io.StringIO) -> None:
    written.close()
    log.error("ours")
    with redirect_stderr(written):
        say("ours")


def test_it_has_no_secret(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surefoot_actors.disclosed._masking", Masking(["a-secret-of-theirs"]))
    log.warning("ours", url="https://u:a-secret-of-theirs@there")
    assert "there" in written.getvalue()
    assert "a-secret-of-theirs" not in written.getvalue()


def test_our_modules_leave_structlog_as_training_code_expects_it() -> None:
    """All that a trainer imports; in a process of its own, since tests set it up."""
    code = "import structlog, surefoot_actors.cluster.ray.trainer_actor; print(structlog.is_configured())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_every_module_of_the_actors_logs_by_it() -> None:
    users = {str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if "structlog" in file.read_text()}
    assert users == {"process_log.py"}


def test_no_process_of_ours_that_runs_training_code_depends_on_its_streams() -> None:
    """Written to by `say`, or by what has no training code beside it."""
    without_training_code = {
        "launch/launcher.py",
        "launch/supervisor_actor.py",
        "system_metrics/sampler.py",
        "cluster/local/template.py",
    }
    direct = re.compile(r"traceback\.print_|sys\.stderr\.write|file=sys\.stderr")
    users = {str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if direct.search(file.read_text())}
    assert {user for user in users if not user.startswith("check/")} <= without_training_code
