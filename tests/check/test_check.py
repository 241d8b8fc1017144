"""`surefoot check` catches planted violations by name, and passes clean code. Show 6."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from surefoot.errors import SpecError
from surefoot.spec import JobSpec
from surefoot_actors.check import Finding, Kind, check, compare
from surefoot_actors.check.children import REFERENCE, Probes
from surefoot_actors.check.extent import Extent
from surefoot_actors.check.templates import Templates
from surefoot_actors.check.verdict import judge

JOBS = Path(__file__).parent / "jobs"
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 300.0

# train function: what it is caught as, and the line that is named ("": none is)
PLANTED = {
    "numpy_rng": (Kind.BROKEN_RULE, "for step in run.steps(50):"),
    "system_random": (Kind.OWN_RANDOMNESS, "loop(run, lambda loss, step: loss * (1 + source.random()))"),
    "urandom": (Kind.OWN_RANDOMNESS, "os.urandom(1)"),
    "pid_generator": (Kind.BROKEN_RULE, "for step in run.steps(50):"),
    "counter": (Kind.PROCESS_STATE, "calls += 1"),
    "seeded_generator": (Kind.BROKEN_RULE, "for step in run.steps(50):"),
    "clock": (Kind.WALL_CLOCK, "time.time() % 1"),
    "stopwatch": (Kind.WALL_CLOCK, "time.perf_counter()"),
    "date": (Kind.WALL_CLOCK, "datetime.now().microsecond"),
    "strings": (Kind.HASH_ORDER, "in enumerate(NAMES)"),
    "scheduler": (Kind.BROKEN_RULE, "schedule.step()"),
    "late_scheduler": (Kind.BROKEN_RULE, "schedule.step()"),
    "warmup": (Kind.UNTRACKED_STATE, ""),
    "breaks": (Kind.BROKEN_RULE, "optimizer.step()"),
}


@pytest.fixture
def out() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def templates() -> Iterator[Templates]:
    with Templates(spec_of("clean")) as templates:
        yield templates


def spec_of(name: str) -> JobSpec:
    return JobSpec(package="0" * 64, entrypoint=f"planted:{name}", batch_size=16, seed=7)


def text_at(line: str) -> str:
    name, _, number = line.partition(":")
    return (JOBS / name).read_text().splitlines()[int(number) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_caught_by_name_and_line(name: str, out: Path, templates: Templates) -> None:
    kind, text = PLANTED[name]
    findings = judge(Probes(templates, spec_of(name), JOBS, out, PATIENCE_S).run(5))
    assert [finding.kind for finding in findings] == [kind], findings
    assert_named(text, findings[0])


def assert_named(text: str, finding: Finding) -> None:
    """It names the line with this text, or, where that cannot be known, says what is wrong all the same."""
    if text:
        assert text in text_at(finding.lines[0]), finding
    else:
        assert "something is carried from step to step" in finding.message


# train function: what is only seen by training until an epoch has ended
LATE = {
    "halves_after_an_epoch": (Kind.UNTRACKED_STATE, ""),
    "unfreezes_by_a_counter": (Kind.UNTRACKED_STATE, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LATE)
def test_what_begins_after_an_epoch_is_seen(name: str, out: Path, templates: Templates) -> None:
    kind, text = LATE[name]
    few, far = out / "few", out / "far"
    few.mkdir()
    far.mkdir()
    assert judge(Probes(templates, spec_of(name), JOBS, few, PATIENCE_S).run(6)) == ()
    seen = Probes(templates, spec_of(name), JOBS, far, PATIENCE_S).run(Extent(batch_size=16))
    assert len(seen[REFERENCE].rows) == 13
    findings = judge(seen)
    assert [finding.kind for finding in findings] == [kind], findings
    assert_named(text, findings[0])


@pytest.mark.slow
def test_code_that_raises_is_told_as_that(out: Path, templates: Templates) -> None:
    seen = Probes(templates, spec_of("raises"), JOBS, out, PATIENCE_S).run(5)
    (finding,) = judge(seen)
    assert finding.kind is Kind.RAISES
    assert 'planted.py", line' in finding.message
    assert '{}["missing"]' in text_at(finding.lines[0])


@pytest.mark.slow
def test_code_that_raises_for_joiners_only_is_told_as_that(out: Path, templates: Templates) -> None:
    (finding,) = judge(Probes(templates, spec_of("raises_for_joiners"), JOBS, out, PATIENCE_S).run(5))
    assert finding.kind is Kind.RAISES_IN_SOME
    assert "fails in 'a joiner at step 1' (also: a joiner at step 2, a joiner at step 4)" in finding.message
    assert "loss * scale[0]" in text_at(finding.lines[0])


@pytest.mark.slow
def test_a_process_that_dies_or_does_not_end_is_told_and_the_next_is_none_the_worse(
    out: Path, templates: Templates
) -> None:
    told = (("dies", PATIENCE_S, "died"), ("hangs", 3.0, "no end"), ("raises", PATIENCE_S, "KeyError"))
    for name, patience_s, kind in told:
        (out / name).mkdir()
        reference = Probes(templates, spec_of(name), JOBS, out / name, patience_s).run(5)[REFERENCE]
        assert reference.failure is not None
        assert reference.failure.kind == kind


@pytest.mark.slow
def test_clean_code_that_reads_clocks_and_writes_files_passes_and_leaves_nothing(
    tmp_path: Path, templates: Templates
) -> None:
    folder = tmp_path / "code"
    shutil.copytree(JOBS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notes.txt").write_text("mine")
    report = compare(templates, spec_of("clean"), folder, None)
    assert report.ok, "\n".join(report.render())
    assert report.steps == 7  # an epoch of 4, and 3 more
    assert all(scenario.same for scenario in report.scenarios)
    assert [s.name for s in report.scenarios][-1] == "2 trainers, one killed, a fresh one joins"
    assert report.written == ("notes.txt", "runs")
    assert "your code wrote: notes.txt, runs (in a copy" in "\n".join(report.render())
    assert sorted(path.name for path in folder.rglob("*")) == ["notes.txt", "planted.py"]
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_rule_that_is_broken_at_once_is_the_report() -> None:
    report = check(entrypoint="planted:breaks", folder=JOBS, batch_size=16)
    assert [finding.kind for finding in report.findings] == [Kind.BROKEN_RULE]
    assert report.render()[-1].startswith("it does not keep the promise")
    assert [scenario.fails for scenario in report.scenarios].count(True) == 1


@pytest.mark.slow
def test_real_trainers_see_a_violation_too(templates: Templates) -> None:
    report = compare(templates, spec_of("counter"), JOBS, 5)
    assert [finding.kind for finding in report.findings] == [Kind.PROCESS_STATE]
    same = {scenario.name: scenario.same for scenario in report.scenarios}
    assert same["1 trainer, real processes"]
    assert same["3 trainers, real processes"] is False
    assert same["2 trainers, one killed, a fresh one joins"] is False
    assert report.findings[0].step == 0
    assert report.findings[0].tensor.startswith("model.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "batch_size", "config"),
    [
        ("digits", 64, {}),
        ("charlm", 16, {"width": 32, "heads": 2, "layers": 1, "context": 16, "text_bytes": 100_000, "eval_every": 3}),
    ],
)
def test_the_examples_pass(example: str, batch_size: int, config: dict[str, int], templates: Templates) -> None:
    spec = JobSpec(package="0" * 64, entrypoint="train:train", batch_size=batch_size, config=config)
    report = compare(templates, spec, EXAMPLES / example, 5)
    assert report.ok, "\n".join(report.render())


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(SpecError, match="steps 3 is below 5"):
        check(entrypoint="planted:clean", folder=JOBS, batch_size=16, steps=3)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match="not a multiple"):
        check(entrypoint="planted:clean", folder=JOBS, batch_size=15)


@pytest.mark.slow
def test_code_is_tried_on_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied once, before all trials; what they make in the node's cache goes with them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "factor.txt").write_text("2.5")
    monkeypatch.setenv("SUREFOOT_CACHE_DIR", str(tmp_path / "cache"))
    report = check(
        entrypoint="planted:reads", folder=JOBS, batch_size=16, sub_tasks=2, steps=5, seed=7,
        data={"train": {"url": str(tmp_path / "data"), "copy": True}},
    )  # fmt: skip
    assert report.ok, report
    assert [file.name for file in (tmp_path / "cache").rglob("factor*")] == ["factor.txt"]
