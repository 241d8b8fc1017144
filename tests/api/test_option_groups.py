"""Options that stand once: several commands take them, alone or in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from surefoot.cli.app import app
from surefoot.cli.option_groups import with_groups


def options_of(command: str) -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    return {p.name: p for p in root.commands[command].params if p.param_type_name == "option"}


@pytest.mark.parametrize(("one", "other", "num_shared"), [("submit", "check", 10), ("submit", "budget", 2)])
def test_an_option_of_two_commands_is_the_same_in_both(one: str, other: str, num_shared: int) -> None:
    ones, others = options_of(one), options_of(other)
    shared = (ones.keys() & others.keys()) - {"as_json"}
    assert len(shared) == num_shared
    for name in shared:
        for about in ("help", "opts", "metavar", "multiple"):
            assert getattr(ones[name], about) == getattr(others[name], about), (name, about)
        # what a job's file may say need not be said on the command line
        assert others[name].required or ones[name].default == others[name].default, name


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    panel: ClassVar[str] = "Colours"

    red: Annotated[int, typer.Option(help="How much red.")] = 3
    blue: Annotated[list[str] | None, typer.Option("--azure")] = None


def test_a_group_is_one_argument_and_its_options_stand_below_its_panel() -> None:
    taken: list[Any] = []
    made = typer.Typer()

    @made.command()
    @with_groups
    def paint(context: typer.Context, what: str, *, colours: Colours, twice: bool = False) -> None:
        """Paint it."""
        taken.append((context.get_parameter_source("red"), what, colours, twice))

    assert CliRunner().invoke(made, ["wall", "--azure", "a", "--azure", "b", "--twice"]).exit_code == 0
    [(source, *rest)] = taken
    assert source.name == "DEFAULT"
    assert rest == ["wall", Colours(red=3, blue=["a", "b"]), True]
    shown = CliRunner().invoke(made, ["--help"]).stdout
    assert "Paint it." in shown
    assert "─ Colours ─" in shown
    assert "[default: 3]" in shown
