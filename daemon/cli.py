"""The command line: `idiolect COMMAND`. A command parses, calls one function of another module, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import cli_models, cli_resident, cli_sync
from idiolect.errors import IdiolectError

app = typer.Typer(
    name="idiolect",
    help="Teach Whisper your own voice: drop recordings into a folder, get better models on every device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_resident.add_to(app)
cli_models.add_to(app)
cli_sync.add_to(app)


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option(help="Keep everything (settings, state, recordings) under this folder.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"idiolect {installed('idiolect')}")
        raise typer.Exit
    if home is not None:
        os.environ["IDIOLECT_HOME"] = str(home.expanduser().absolute())


def main(argv: list[str] | None = None) -> Any:  # noqa: ANN401
    """Entry point of the console script: every expected error ends as a message and an exit code."""
    try:
        arguments, home = _home_anywhere(sys.argv[1:] if argv is None else argv)
        return app(home + arguments)
    except IdiolectError as error:
        from daemon.terminal import show_error

        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `idiolect status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _home_anywhere(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`--home DIR` counts wherever it stands: (the other arguments, the option)."""
    rest: list[str] = []
    home: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            return [*rest, argument, *remaining], home
        if argument == "--home":
            home = ["--home", *(value for value in [next(remaining, None)] if value is not None)]
        elif argument.startswith("--home="):
            home = [argument]
        else:
            rest.append(argument)
    return rest, home


if __name__ == "__main__":
    main()
