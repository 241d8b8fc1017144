"""How commands name a job, are asked for JSON, and tell what they did."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel

from surefoot.cli.printing import say, say_words

__all__ = ["AsJson", "JobRef", "tell"]

JobRef = Annotated[str, typer.Argument(help="The job's id, a unique beginning of it, or 'last'.", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def tell(view: BaseModel, text: str, as_json: bool) -> None:
    """Print what was done: a sentence, or the thing as it is now."""
    if as_json:
        say(view.model_dump_json())
    else:
        say_words(text)
