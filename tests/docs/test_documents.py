"""Documents that do not lie: what they name is there, their links lead somewhere, their commands are the command line's."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from surefoot import errors
from surefoot.cli.app import app

from . import source
from .source import ROOT, blocks, documents, is_name, is_path, names, paths

DOCUMENTS = documents()
WALKS = [ROOT / "docs" / "architecture" / name for name in ("leaf.md", "lost-trainer.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

# Files that are made, or that are a user's: they are spoken of, but are not the project's.
_ELSEWHERE = {
    "train.py",
    "manifest.json",
    "queue.py",
    "httpx.py",
    "scripts/train.py",
    "service.json",
    "results/NAME.md",
}
_ELSEWHERE |= {"logging.py", "datasets.py", "folder/script.py"}
_ELSEWHERE |= {"site/", "dist/", "s3://bucket/runs", "~/.surefoot/"}


# Names that are spoken of because there is no such module, or only in a trainer.
_NO_MODULES = {"surefoot.api", "surefoot_actors.user_code.users.queue"}


def _id(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_name_of_a_module_or_function_is_there(document: Path) -> None:
    assert [name for name in names(document) if name not in _NO_MODULES and not is_name(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_file_that_is_spoken_of_is_there(document: Path) -> None:
    assert [path for path in paths(document) if path not in _ELSEWHERE and not is_path(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    dead = []
    for link in _LINK.findall(source.prose(document)):
        if re.match(r"\w+:", link):
            continue
        place, _, heading = link.partition("#")
        target = document if not place else (document.parent / place)
        if not target.exists() or (heading and target.suffix == ".md" and not _has_heading(target, heading)):
            dead.append(link)
    assert dead == []


SOURCES = [file for folder in ("api", "actors", "service") for file in sorted((ROOT / folder).rglob("*.py"))]
_NAMED = re.compile(r"`((?:surefoot|surefoot_actors|surefoot_service)(?:\.\w+)+)(?:\(\))?`")
_FILE = re.compile(r"(?<![\w/.*-])((?:\w+/)+\w+\.py|[a-z]+_[a-z_]+\.py|[A-Z]+\.md)\b")


def test_docstrings_and_comments_speak_of_what_there_is() -> None:
    gone = []
    for file in SOURCES:
        text = file.read_text()
        gone += [(file.name, name) for name in _NAMED.findall(text) if name not in _NO_MODULES and not is_name(name)]
        gone += [(file.name, path) for path in _FILE.findall(text) if path not in _ELSEWHERE and not is_path(path)]
    assert gone == []


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn, above = set(), ["SurefootError"]
    for line in (errors.__doc__ or "").splitlines():
        if (branch := re.match(r"^([│ ]*)[├└]── ((?:\w+Error(?: · )?)+)(?: \(also an? (\w+)\))?", line)) is None:
            continue
        depth = len(branch[1]) // 4 + 1
        for name in branch[2].split(" · "):
            drawn.add((name, above[depth - 1], branch[3]))
        above[depth:] = [branch[2]]
    classes = [
        thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, errors.SurefootError)
    ]
    made = {(c.__name__, *(base.__name__ for base in c.__bases__)) for c in classes if c is not errors.SurefootError}
    assert {tuple(name for name in branch if name) for branch in drawn} == made


def _has_heading(document: Path, heading: str) -> bool:
    text = document.read_text()
    if "<!-- openapi -->" in text:
        return True  # made at the build, which is strict about it
    if "<!-- architecture -->" in text:
        text += (ROOT / "ARCHITECTURE.md").read_text()
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return heading in {re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-") for text in found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_command_is_one_that_the_command_line_takes(document: Path) -> None:
    for line in _commands(document):
        _parse(line)


def _commands(document: Path) -> list[str]:
    lines = [line for block in blocks(document, "sh", "bash") for line in block.splitlines()]
    quoted = [text for text in source.quoted(document) if re.match(r"surefoot (--)?[a-z]+ .*-", text)]
    return [line for line in (*lines, *quoted) if line.strip().startswith("surefoot ")]


def _parse(line: str) -> None:
    root: Any = typer.main.get_command(app)
    words = shlex.split(re.sub(r" [|>&].*", "", line), comments=True)[1:]
    try:
        with root.make_context("surefoot", words) as context:
            command, within = root, context
            while hasattr(command, "resolve_command"):
                name, command, rest = command.resolve_command(within, [*within._protected_args, *within.args])
                within = command.make_context(name, rest, parent=within)
            within.close()
    except Exception as error:  # noqa: BLE001  any mistake in the line
        # typer brings a click of its own: its errors are known by what they have
        if getattr(error, "exit_code", None) != 0:  # 0: --help
            pytest.fail(f"{line!r}: {error!r}")


def test_every_example_in_help_is_one_that_the_command_line_takes() -> None:
    root: Any = typer.main.get_command(app)
    commands = [c for one in root.commands.values() for c in (one, *getattr(one, "commands", {}).values())]
    examples = [line for c in commands for line in re.findall(r"Example: (.+)", c.callback.__doc__ or "")]
    assert len(examples) == len(commands) - 1  # `secret` itself has none
    for line in examples:
        _parse(line)


def test_a_command_that_is_none_is_found() -> None:
    for line in ("surefoot submit train:train --bach 3", "surefoot resize last --now 3", "surefoot frobnicate"):
        with pytest.raises(pytest.fail.Exception):
            _parse(line)


def test_the_reference_of_commands_can_be_made_of_them() -> None:
    made = list(runpy.run_path(str(ROOT / "docs" / "hooks.py"))["commands"]())
    assert "surefoot files [OPTIONS] JOB [get] [PATH]" in made
    root: Any = typer.main.get_command(app)
    assert {f"## surefoot {name}" for name in root.commands if name != "secret"} <= set(made)
    assert {f"## surefoot secret {name}" for name in root.commands["secret"].commands} <= set(made)


def test_every_variable_of_the_environment_is_read_somewhere() -> None:
    settings = (ROOT / "service" / "surefoot_service" / "settings.py").read_text()
    known = {f"SUREFOOT_{field.upper()}" for field in re.findall(r"^    (\w+): ", settings, re.MULTILINE)}
    for folder in ("api/surefoot", "actors/surefoot_actors"):
        for file in (ROOT / folder).rglob("*.py"):
            known |= set(re.findall(r"SUREFOOT_[A-Z_]*[A-Z]", file.read_text()))
    spoken = {name for document in DOCUMENTS for name in re.findall(r"SUREFOOT_[A-Z_]*[A-Z]", document.read_text())}
    assert {"SUREFOOT_URL", "SUREFOOT_CHECKPOINTS"} <= spoken
    assert spoken <= known, spoken - known


def test_every_make_target_that_is_spoken_of_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken = {
        target
        for document in DOCUMENTS
        for text in (
            *source.quoted(document),
            *(line for block in blocks(document, "sh") for line in block.splitlines()),
        )
        for target in re.findall(r"^make ([a-z-]+)", text)
    }
    assert spoken - targets == set()
    assert {"test", "lint", "docs", "quick"} <= targets


@pytest.mark.parametrize("walk", WALKS, ids=_id)
def test_a_walk_is_at_most_ten_places_each_named_by_module_and_function(walk: Path) -> None:
    places = re.split(r"^\d+\. ", walk.read_text(), flags=re.MULTILINE)[1:]
    assert 5 <= len(places) <= 10
    for place in places:
        named = [n for n in re.findall(r"`([\w.]+)`", place) if n.startswith("surefoot_")]
        assert named, f"names no place: {place}"
        assert all(is_name(name) for name in named), named


def test_names_that_are_not_there_are_found() -> None:
    assert is_name("surefoot_actors.engine.exchange.merge.merge_round")
    assert is_name("surefoot_actors.trainer.training_side.TrainingSide.put_leaf")
    assert is_name("surefoot.errors")
    for gone in (
        "surefoot_actors.engine.exchange.merge.merged_round",
        "surefoot_actors.gone",
        "surefoot_actors.trainer.training_side.TrainingSide.put",
    ):
        assert not is_name(gone)
    assert is_path("engine/exchange/merge.py")
    assert not is_path("engine/exchange/merged.py")
