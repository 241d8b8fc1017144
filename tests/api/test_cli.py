"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import builtins
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.api.conftest import FakeService, make_event, make_row, make_spec, make_view, problem, refuse
from typer.testing import CliRunner, Result

from surefoot import _transport, plugins
from surefoot.cli import local, main
from surefoot.cli.app import app
from surefoot.cli.session import Session
from surefoot.errors import MissingExtraError
from surefoot.events import SUPERVISOR_RESTARTED, EventKind
from surefoot.ledger import dump
from surefoot.spec import JobState

Cli = Callable[..., Result]


@pytest.fixture
def cli(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setitem(_transport.RETRY, "wait", lambda state: 0.0)
    monkeypatch.setattr("surefoot._follow.Follower.pause_s", lambda self: 0.0)
    monkeypatch.setenv("TZ", "UTC")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), obj=Session(transport=fake.transport))

    return invoke


def failing(fake: FakeService) -> None:
    fake.events = [
        make_event(1, EventKind.FAILED, reason="ValueError: boom"),
        make_event(2, EventKind.STATE, state="failed"),
    ]
    fake.add(
        make_view(
            "bad1",
            JobState.FAILED,
            reason="ValueError: boom",
            traceback="Traceback (most recent call last):\nValueError: boom\n",
        )
    )


# ---- submit and watch


def test_submit_and_detach_prints_the_id_alone(cli: Cli, fake: FakeService, code: Path) -> None:
    (code / "config.json").write_text('{"lr": 1, "deep": {"a": [1]}}')
    result = cli(
        "submit", "train:train", "-f", str(code), "-b", "64", "-n", "3", "--detach", "--config", str(code / "config.json"),
        "--set", "lr=0.5", "--set", "note=plain text", "--set", "flag=true", "--env", "A=b=c", "--pip", "numpy>=2", "--gpus", "0.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == "job0\n"
    assert "surefoot watch job0" in result.stderr
    spec = fake.jobs["job0"].spec
    assert spec.config == {"lr": 0.5, "deep": {"a": [1]}, "note": "plain text", "flag": True}
    assert (spec.env, spec.pip, spec.trainers, spec.resources.gpus) == ({"A": "b=c"}, ("numpy>=2",), 3, 0.5)


def test_a_target_and_a_budget_reach_the_spec(cli: Cli, fake: FakeService, code: Path) -> None:
    more = ("--target", "accuracy >= .97", "--max-cost", "20", "--max-hours", "1.5")
    assert cli("submit", "train:train", "-b", "64", "-f", str(code), "--detach", *more).exit_code == 0
    [view] = fake.jobs.values()
    assert view.spec.target == "accuracy>=0.97"
    assert (view.spec.budget.max_cost, view.spec.budget.max_hours) == (20.0, 1.5)
    wrong = cli("submit", "train:train", "-b", "64", "-f", str(code), "--detach", "--target", "accuracy")
    assert wrong.exit_code == 2
    assert "must be the name of a logged value" in wrong.stderr


def test_submit_tells_in_a_line_what_is_left_out_code_first(cli: Cli, fake: FakeService, code: Path) -> None:
    (code / ".gitignore").write_text("*.yaml\nsecret.py\n")
    for name in ("a.yaml", "b.yaml", "c.yaml", "d.yaml", "secret.py"):
        (code / name).write_text("")
    (code / "__pycache__").mkdir()
    result = cli("submit", "train:train", "-f", str(code), "-b", "64", "--detach")
    assert result.stdout == "job0\n"
    assert result.stderr.splitlines()[0] == (
        "left out of the package: secret.py (.gitignore line 2 (secret.py)), a.yaml (.gitignore line 1 (*.yaml)), "
        "b.yaml (.gitignore line 1 (*.yaml)), c.yaml (.gitignore line 1 (*.yaml)), ... (5 in all)"
    )
    assert len(fake.jobs["job0"].spec.left_out) == 5
    (code / ".gitignore").write_text("")
    assert "left out" not in cli("submit", "train:train", "-f", str(code), "-b", "64", "--detach").stderr


def test_what_travels_of_it_is_bounded(cli: Cli, fake: FakeService, code: Path) -> None:
    (code / ".gitignore").write_text("*.png\n")
    (code / "deep").mkdir()
    for n in range(150):
        (code / "deep" / f"{n}.png").write_text("")
    (code / "near.png").write_text("")
    result = cli("submit", "train:train", "-f", str(code), "-b", "64", "--detach")
    left_out = fake.jobs["job0"].spec.left_out
    assert len(left_out) == 100
    assert next(iter(left_out)) == "near.png"
    assert "(100+ in all)" in result.stderr


def test_trainers_start_at_the_minimum(cli: Cli, fake: FakeService, code: Path) -> None:
    assert cli("submit", "train:train", "-f", str(code), "-b", "64", "--min-trainers", "2", "--detach").exit_code == 0
    assert fake.jobs["job0"].spec.trainers == 2


def test_watch_tells_losses_and_recoveries_as_they_happen(cli: Cli, fake: FakeService) -> None:
    fake.events = [
        make_event(1, EventKind.STATE, state="running"),
        make_event(2, EventKind.GENERATION, generation=1, trainers=3, step=0, num_steps=20),
        make_event(3, EventKind.TRAINER_LOST, trainer="t1", reason="killed by signal 9", step=7),
        make_event(4, EventKind.RECOVERED, step=7, seconds=0.131, sub_tasks_again=2),
        make_event(5, EventKind.STATE, state="succeeded"),
    ]
    fake.rows = [make_row(n, trainers=3) for n in range(20)]
    times = {"started_at": "2026-01-02T03:04:06Z", "ended_at": "2026-01-02T03:04:16Z"}
    fake.add(make_view("j1", JobState.SUCCEEDED, steps_done=20, num_steps=20, digest="d" * 32, **times))
    result = cli("watch", "j1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:4] == [
        "running",
        "generation 1: 3 trainers from step 0",
        "lost trainer t1 at step 7: killed by signal 9",
        "recovered at step 7 in 131 ms, 2 sub-tasks computed again",
    ]
    assert "step 20/20  loss 0.05  3 trainers  10 steps/s" in lines
    assert lines[-1] == f"job j1 succeeded: 20 steps in 10.0 s, final state {'d' * 32}"


def test_watching_a_failure_ends_with_its_traceback_and_1(cli: Cli, fake: FakeService) -> None:
    failing(fake)
    result = cli("watch", "bad1")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Traceback (most recent call last):",
        "ValueError: boom",
        "job bad1 failed: ValueError: boom",
    ]


def test_ctrl_c_detaches_and_says_so(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))

    def interrupt(request: Any) -> Any:
        raise KeyboardInterrupt

    fake.faults = [("/stream", interrupt)]
    result = cli("watch", "j1")
    assert result.exit_code == 130
    assert "detached: job j1 goes on" in result.stderr
    assert fake.jobs["j1"].state is JobState.RUNNING


@pytest.mark.parametrize("where", ["builtins.__import__", "typer.main.get_command"])
def test_ctrl_c_before_any_command_begins_is_no_traceback(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes a second to import what commands need, and to put them together."""
    real = builtins.__import__

    def interrupted(name: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(name, str) and name != "surefoot.cli.app":
            return real(name, *rest, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(where, interrupted)
        with pytest.raises(SystemExit) as ended:
            main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out, told.err) == (2, "", "surefoot: interrupted\n")


def test_chaos_that_is_interrupted_reports_what_it_did(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))

    def interrupt(request: Any) -> Any:
        raise KeyboardInterrupt

    for more, report in (((), "steps"), (("--json",), '"steps"')):
        fake.faults = [("/stream", interrupt)]
        result = cli("chaos", "j1", "--for", "10m", "--kills-per-minute", "0.01", *more)
        assert (result.exit_code, report in result.stdout) == (130, True), result.output
        assert "there are no more faults; job j1 goes on" in result.stderr


def test_submit_watches_by_default(cli: Cli, fake: FakeService, code: Path) -> None:
    def end(request: Any) -> Any:
        fake.add(fake.jobs["job0"].model_copy(update={"state": JobState.SUCCEEDED}))
        return fake.answer(request)

    fake.faults = [("/stream", end)]
    result = cli("submit", "train:train", "-f", str(code), "-b", "64")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "job job0 queued"
    assert "job job0 succeeded" in result.stdout


# ---- looking


def test_ls(cli: Cli, fake: FakeService) -> None:
    assert cli("ls").stdout == "no jobs\n"
    fake.add(make_view("j1", JobState.SUCCEEDED, steps_done=20, num_steps=20, spec=make_spec(name="digits")))
    fake.add(make_view("j2", JobState.QUEUED, reason="waiting for 4 CPUs\nmore"))
    lines = cli("ls").stdout.splitlines()
    assert lines[0].split() == ["JOB", "NAME", "STATE", "STEP", "TRAINERS", "CREATED", "REASON"]
    assert lines[1].split()[:5] == ["j2", "job", "queued", "0", "0/1"]
    assert lines[1].rstrip().endswith("waiting for 4 CPUs")
    assert lines[2].split()[:4] == ["j1", "digits", "succeeded", "20/20"]
    assert [view["id"] for view in json.loads(cli("ls", "--json", "--state", "queued").stdout)] == ["j2"]
    assert cli("ls", "--state", "failed").stdout == "no failed jobs\n"


def test_show_tells_spec_reason_timeline_and_traceback(cli: Cli, fake: FakeService) -> None:
    failing(fake)
    result = cli("show", "last")
    assert result.exit_code == 0
    for part in (
        "bad1 (job)",
        "failed",
        "64 samples in 8 sub-tasks, seed 0",
        "train:train in package aaaaaaaaaaaa",
        "1 CPU, 1 thread",
    ):
        assert part in result.stdout
    assert "    +1.00 s  failed: ValueError: boom" in result.stdout
    assert result.stdout.endswith("\nTraceback (most recent call last):\nValueError: boom\n")
    document = json.loads(cli("show", "bad", "--json").stdout)
    assert (document["id"], len(document["events"]), document["spec"]["batch_size"]) == ("bad1", 2, 64)


def test_show_debug_tells_attempts_generations_last_events_and_stories(cli: Cli, fake: FakeService) -> None:
    failing(fake)
    view = fake.jobs["bad1"]
    story = [f"03:04:0{n}.000000 LeafMade(number={n}) -> Merge()" for n in range(3)] + ["\x1b[2Jcleared\nnext"]
    told = {"source": "bad1-1/supervisor-1f0c"}
    fake.events = [
        make_event(1, EventKind.STATE, state="starting", reason="a place is free").model_copy(
            update={"source": "service"}
        ),
        make_event(2, EventKind.TRAINER_READY, trainer="t0", pid=7, node="n1").model_copy(update=told),
        make_event(3, EventKind.GENERATION, generation=1, trainers=["t0"], step=0).model_copy(update=told),
        *(make_event(n, EventKind.WARNING, message=f"number {n}").model_copy(update=told) for n in range(4, 30)),
        make_event(30, EventKind.TRAINER_LOST, trainer="t0", reason="AssertionError", story=story).model_copy(
            update=told
        ),
    ]
    assert "LeafMade" not in cli("show", view.id).stdout
    lines = cli("show", view.id, "--debug").stdout.splitlines()
    assert any(line.startswith("attempts: ") and "a" * 64 in line for line in lines)
    assert "  bad1-1/supervisor-1f0c told 29 events, from +2.00 s to +30.00 s" in lines
    assert "    +2.00 s  bad1-1: trainer t0 is ready (pid 7, node n1)" in lines
    assert '    +3.00 s  bad1-1: {"generation": 1, "trainers": ["t0"], "step": 0}' in lines
    begin = lines.index("the last 20 of 30 events:")
    assert lines[begin + 1].endswith('11 bad1-1/supervisor-1f0c 11 warning: {"message": "number 11"}')
    assert lines[begin + 20].endswith('trainer_lost: {"trainer": "t0", "reason": "AssertionError"}')
    begin = lines.index("the story told at +30.00 s by bad1-1/supervisor-1f0c: lost trainer t0: AssertionError")
    assert lines[begin + 1 : begin + 5] == [*(f"  {line}" for line in story[:3]), "  cleared next"]
    document = json.loads(cli("show", view.id, "--json", "--debug").stdout)
    assert document["events"][-1]["data"]["story"] == story


def test_show_says_of_which_kinds_the_trainers_nodes_are(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1", JobState.RUNNING))
    spot = {"group": "gpu-spot", "market": "gke-spot", "device": "L4"}
    fake.events = [
        *(make_event(n, EventKind.TRAINER_READY, trainer=f"t{n}", pid=7, node="n", **spot) for n in (1, 2, 3)),
        make_event(4, EventKind.TRAINER_READY, trainer="t4", pid=7, node="n", group="gpu", market=None),
        make_event(5, EventKind.TRAINER_READY, trainer="t5", pid=7, node="n"),
        make_event(6, EventKind.GENERATION, generation=1, trainers=["t1", "t2"], step=0),
        make_event(7, EventKind.GENERATION, generation=2, trainers=["t2", "t3", "t4", "t5"], step=0),
    ]
    said = cli("show", "j1").stdout
    assert re.search(r"^nodes +1 of gpu, 2 of gpu-spot \(gke-spot\) *$", said, re.MULTILINE)
    assert "trainer t1 is ready (pid 7, node n, group gpu-spot, market gke-spot, device L4)" in said


def test_text_of_users_is_no_markup(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1", JobState.FAILED, reason="[bold]KeyError: '[/x]'[/bold]"))
    for command in ("ls", "show"):
        assert "[bold]KeyError: '[/x]'[/bold]" in cli(*([command] if command == "ls" else [command, "j1"])).stdout


# ---- acting


def test_resize(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    assert cli("resize", "j1", "4").stdout == "job j1: from 1 to 4 trainers\n"
    assert fake.jobs["j1"].wanted_trainers == 4


def test_cancel(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    assert cli("cancel", "j1").stdout == "job j1 is cancelled\n"
    assert cli("cancel", "j1").stdout == "job j1 had already been cancelled\n"


def test_rm_deletes_what_it_names_and_nothing_when_one_is_unknown(cli: Cli, fake: FakeService) -> None:
    for name in ("abc1", "abd2", "xyz3"):
        fake.add(make_view(name, JobState.SUCCEEDED))
    result = cli("rm", "abc", "nobody")
    assert result.exit_code == 2
    assert set(fake.jobs) == {"abc1", "abd2", "xyz3"}
    assert cli("rm", "abc", "abc1", "last").stdout == "deleted abc1 (job)\ndeleted xyz3 (job)\n"
    assert set(fake.jobs) == {"abd2"}
    assert [dict(r.url.params) for r in fake.requests if r.method == "DELETE"] == [{"checkpoints": "false"}] * 2
    cli("rm", "abd2", "--checkpoints")
    assert dict(fake.requests[-1].url.params) == {"checkpoints": "true"}


def test_rm_of_a_job_that_goes_on_says_what_to_do(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    result = cli("rm", "j1")
    assert (result.exit_code, result.stderr) == (2, "surefoot: job j1 is running: cancel it first\n")


# ---- ledgers


def test_ledger_in_three_forms(cli: Cli, fake: FakeService) -> None:
    fake.rows = [make_row(0, loss=0.1), make_row(1, loss=0.30000000000000004, accuracy=1.0)]
    fake.add(make_view("j1"))
    table = cli("ledger", "j1").stdout.splitlines()
    assert table[0].split() == ["STEP", "SAMPLES", "DIGEST", "loss", "accuracy", "GENERATION", "TRAINERS", "TIME"]
    assert table[1].split() == ["0", "0+64", "0" * 32, "0.1", "1", "1", "100", "ms"]
    text = cli("ledger", "j1", "--csv").stdout.splitlines()
    assert text[0] == "step,first_sample,num_samples,digest,loss,accuracy,generation,trainers,seconds"
    assert text[2] == f"1,64,64,{1:032x},0.30000000000000004,1.0,1,1,0.1"
    document = json.loads(cli("ledger", "j1", "--json").stdout)
    assert (document["job"], len(document["rows"])) == ("j1", 2)
    assert cli("ledger", "j1", "--json", "--csv").exit_code == 2


@pytest.mark.parametrize("num_rows", [0, 1, 2_500])
def test_ledgers_of_any_length_are_printed_whole(cli: Cli, fake: FakeService, num_rows: int) -> None:
    """Memory does not grow with the ledger; a name that comes late has the heads of the table told again, and is in those of the CSV."""
    fake.rows = [make_row(n, many={"loss": 0.5} if n < 2_000 else {"loss": 0.5, "late": 1.0}) for n in range(num_rows)]
    fake.add(make_view("j1"))
    table = cli("ledger", "j1").stdout.splitlines()
    heads = [line.split() for line in table if line.split()[0] == "STEP"]
    assert [line.split()[0] for line in table if line.split()[0].isdigit()] == [str(n) for n in range(num_rows)]
    assert [("late" in head) for head in heads] == ([False, True] if num_rows > 2_000 else [False] * bool(num_rows))
    lines = cli("ledger", "j1", "--csv").stdout.splitlines()
    assert (len(lines), "late" in lines[0]) == (num_rows + 1, num_rows > 2_000)
    document = json.loads(cli("ledger", "j1", "--json").stdout)
    assert document["rows"] == [row.model_dump(mode="json") for row in fake.rows]


def test_diff_of_identical_ledgers(cli: Cli, fake: FakeService, tmp_path: Path) -> None:
    fake.rows = [make_row(n) for n in range(3)]
    fake.add(make_view("j1", JobState.SUCCEEDED))
    file = tmp_path / "ledger.json"
    file.write_text(cli("ledger", "j1", "--json").stdout)
    result = cli("diff", "j1", str(file))
    assert (result.exit_code, result.stdout) == (0, "identical (3 steps)\n")


def test_diff_names_the_step_and_what_differs(cli: Cli, fake: FakeService, tmp_path: Path) -> None:
    fake.rows = [make_row(n) for n in range(3)]
    fake.add(make_view("j1", JobState.SUCCEEDED))
    file = tmp_path / "other.json"
    file.write_text(dump([make_row(0), make_row(1, loss=0.25), make_row(2)]))
    result = cli("diff", "j1", str(file))
    assert (result.exit_code, result.stdout) == (
        1,
        "differ at step 1, after 1 identical step\n  loss: 0.5 against 0.25\n",
    )


def test_diff_of_two_jobs_tells_what_they_were_told(
    cli: Cli, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(make_view("j1", JobState.SUCCEEDED, digest="a" * 32))
    fake.add(make_view("j2", JobState.RUNNING, spec=make_spec(seed=1)))
    page = fake._ledger

    def own_rows(request: Any) -> Any:
        fake.rows = [make_row(0)] if "/j1/" in request.url.path else [make_row(0, loss=2.0)]
        return page(request)

    monkeypatch.setattr(fake, "_ledger", own_rows)
    result = cli("diff", "j1", "j2")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "differ at step 0",
        "  loss: 1.0 against 2.0",
        "  the specs differ in seed: 0 against 1",
        "  job j2 has not ended yet (running)",
    ]


def test_diff_of_a_job_that_began_from_the_others_checkpoint(cli: Cli, fake: FakeService, tmp_path: Path) -> None:
    fake.rows = [make_row(n) for n in range(2, 5)]
    fake.add(make_view("j1", JobState.SUCCEEDED, spec=make_spec(restore="/other/step-2")))
    file = tmp_path / "other.json"
    file.write_text(dump([make_row(n) for n in range(5)]))
    result = cli("diff", "j1", str(file))
    assert (result.exit_code, result.stdout) == (0, "identical (3 steps from step 2 on)\n")


def test_show_lists_what_failed_and_what_it_cost(cli: Cli, fake: FakeService) -> None:
    fake.events = [
        make_event(1, EventKind.TRAINER_LOST, trainer="t1", step=5, reason="its process died"),
        make_event(2, EventKind.RECOVERED, generation=2, step=5, seconds=0.25, sub_tasks_again=2),
        make_event(3, EventKind.GENERATION, generation=3, trainers=["t0"], reason=SUPERVISOR_RESTARTED),
    ]
    fake.add(make_view("j1", JobState.SUCCEEDED))
    shown = cli("show", "j1").stdout
    assert "failures: 2, which cost 250 ms in all" in shown
    assert "lost trainer t1 at step 5: its process died  (250 ms)" in shown
    assert SUPERVISOR_RESTARTED in shown


def test_diff_sees_final_states(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1", JobState.SUCCEEDED, digest="a" * 32))
    fake.add(make_view("j2", JobState.SUCCEEDED, digest="b" * 32))
    result = cli("diff", "j1", "j2")
    assert result.exit_code == 1
    assert "the final states differ" in result.stdout


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "nope"], "there is no job 'nope'"),
        (["show", "A/B"], "no job id"),
        (
            ["submit", "train:train", "-f", "CODE", "-b", "63", "--detach"],
            "batch_size 63 is not a multiple of sub_tasks 8",
        ),
        (
            ["submit", "train:train", "-f", "CODE", "-b", "64", "--sub-tasks", "0"],
            "sub_tasks: Input should be greater than or equal to 1",
        ),
        (
            ["submit", "train:train", "-f", "CODE", "-b", "64", "--max-trainers", "9"],
            "max_trainers 9 is above sub_tasks 8",
        ),
        (
            ["submit", "train:train", "-f", "CODE", "-b", "64", "--min-trainers", "3", "--max-trainers", "2"],
            "min_trainers 3 is above",
        ),
        (["submit", "train:trian", "-f", "CODE", "-b", "64"], "did you mean 'train'?"),
        (["submit", "nothing:train", "-f", "CODE", "-b", "64"], "there is no module 'nothing'"),
        (["submit", "train:train", "-f", "CODE", "-b", "64", "--set", "x"], "--set 'x' must look like KEY=VALUE"),
        (
            ["submit", "train:train", "-f", "CODE", "-b", "64", "--config", "/nowhere.json"],
            "--config /nowhere.json cannot be read",
        ),
        (["submit", "train:train", "-f", "CODE"], "--batch-size is missing"),
        (["submit", "train:train", "-f", "CODE", "-b", "many"], "integer"),
        (["resize", "j1", "0"], "this resize is not possible"),
        (["diff", "j1", "CODE/train.py"], "train.py is no ledger"),
        (["--url", "nonsense", "ls"], "no address of a control plane"),
        (["frobnicate"], "No such command"),
    ],
)
def test_mistakes_are_told_on_stderr_with_2_and_change_nothing(
    cli: Cli, fake: FakeService, code: Path, arguments: list[str], told: str
) -> None:
    fake.add(make_view("j1"))
    before = dict(fake.jobs)
    result = cli(*(argument.replace("CODE", str(code)) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert (fake.jobs, fake.uploads) == (before, 0)


def test_a_refused_request_is_told_field_by_field(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    fake.faults = [
        (
            "/resize",
            lambda request: problem(422, "9 is ...", (("body.trainers", "9 is not between min_trainers 1 and 8"),)),
        )
    ]
    result = cli("resize", "j1", "9")
    assert result.exit_code == 2
    assert (
        result.stderr
        == "surefoot: the control plane refused this:\n  trainers: 9 is not between min_trainers 1 and 8\n"
    )


def test_a_conflict_is_told_without_http_words(cli: Cli, fake: FakeService) -> None:
    fake.add(make_view("j1"))
    fake.faults = [("/resize", lambda request: problem(409, "job j1 is being cancelled"))]
    result = cli("resize", "j1", "2")
    assert (result.exit_code, result.stderr) == (2, "surefoot: job j1 is being cancelled\n")


def test_no_control_plane(cli: Cli, fake: FakeService) -> None:
    fake.faults = [("/jobs", refuse)] * 5
    result = cli("ls")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "surefoot: no control plane answers at http://127.0.0.1:8470: start one with `surefoot up` "
        "(jobs, logs and files of an earlier one are there again then)"
    )
    assert result.stderr.count("\n") == 1


def test_debug_shows_the_traceback(cli: Cli, fake: FakeService) -> None:
    result = cli("--debug", "show", "nope")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("surefoot: there is no job 'nope'")


# ---- plugins


def test_up_hands_everything_over(cli: Cli, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("surefoot.cli.local.load", lambda name: lambda **options: given.update({name: options}))
    assert cli("up", "--port", "0", "--cpus", "2", "--data", str(code)).exit_code == 0
    assert given == {"up": {"data": code, "host": None, "port": 0, "ray_address": None, "cpus": 2, "as_json": False}}


@pytest.mark.parametrize(("ok", "exit_code"), [(True, 0), (False, 1)])
def test_check_prints_the_report_and_ends_with_its_verdict(
    cli: Cli, code: Path, monkeypatch: pytest.MonkeyPatch, ok: bool, exit_code: int
) -> None:
    given: dict[str, Any] = {}

    def check(**options: Any) -> Any:
        given.update(options)
        return SimpleNamespace(ok=ok, render=lambda: ["1 trainer  same", "2 trainers  same"])

    monkeypatch.setattr("surefoot.cli.local.load", lambda name: check)
    result = cli("check", "train:train", "-f", str(code), "-b", "64", "--set", "lr=1")
    assert (result.exit_code, result.stdout) == (exit_code, "1 trainer  same\n2 trainers  same\n")
    assert (given["entrypoint"], given["folder"], given["config"], given["batch_size"]) == (
        "train:train",
        code,
        {"lr": 1},
        64,
    )


def test_check_and_up_take_what_the_command_line_gives() -> None:
    for name, command in (("check", local.check), ("up", local.up)):
        taken = inspect.signature(plugins.load(name)).parameters
        # a report is printed here, whatever made it
        renamed = {"settings": "config"} | ({"as_json": "config"} if name == "check" else {})
        options = {renamed.get(option, option) for option in inspect.signature(command).parameters} - {"context"}
        assert options <= set(taken), name


def test_a_missing_part_names_its_extra(cli: Cli, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise MissingExtraError(
            "surefoot's 'up' is not installed here; install it with: pip install 'surefoot[service]'"
        )

    monkeypatch.setattr("surefoot.cli.local.load", load)
    result = cli("up")
    assert result.exit_code == 2
    assert "pip install 'surefoot[service]'" in result.stderr


# ---- help


COMMANDS = [
    *("up", "submit", "ls", "show", "watch", "resize", "cancel", "budget"),
    *("pause", "resume", "checkpoint", "checkpoints", "model", "chaos"),
    *("metrics", "track", "logs", "files", "ledger", "diff", "rm", "check", "schema", "version"),
]


# commands of commands
IN_GROUPS = [f"secret {name}" for name in ("set", "rotate", "list", "rm", "rotate-key")]


@pytest.mark.parametrize("command", [*COMMANDS, *IN_GROUPS])
def test_every_command_explains_itself_with_an_example(cli: Cli, command: str) -> None:
    result = cli(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: surefoot {command}" in " ".join(result.stdout.split())


def test_the_commands_are_these(cli: Cli) -> None:
    shown = cli("--help").stdout
    listed = [
        line.split()[1]
        for line in shown.partition("Commands")[2].splitlines()
        if line.startswith("│ ") and line[2] != " "
    ]
    assert listed == [*COMMANDS, "secret"]
    assert cli().exit_code == 2  # help, as nothing was asked for
    assert cli("version").stdout.startswith("surefoot ")
