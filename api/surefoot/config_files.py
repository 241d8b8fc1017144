"""Files that people write: a config, or a whole job, as YAML, TOML or JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from surefoot._paths import why_not
from surefoot.errors import MissingExtraError, UserError

__all__ = ["is_job_file", "read_file"]

_YAML, _TOML, _JSON = (".yaml", ".yml"), (".toml",), (".json",)
_MOST_BYTES = 1024 * 1024
# YAML 1.2's numbers: 1e-3 is one, and 1:30 and 010 are none
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_INT = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(~|null|Null|NULL|)$")


def is_job_file(text: str) -> bool:
    """Whether what stands where an entrypoint may stand names a job's file."""
    return Path(text).suffix.lower() in (*_YAML, *_TOML, *_JSON)


def read_file(file: Path, what: str) -> dict[str, Any]:
    """Return the mapping that a file holds, read by what its name ends with; JSON where that says nothing.

    `what` names it in errors, "--config" say. Raises UserError, MissingExtraError.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{what} {file} has more than {_MOST_BYTES} bytes")
        loaded = _reader(file)(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {file} cannot be read: {why_not(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{what} {file} must hold names with values, not {type(loaded).__name__}")
    if wrong := [key for key in loaded if not isinstance(key, str)]:
        raise UserError(f"{what} {file}: {wrong[0]!r} is no text; write it in quotes")
    return loaded


def _reader(file: Path) -> Callable[[str], Any]:
    kind = file.suffix.lower()
    return _yaml if kind in _YAML else _toml if kind in _TOML else json.loads


def _toml(text: str) -> Any:
    if sys.version_info < (3, 11):
        raise UserError("TOML is read by Python 3.11 or newer; write YAML or JSON")
    import tomllib  # novm

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    """As YAML 1.2 has it: `yes` and dates are texts, 1e-3 is a number. A name that is there twice is an error."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError(
            "YAML cannot be read here: install PyYAML, with pip install 'surefoot[yaml]', or write TOML or JSON"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    for tag, pattern, first in (
        ("bool", _BOOL, list("tTfF")),
        ("null", _NULL, ["~", "n", "N", ""]),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, first)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UserError(f"this is no YAML: {error}") from None
