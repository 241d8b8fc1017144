"""What mkdocs asks at each build: pages that are made out of the code, in place of a marker in them, and what other pages take in.

`<!-- commands -->` becomes the reference of the command line, `<!-- openapi -->` that of REST, `<!-- architecture -->` what
ARCHITECTURE.md says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "tests" / "service" / "openapi.json"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is made in the place of its marker (called by mkdocs for each page)."""
    for marker, make in MADE.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(make()))
    return markdown


# ---- the command line


def commands() -> Iterator[str]:
    """Describe every command: what it does, its arguments and options."""
    from surefoot.cli.app import app

    root: Any = typer.main.get_command(app)
    yield from ("## Before any command", "", *_parameters(root), "")
    for name, command in _named("", root):
        yield from (
            f"## surefoot {name}",
            "",
            *_paragraphs(command.help),
            "",
            "```sh",
            _usage(name, command),
            "```",
            "",
        )
        yield from (*_parameters(command), "")


def _named(before: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Yield commands by name, those of commands of commands by both names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _named(f"{before}{name} ", command)
        else:
            yield f"{before}{name}", command


def _usage(name: str, command: Any) -> str:
    arguments = [_shown(p) for p in command.params if p.param_type_name == "argument"]
    return " ".join(["surefoot", name, "[OPTIONS]", *arguments])


def _shown(argument: Any) -> str:
    name = (argument.metavar or str(argument.name).upper()).strip("[]{}")
    return name if argument.required else f"[{name}]"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        example = line.removeprefix("Example: ")
        yield f"For example: `{example}`" if example != line else line
        yield ""


def _parameters(command: Any) -> Iterator[str]:
    listed = [p for p in command.params if getattr(p, "help", None)]
    if not listed:
        return
    yield from ("| | | default |", "|---|---|---|")
    for parameter in listed:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            names = f"`{_shown(parameter)}`"
        yield f"| {names} | {_cell(parameter.help)} | {_default(parameter)} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    value = parameter.default
    nothing = value is None or value is False or value in ((), []) or callable(value)
    return "" if nothing else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(_ANSI.sub("", text).split()).replace("|", "\\|").replace("<", "&lt;")


# ---- REST


def rest() -> Iterator[str]:
    """Describe every operation and schema of the OpenAPI document that the tests pin."""
    document = json.loads(OPENAPI.read_text())
    for path, item in sorted(document["paths"].items()):
        for method, operation in item.items():
            yield from _operation(method, path, operation)
    yield from ("## Schemas", "")
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {method.upper()} {path}", "")
    if description := operation.get("description"):
        yield from (*_paragraphs(description), "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | | |", "|---|---|---|---|")
        for each in parameters:
            told = _cell(each.get("description", ""))
            yield f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {told} |"
        yield ""
    if body := operation.get("requestBody"):
        yield from (f"Body: {_contents(body)}", "")
    yield from ("| answer | | body |", "|---|---|---|")
    for status, answer in sorted(operation["responses"].items()):
        yield f"| {status} | {_cell(answer.get('description', ''))} | {_contents(answer)} |"
    yield ""


def _contents(holder: dict[str, Any]) -> str:
    return ", ".join(f"{_type(of.get('schema', {}))} (`{kind}`)" for kind, of in holder.get("content", {}).items())


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {name}", "", *_paragraphs(schema.get("description", "")), "")
    if "enum" in schema:
        yield from ("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".", "")
    if "anyOf" in schema:
        yield from ("One of " + _type(schema) + ".", "")
    if properties := schema.get("properties"):
        yield from ("| field | | default | |", "|---|---|---|---|")
        for field, of in properties.items():
            required = field in schema.get("required", ())
            default = "must be given" if required else f"`{json.dumps(of['default'])}`" if "default" in of else ""
            yield f"| `{field}` | {_type(of)} | {default} | {_cell(of.get('description', ''))} |"
        yield ""


def _type(schema: dict[str, Any]) -> str:
    """Say in a few words what a schema takes."""
    if reference := schema.get("$ref"):
        name = str(reference).rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(_type(part) for part in parts)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    bounds = [f"{said} {schema[key]}" for key, said in _BOUNDS.items() if key in schema]
    return ", ".join([str(schema.get("format", kind)), *bounds])


_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
    "maxLength": "length at most",
}


def architecture() -> Iterator[str]:
    """Yield ARCHITECTURE.md without its title."""
    yield from (ROOT / "ARCHITECTURE.md").read_text().splitlines()[1:]


MADE: dict[str, Callable[[], Iterator[str]]] = {
    "<!-- commands -->": commands,
    "<!-- openapi -->": rest,
    "<!-- architecture -->": architecture,
}
