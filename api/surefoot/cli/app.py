"""The command line put together: global options, commands, and how errors end."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from surefoot.cli import durable, history, jobs, local, logs
from surefoot.cli.chaos import chaos
from surefoot.cli.files import files
from surefoot.cli.printing import text_width
from surefoot.cli.removal import rm
from surefoot.cli.secrets import secret
from surefoot.cli.session import MISTAKE, Session, exit_code, failure_text, say_error
from surefoot.cli.submit import submit
from surefoot.cli.track import metrics, track
from surefoot.cli.usage import budget
from surefoot.errors import SurefootError
from surefoot.printable import printable

__all__ = ["app"]


# What typer ends a command by: it knows itself what to tell. Its ClickException has another place in each version.
_OF_TYPER: tuple[type[Exception], ...] = (typer.Exit, typer.Abort, cast(type[Exception], typer.BadParameter.__mro__[2]))
# As a shell counts it: whoever read our output has gone, `head` say.
_NO_READER = 141
# columns that help in frames needs
_FRAMED = 80


class ClearErrors(TyperGroup):
    """Ends with one clear message on standard error, never with a traceback, unless --debug asks for it."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        try:
            return super().make_context(*args, **options)
        except _OF_TYPER as error:
            raise _plain(error)  # noqa: B904  it is the same one

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _OF_TYPER as error:
            raise _plain(error)  # noqa: B904  it is the same one
        except SurefootError as error:
            _tell(ctx, failure_text(error))
            raise typer.Exit(exit_code(error)) from None
        except BrokenPipeError:
            # what is still to be flushed at the end goes nowhere, without a word
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_NO_READER) from None
        except (OSError, UnicodeError) as error:
            _tell(ctx, _system_text(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            say_error("surefoot: interrupted")
            raise typer.Exit(MISTAKE) from None
        except Exception as error:  # noqa: BLE001  the process's edge: a mistake of ours, in a sentence
            _tell(ctx, f"this is a mistake of surefoot's own: {type(error).__name__}: {error} (--debug tells where)")
            raise typer.Exit(MISTAKE) from None


def _plain(error: Exception) -> Exception:
    """The error with what was typed as text alone: typer prints it itself, by no console of ours."""
    for name, value in vars(error).items():
        if isinstance(value, str):
            setattr(error, name, printable(value))
        elif isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            setattr(error, name, type(value)(map(printable, value)))
    return error


def _tell(ctx: Any, sentence: str) -> None:
    if isinstance(ctx.obj, Session) and ctx.obj.debug:
        say_error(traceback.format_exc().rstrip(), verbatim=True)
    say_error(f"surefoot: {sentence}")


def _system_text(error: OSError | UnicodeError) -> str:
    """What the system says, with the file that it is about."""
    if isinstance(error, UnicodeError):
        return f"this is no text that can be read or shown here: {error}"
    about = ", ".join(str(name) for name in (error.filename, error.filename2) if name)
    return f"{about}: {error.strerror or error}" if about else str(error.strerror or error)


class WholeHelp(TyperCommand):
    """On a narrow terminal, help without frames: in them long options are cut."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if text_width() < _FRAMED:
            self.rich_markup_mode = None
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="surefoot",
    cls=ClearErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="The control plane. (default: SUREFOOT_URL, the running `surefoot up`, or port 8470 here)"),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Its token. (default: SUREFOOT_TOKEN, or the data folder's)")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of surefoot's own errors.")] = False,
) -> None:
    """Elastic PyTorch training on Ray: workers come and go; the result is the same, bit for bit.

    Start with `surefoot up`, then, in another terminal: surefoot submit train:train --batch-size 64
    """
    given = context.obj if isinstance(context.obj, Session) else Session()
    context.obj = Session(url=url or given.url, token=token or given.token, debug=debug, transport=given.transport)


for command in (
    local.up,
    submit,
    jobs.ls,
    jobs.show,
    jobs.watch,
    jobs.resize,
    jobs.cancel,
    budget,
    durable.pause,
    durable.resume,
    durable.checkpoint,
    durable.checkpoints,
    durable.model,
    chaos,
    metrics,
    track,
    logs.logs,
    files,
    history.ledger,
    history.diff,
    rm,
    local.check,
    local.schema,
    local.version,
):
    app.command()(command)
app.add_typer(secret)
for registered in (*app.registered_commands, *secret.registered_commands):
    registered.cls = WholeHelp
