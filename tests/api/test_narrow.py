"""On a narrow terminal every command can be read: lines as wide as it is, broken between words; no id, path or value is cut or lost."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.api.conftest import BEGIN, FakeService, make_event, make_row, make_spec, make_view
from typer.testing import CliRunner, Result

from surefoot import _transport
from surefoot.cli import tables
from surefoot.cli.app import app
from surefoot.cli.folding import fold, fold_items, shortened
from surefoot.cli.session import Session
from surefoot.events import EventKind
from surefoot.ledger import dump
from surefoot.spec import JobState
from surefoot.system import SystemMetrics, SystemPoint
from surefoot.views import CheckpointList, CheckpointView

JOB = "abc2345678"
LONG = "s3://a-bucket-with-a-name/of/some/team/and/project/checkpoints/abc2345678/step-000000000120-5f2e"
REASON = (
    "the cluster has no room for 2 trainers of 4 CPUs and 1 GPU each: it has 3 CPUs and 0 GPUs free, and may add none"
)
DIGEST = "0123456789abcdef" * 2
# what is to be found whole in what the commands print of a job
WHOLE = {
    "ls": (JOB, "a-name-that-people-gave-it", "120/3000"),
    "show": (JOB, LONG, DIGEST, "train:train", "5f2e77aa", "t12", "WANDB_API_KEY=WANDB", "huggingface.co"),
    "checkpoints": (LONG, "120"),
    "ledger": (f"{1:032x}", "validation/accuracy/top-5", "0.33333"),
    "metrics": ("validation/accuracy/top-5", "0.33333"),
    "metrics --system": ("t0", "t12", "87%", "4 GiB", "12.5 MB/s", "250 ms", "1.50"),
    "secret": ("A_SECRET_WITH_QUITE_A_NAME", "somebody@an-organisation.example"),
    "watch": (LONG, DIGEST),
    "check": ("2 trainers, one killed, a fresh one joins", "model.py:12"),
}


def a_service(fake: FakeService, state: JobState) -> FakeService:
    spec = make_spec(
        name="a-name-that-people-gave-it",
        config={"path": "/data/somewhere/that/is/long/enough/to/be/no/fun", "lr": 0.1},
        pip=("transformers @ https://huggingface.co/some/long/path/to/a/wheel/transformers-5.0-py3-none-any.whl",),
        env={"SOME_VARIABLE": "with a value of several words"},
        secrets={"WANDB": "WANDB_API_KEY"},
    )
    times = {"started_at": BEGIN, "ended_at": BEGIN + timedelta(seconds=61)} if state.ended else {"started_at": BEGIN}
    fake.add(
        make_view(
            JOB, state, spec=spec, reason=REASON, steps_done=120, num_steps=3000, checkpoint=LONG, checkpoint_step=120, model=LONG,
            digest=DIGEST, attempts=2, generation=7, trainers=2, wanted_trainers=3, **times,
        )
    )  # fmt: skip
    data: dict[str, Any] = {
        "trainer": "t12",
        "reason": REASON,
        "url": LONG,
        "step": 120,
        "seconds": 0.25,
        "sub_tasks_again": 3,
    }
    more = {
        "pid": 4711,
        "node": "ip-10-0-0-1.eu-central-1.compute.internal",
        "group": "gpu-spot",
        "digest": DIGEST,
        "message": REASON,
    }
    known = [kind for kind in EventKind if kind not in (EventKind.STATE, EventKind.FAILED)]
    fake.events = [
        make_event(n, kind, **data, **more, trainers=["t0", "t12"], id="5f2e77aa") for n, kind in enumerate(known, 1)
    ]
    fake.events.append(make_event(100, EventKind.STATE, state="recovering", reason=f"lost 5f2e77aa: {REASON}"))
    fake.rows = [make_row(n, many={"loss": 1 / (n + 1), "validation/accuracy/top-5": 1 / (n + 1)}) for n in range(3)]
    fake.usage = {
        "currency": "EUR", "cluster_s": 100, "trainer_s": 300, "cost": 1.5, "recoveries": 2, "lost_s": 3, "lost_trainer_s": 9,
        "remaining_steps": 2880, "step_s": 0.1, "samples_per_s": 640, "target": "validation/accuracy/top-5>=0.97",
        "forecast": [{"trainers": n, "measured": n == 2, "step_s_low": 0.1, "step_s_high": 0.2, "remaining_s_low": 100.0,
                      "remaining_s_high": 2000.0, "cost_low": 1.25, "cost_high": 12.75} for n in (1, 2, 4)],
    }  # fmt: skip
    return fake


def the_rest(fake: FakeService, request: httpx.Request) -> httpx.Response:
    """What the fake does not know."""
    path = request.url.path
    if path.endswith("/system"):
        points = [
            SystemPoint(
                trainer=name, at=BEGIN, live=True, cpus=1.5, cpus_limit=4, memory_bytes=2e9, machine_memory_bytes=0.87 * 2**32,
                machine_memory_limit_bytes=2**32, received_bytes_per_s=12.5e6, sent_bytes_per_s=1e3, samples_per_s=320.5,
                exchange_s=0.25, wait_s=0.001,
            )
            for name in ("t0", "t12")
        ]  # fmt: skip
        return httpx.Response(200, text=SystemMetrics(samples=tuple(points)).model_dump_json())
    if path.endswith("/checkpoints"):
        told = CheckpointView(
            url=LONG, at=BEGIN, step=120, bytes=10**9, seconds=2.5, stall_s=0.01, reason="every 300 seconds"
        )
        return httpx.Response(200, text=CheckpointList(checkpoints=(told, told)).model_dump_json())
    if path == "/v1/secrets":
        view = {"name": "A_SECRET_WITH_QUITE_A_NAME", "version": 12, "owner": "somebody@an-organisation.example",
                "created_at": BEGIN.isoformat()}  # fmt: skip
        return httpx.Response(200, json={"secrets": [view]})
    if path.endswith("/model"):
        return httpx.Response(200, content=b"bytes")
    return fake.answer(request)


class _Report:
    ok = False

    def render(self) -> list[str]:
        return [
            "train:train, 6 steps, compared bit for bit",
            "  2 trainers, one killed, a fresh one joins  DIFFERS   12.3 s  in step 3, model.layers.0.attention.weight",
            "  at model.py:12: x = numpy.random.rand(3) + something_that_is_a_long_name",
            "  mend: use what the step gives, torch's and numpy's own generators are seeded for each sub-task",
        ]


COMMANDS: tuple[str, ...] = (
    "ls", "show last", "watch last", "checkpoints last", "ledger last", "metrics last", "metrics last --system", "secret list",
    "resize last 2", "cancel last --no-wait", "pause last --no-wait", "resume last", "checkpoint last", "model last -o OUT",
    "diff last FILE", "submit train:train -f CODE -b 64 --detach", "rm last", "budget last --max-cost 3",
    "check train:train -f CODE -b 64", "version", "show nosuchjob", "submit nosuch:train -f CODE -b 64",
)  # fmt: skip
HUMAN_OUTPUT = [(command, state) for command in COMMANDS for state in (JobState.RUNNING, JobState.SUCCEEDED)]
JSON = [
    command
    for command in COMMANDS
    if command.split()[0] not in ("submit", "version", "watch") and "nosuch" not in command
]


def run(fake: FakeService, command: str, columns: int, tmp_path: Path, code: Path) -> Result:
    (tmp_path / "file.json").write_text(dump([make_row(0, loss=2.0)]))
    out = tmp_path / "a-folder-with-a-long-name" / "and-another-one-below-it"
    out.mkdir(parents=True, exist_ok=True)
    places = {"OUT": str(out / "model.safetensors"), "CODE": str(code), "FILE": str(tmp_path / "file.json")}
    transport = httpx.MockTransport(lambda request: the_rest(fake, request))
    arguments = [places.get(word, word) for word in command.split()]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, arguments, obj=Session(transport=transport))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)
    monkeypatch.setattr("surefoot.cli.local.load", lambda name: lambda **_: _Report())


def too_wide(text: str, columns: int) -> list[str]:
    """Lines that could have been broken, and were not."""
    return [line for line in text.splitlines() if cell_len(line) > columns and len(line.split()) > 1]


@pytest.mark.parametrize("columns", [60, 40])
@pytest.mark.parametrize(("command", "state"), HUMAN_OUTPUT, ids=lambda value: str(getattr(value, "value", value)))
def test_every_command_can_be_read(
    command: str, state: JobState, columns: int, fake: FakeService, tmp_path: Path, code: Path
) -> None:
    a_service(fake, JobState.SUCCEEDED if command.startswith("watch") else state)
    result = run(fake, command, columns, tmp_path, code)
    assert "mistake of surefoot's own" not in result.stderr
    for text in (result.stdout, result.stderr):
        assert too_wide(text, columns) == []
        assert "…" not in text.replace(" …", ""), "something is cut"
    name = command.replace(" last", "").removesuffix(" list")
    if result.exit_code != 2:
        words = " ".join(result.output.split())
        assert [whole for whole in WHOLE.get(name, ()) if whole not in words and whole not in result.output] == []


# the report of `check` is another's here
@pytest.mark.parametrize("command", [command for command in JSON if not command.startswith("check ")])
def test_json_is_the_same_however_narrow(command: str, fake: FakeService, tmp_path: Path, code: Path) -> None:
    narrow, wide = (
        run(a_service(fake, JobState.SUCCEEDED), f"{command} --json", columns, tmp_path, code) for columns in (20, 400)
    )
    assert (narrow.exit_code, narrow.stdout) == (wide.exit_code, wide.stdout)
    if narrow.exit_code != 2:  # a mistake for a job that has ended
        json.loads(narrow.stdout)


def test_help_can_be_read_too(fake: FakeService) -> None:
    for command in [["submit", "--help"], ["logs", "--help"], ["secret", "set", "--help"]]:
        text = CliRunner(env={"COLUMNS": "60"}).invoke(app, command, terminal_width=60).stdout
        assert [line for line in text.splitlines() if cell_len(line) > 60] == []
        assert "…" not in text


# ---- the functions


TEXT = st.text(st.sampled_from("ab é漢 -/"), max_size=80)


@given(TEXT, st.integers(1, 40), st.integers(0, 4))
def test_folding_loses_nothing_and_cuts_no_word(text: str, width: int, indent: int) -> None:
    lines = fold(text, width, indent=" " * indent)
    assert " ".join(lines).split() == text.split()
    assert all(cell_len(line) <= width or len(line.split()) <= 1 for line in lines)


@given(st.lists(TEXT, max_size=6), st.integers(3, 40))
def test_items_stay_together_that_fit(items: list[str], width: int) -> None:
    items = [item.strip() for item in items if item.strip()]
    lines = fold_items(items, width, indent="  ")
    assert " ".join(lines).split() == " ".join(items).split()
    for item in items:
        if cell_len(item) <= width - 2:
            assert any(item in line for line in lines)


@given(TEXT, st.integers(2, 40))
def test_what_is_shortened_has_whole_words(text: str, most: int) -> None:
    short = shortened(text, most)
    assert short == text or text.split()[: len(short.split()) - 1] == short.removesuffix("…").split()


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=4),
    st.integers(10, 80),
    st.sampled_from(["print_table", "print_pairs"]),
)
def test_tables_lose_nothing_and_cut_no_word(rows: list[tuple[str, str, str]], width: int, how: str) -> None:
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        patch.setenv("COLUMNS", str(width))
        if how == "print_table":
            tables.print_table(("ONE", "TWO", "THREE"), rows)
        else:
            tables.print_pairs({f"name {n}": value for n, (value, *_) in enumerate(rows)})
    text = shown.getvalue()
    assert too_wide(text, width) == []
    told = text.split()
    for row in rows:
        for word in " ".join(row if how == "print_table" else row[:1]).split():
            assert word in told
