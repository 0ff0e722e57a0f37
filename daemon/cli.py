"""The command line: `idiolect COMMAND`. A command parses, calls one function of another module, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import (
    cli_care,
    cli_devices,
    cli_export,
    cli_folder,
    cli_inbox,
    cli_models,
    cli_releases,
    cli_resident,
    cli_speech,
    cli_sync,
)
from idiolect.errors import IdiolectError, UsageError

app = typer.Typer(
    name="idiolect",
    help="Teach Whisper your own voice: drop recordings into a folder, get better models on every device.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_resident.add_to(app)
cli_folder.add_to(app)
cli_models.add_to(app)
cli_export.add_to(app)
cli_sync.add_to(app)
cli_devices.add_to(app)
cli_releases.add_to(app)
cli_inbox.add_to(app)
cli_speech.add_to(app)
cli_care.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"idiolect {version('idiolect')}")
        raise typer.Exit


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option(help="Keep everything (settings, state, recordings) under this folder.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
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
            rest += [argument, *remaining]
        elif argument == "--home":
            home = ["--home", next(remaining, "")]
        elif argument.startswith("--home="):
            home = ["--home", argument.partition("=")[2]]
        else:
            rest.append(argument)
    if home and (not home[1] or home[1].startswith("-")):
        raise UsageError(f"--home {home[1]!r} is no folder", "name one: --home DIR")
    return rest, home


if __name__ == "__main__":
    main()
