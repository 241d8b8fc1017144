"""The command line put together: global options, commands, and how errors end."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from surefoot._where import DEFAULT_URL
from surefoot.cli import durable, history, jobs, local
from surefoot.cli.chaos import chaos
from surefoot.cli.removal import rm
from surefoot.cli.session import MISTAKE, Session, exit_code, failure_text, say_error
from surefoot.cli.submit import submit
from surefoot.errors import SurefootError

__all__ = ["app", "main"]


class ClearErrors(TyperGroup):
    """Ends with one clear message on standard error, never with a traceback, unless --debug asks for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SurefootError as error:
            if isinstance(ctx.obj, Session) and ctx.obj.debug:
                raise
            say_error(f"surefoot: {failure_text(error)}")
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            say_error("surefoot: interrupted")
            raise typer.Exit(MISTAKE) from None


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
        typer.Option(help=f"The control plane. (default: SUREFOOT_URL, the running `surefoot up`, or {DEFAULT_URL})"),
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
    durable.pause,
    durable.resume,
    durable.checkpoint,
    durable.checkpoints,
    durable.model,
    chaos,
    history.ledger,
    history.diff,
    rm,
    local.check,
    local.version,
):
    app.command()(command)


def main() -> None:
    """Run the command line of this process."""
    app()
