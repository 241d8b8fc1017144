"""What others wrote, on a terminal: in every field of every answer, through every command, and nothing of it is obeyed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.api.conftest import BEGIN, FakeService, make_row, make_spec, make_view, problem
from typer.testing import CliRunner, Result

from surefoot import _transport, plugins
from surefoot.cli.app import app
from surefoot.cli.printing import PlainConsole
from surefoot.cli.session import Session
from surefoot.events import Circumstances, EventKind, LedgerRow
from surefoot.ledger import dump
from surefoot.printable import printable, printable_line
from surefoot.spec import JobState
from surefoot.views import CheckpointList, CheckpointView, NumberedEvent

# The clipboard written; the title; the screen cleared and lines above overwritten; a link; C1; a bell; bidirectional overrides; what
# is not seen; half a character.
HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]0;title\x1b\\",
    "\x1b[2J\x1b[1A\x1b[K",
    "\x1b]8;;http://evil\x1b\\ok\x1b]8;;\x1b\\",
    "\x9b31m\x9d52;c;ZXZpbA==\x9c",
    "\a\b\r\x00\x7f",
    "\u202egnp.exe\u2066\u200b\u2063\ufeff",
    "\U000e0041\u3164\u2028",
    "\ud800",
    "\x1bc\x1bPq#0\x1b\\",
    "line\nforged: job succeeded",
)
EVIL = "|".join(HOSTILE)
# What may reach a terminal that has colours: rich's own.
_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2?K|\x1b\[\d*A|\r")


# What no JSON says is read as the raw answer, in which it is spelled by plain characters.
EVIL_TEXT = EVIL.replace("\ud800", "")


def assert_plain(text: str) -> None:
    odd = {
        hex(ord(c))
        for c in text
        if c != "\n" and c != "\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    assert not odd, (odd, text)


# ---- the one function


@given(st.text(st.characters() | st.sampled_from("".join(HOSTILE)), max_size=60))
def test_what_is_printed_is_text_alone(text: str) -> None:
    for made in (printable(text), printable_line(text)):
        assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in made)
        assert printable(made) == made, "done twice it is the same"
        made.encode()
    assert "\n" not in printable_line(text)


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co")), max_size=60))
def test_plain_text_stays_as_it_is(text: str) -> None:
    invisible = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0x180B, 0x1810)}
    assert printable(text) == "".join(c for c in text if c not in invisible)


def test_lines_and_tabs_stay_and_sequences_go_whole() -> None:
    assert printable("Traceback:\n\tx = \x1b[31mred\x1b[0m\r\n") == "Traceback:\n\tx = red\n"
    assert printable("a\x1b]52;c;ZXZpbA==\x07b\x9d52;c;ZXZpbA==\x9cc") == "abc"
    assert printable("a\x1b]0;never ended\nb") == "a\nb"
    assert printable_line("one\r\ntwo\u2028three") == "one two three"


# ---- every command, with every field hostile


_TEXTS = ("trainer", "reason", "state", "message", "url", "kind", "digest", "node", "pid", "num_steps", "generation", "steps",
          "traceback", "seconds")  # fmt: skip


def poisoned_service(fake: FakeService, state: JobState) -> FakeService:
    """A control plane with one job, each of whose texts is hostile, as far as an answer may have it."""
    evil = EVIL_TEXT
    free = {
        "config": {evil: evil},
        "pip": (evil.replace("\n", "").replace("\r", ""),),
        "env": {evil: evil},
        "left_out": {evil[:250]: evil[:250]},
    }
    spec = make_spec().model_copy(update={**free, "restore": evil})
    view = make_view("abc2345678", state, num_steps=3, steps_done=3, attempts=2, checkpoint_step=3)
    text = dict.fromkeys(("reason", "traceback", "digest", "checkpoint", "model", "attempt"), evil)
    fake.add(view.model_copy(update={**text, "spec": spec, "started_at": BEGIN, "ended_at": BEGIN}))
    data = dict.fromkeys(_TEXTS, evil)
    lists = {name: [evil] for name in ("trainers", "joined", "lost", "left", "requirements")}
    fake.events = [
        NumberedEvent(seq=n, source=evil[:90], n=n, at=BEGIN + timedelta(seconds=n), kind=kind, data={**data, **lists})
        for n, kind in enumerate(EventKind, 1)
    ]
    row = make_row(0)
    circumstances = Circumstances(generation=1, trainers=1, seconds=0.1, nondeterministic=(evil,))
    fake.rows = [LedgerRow(result=row.result.model_copy(update={"values": {evil: 1.0}}), circumstances=circumstances)]
    return fake


@pytest.fixture(params=[JobState.FAILED, JobState.SUCCEEDED, JobState.RUNNING], ids=lambda s: s.value)
def poisoned(request: pytest.FixtureRequest, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)
    return poisoned_service(fake, request.param)


def answering(fake: FakeService) -> Callable[[httpx.Request], httpx.Response]:
    """The fake's answers, as JSON whatever is in them; and those that it has not."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/checkpoints"):
            told = CheckpointView(url=EVIL_TEXT, at=BEGIN, step=1, reason=EVIL_TEXT)
            return httpx.Response(200, content=as_json(CheckpointList(checkpoints=(told,)).model_dump(mode="python")))
        if request.method == "POST" and path.rpartition("/")[2] in ("pause", "resume", "checkpoint", "faults"):
            return problem(409, EVIL_TEXT, ((EVIL_TEXT, EVIL_TEXT),))
        if path.endswith("/model"):
            return httpx.Response(200, content=b"bytes")
        return fake.answer(request)

    return answer


def as_json(value: Any) -> bytes:
    import json

    return json.dumps(value, default=str).encode()


@pytest.fixture(autouse=True)
def _json_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are written by Python's json, which says half a character as an escape; pydantic's would refuse it."""
    import tests.api.conftest as kit

    def dumped(view: Any, status: int = 200) -> httpx.Response:
        return httpx.Response(status, headers={"content-type": "application/json"}, content=as_json(view.model_dump()))

    monkeypatch.setattr(kit, "_view", dumped)


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ls",),
    ("rm", "last", "--checkpoints"),
    ("ls", "--json"),
    ("show", "last"),
    ("show", "last", "--json"),
    ("watch", "last"),
    ("resize", "last", "2"),
    ("cancel", "last", "--no-wait"),
    ("pause", "last", "--no-wait"),
    ("resume", "last"),
    ("checkpoint", "last"),
    ("checkpoints", "last"),
    ("checkpoints", "last", "--json"),
    ("model", "last", "-o", "OUT"),
    ("ledger", "last"),
    ("ledger", "last", "--csv"),
    ("ledger", "last", "--json"),
    ("diff", "last", "FILE"),
    ("submit", "train:train", "-f", "CODE", "-b", "64", "--detach"),
)


def run(fake: FakeService, command: tuple[str, ...], tmp_path: Path, code: Path) -> Result:
    (tmp_path / "file.json").write_text(dump([make_row(0, loss=2.0)]))
    places = {"OUT": str(tmp_path / "out"), "CODE": str(code), "FILE": str(tmp_path / "file.json")}
    transport = httpx.MockTransport(answering(fake))
    return CliRunner().invoke(app, [places.get(a, a) for a in command], obj=Session(transport=transport))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_lets_anything_through(
    command: tuple[str, ...], poisoned: FakeService, tmp_path: Path, code: Path
) -> None:
    if command[0] == "watch":  # it goes on for as long as the job does
        poisoned.jobs = {
            name: job.model_copy(update={"state": JobState.SUCCEEDED}) for name, job in poisoned.jobs.items()
        }
    result = run(poisoned, command, tmp_path, code)
    assert "mistake of surefoot's own" not in result.stderr
    for text in (result.stdout, result.stderr):
        assert_plain(text)
    assert "cannot be read" not in result.stderr, "it is to be shown"
    if command[0] in ("show", "ledger", "checkpoints", "diff"):
        assert "forged: job succeeded" in result.output


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["", "debug"])
@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 500, 503])
@pytest.mark.parametrize("how", ["problem", "html"])
def test_nor_do_errors(
    how: str, status: int, debug: tuple[str, ...], fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)

    def answer(_: httpx.Request) -> httpx.Response:
        if how == "html":
            return httpx.Response(status, content=EVIL.encode(errors="replace"))
        made = problem(status, EVIL_TEXT, ((EVIL_TEXT, EVIL_TEXT),))
        return httpx.Response(status, headers=made.headers, content=made.content)

    result = CliRunner().invoke(app, [*debug, "ls"], obj=Session(transport=httpx.MockTransport(answer)))
    assert result.exit_code == 2
    assert result.stderr.startswith("surefoot: ") or debug
    assert_plain(result.stderr)
    assert_plain(result.stdout)


class _Report:
    ok = False

    def render(self) -> list[str]:
        return [EVIL]


def test_nor_do_check_and_up(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Callable[..., Any]:
        def fail(**_: Any) -> Any:
            if name == "check":
                return _Report()
            raise OSError(5, EVIL, EVIL)

        return fail

    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr("surefoot.cli.local.load", load)
    for command in (("check", "train:train", "-f", str(code), "-b", "64"), ("up",), ("--debug", "up")):
        result = CliRunner().invoke(app, list(command))
        assert result.exit_code in (1, 2)
        assert_plain(result.stdout)
        assert_plain(result.stderr)


# ---- a real terminal: colours stay, the rest does not


@settings(max_examples=30)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("".join(HOSTILE[:8])), max_size=80))
def test_on_a_terminal_rich_writes_its_own_codes_and_nobody_elses(text: str) -> None:
    from rich.table import Table
    from rich.text import Text

    out = PlainConsole(
        force_terminal=True, color_system="standard", width=60, markup=False, emoji=False, highlight=False
    )
    table = Table(title=text)
    table.add_column(text, overflow="fold")
    table.add_row(Text(text, style="red"))
    with out.capture() as captured:
        out.print(table)
        out.print(text, soft_wrap=True)
    assert_plain(_OWN.sub("", captured.get()))


def test_a_plain_console_of_rich_would_let_it_through() -> None:
    """What is kept out here is not kept out by rich."""
    out = Console(force_terminal=True, width=60, markup=False, highlight=False)
    with out.capture() as captured:
        out.print(HOSTILE[0])
    assert "\x1b]52" in captured.get()


# ---- the log of a control plane, which stands on the same terminal


def test_a_log_has_no_control_characters_and_no_forged_lines(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    import structlog

    logs = pytest.importorskip("surefoot_service.up.logs")
    logs.configure()
    log = structlog.get_logger()
    log.warning("store_away", path=EVIL, error=EVIL)
    try:
        raise RuntimeError(EVIL)
    except RuntimeError:
        log.exception("failed", job=EVIL)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request: %s", EVIL)
    text = capfd.readouterr().err
    assert "store_away" in text
    assert_plain(text)
    assert len([line for line in text.splitlines() if line.startswith("forged")]) <= 2, "but in a traceback"


# ---- what typer itself says of a command line: it prints by no console of ours


WRONG: tuple[tuple[str, ...], ...] = (
    ("EVIL",),
    ("--EVIL",),
    ("--url",),
    ("--EVIL", "ls"),
    ("ls", "--EVIL"),
    ("ls", "EVIL", "EVIL"),
    ("ls", "--state", "EVIL"),
    ("resize", "last", "EVIL"),
    ("submit", "train:train", "-b", "EVIL"),
    ("up", "--port", "EVIL"),
    ("diff", "EVIL"),
)


@pytest.mark.parametrize("evil", [*HOSTILE, EVIL], ids=lambda e: ascii(e)[:20])
@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_a_wrong_command_line_is_not_shown_raw(
    command: tuple[str, ...], evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a script's, with a name in it that somebody else chose."""
    result = CliRunner().invoke(app, [word.replace("EVIL", evil) for word in command])
    assert result.exit_code == 2
    assert result.stderr
    assert_plain(result.stdout)
    # typer's own frame has no characters that are not plain
    assert_plain(result.stderr)
