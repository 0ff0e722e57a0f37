"""Commands about folders of recordings: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Folder = Annotated[Path, typer.Argument(help="A folder with recordings; nothing in it is changed.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(check)


def check(
    folder: Folder,
    language: Annotated[str | None, typer.Option(help="What is spoken, as Whisper's code.")] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with each recording of a folder; needs no daemon. Exit status 1 where one is rejected."""
    from daemon.config import load
    from daemon.folder_view import show_report
    from daemon.intake.check import check as check_folder
    from daemon.paths import Paths
    from daemon.terminal import ProgressReporter, print_json

    language = language or load(Paths.at(None).config_file).training.language
    with ProgressReporter() as reporter:
        report = check_folder(folder, language, reporter)
    print_json(report.to_json()) if json else show_report(report)
    raise typer.Exit(int(report.counts()["rejected"] > 0))
