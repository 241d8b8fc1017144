"""What the real Helm says of the chart: lint, template and package, for every scenario, twice the same."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml

from .chart import CHART, DEFAULTS, SCENARIOS, objects, run, template, text, tool, values_of

ALL = (DEFAULTS, *SCENARIOS)


def test_the_scenarios_are_those_of_the_readme() -> None:
    assert set(SCENARIOS) == {"minimal", "production", "existing-ray", "air-gapped", "gke-spot"}
    said = (CHART / "README.md").read_text()
    assert [scenario for scenario in SCENARIOS if f"`{scenario}`" not in said] == []


@pytest.mark.parametrize("scenario", ALL)
def test_lint_is_strict(scenario: str) -> None:
    run(tool("helm"), "lint", "--strict", CHART, *values_of(scenario))


@pytest.mark.parametrize("scenario", ALL)
def test_rendered_twice_there_is_no_difference(scenario: str) -> None:
    assert template(scenario).stdout == text(scenario)
    assert len(objects(scenario)) > 10


@pytest.mark.parametrize("scenario", ALL)
def test_an_upgrade_renders_the_same(scenario: str) -> None:
    """Nothing depends on whether there was a release before."""
    assert template(scenario, "--is-upgrade").stdout == text(scenario)


def test_the_package_holds_what_it_needs(tmp_path: Path) -> None:
    run(tool("helm"), "package", CHART, "--destination", tmp_path)
    [package] = tmp_path.iterdir()
    with tarfile.open(package) as archive:
        names = {name.removeprefix("surefoot/") for name in archive.getnames()}
    assert {"README.md", "values.schema.json", "files/secrets.py", "templates/NOTES.txt"} <= names
    assert not [name for name in names if name.startswith("ci/")]


def test_another_release_beside_it_has_other_names() -> None:
    other = yaml.safe_load_all(template("production", release="second").stdout)
    names = {(one["kind"], one["metadata"]["name"]) for one in objects("production")}
    assert not names & {(one["kind"], one["metadata"]["name"]) for one in other if one}


def test_nothing_is_looked_up_or_drawn_at_random() -> None:
    """Argo CD and Flux render without a cluster, again and again."""
    words = ("lookup", "rand", "genCA", "genSigned", "uuidv4", "now ", "Capabilities")
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            code = "".join(
                part.partition("}}")[0]
                for part in path.read_text().split("{{")[1:]
                if not part.startswith(("/*", "- /*"))
            )
            assert [word for word in words if word in code] == [], path


@pytest.mark.parametrize("scenario", ALL)
def test_the_notes_say_where_it_is_and_what_opens_it(scenario: str) -> None:
    words = ["install", "surefoot", CHART, "--namespace", "team", "--dry-run=client", *values_of(scenario)]
    notes = run(tool("helm"), *words).stdout.partition("\nNOTES:\n")[2]
    assert "export SUREFOOT_URL=http" in notes
    secret = "surefoot-token" if scenario == "existing-ray" else "surefoot-secrets"
    assert f"export SUREFOOT_TOKEN=$(kubectl -n team get secret {secret} " in notes
    assert ("https://surefoot.example.com" in notes) == (scenario in ("production", "existing-ray"))
