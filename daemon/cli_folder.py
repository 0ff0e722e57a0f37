"""Commands about folders of recordings: check, draft, align."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from daemon.paths import Paths
    from idiolect.transcriber import DecodingOptions

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Folder = Annotated[Path, typer.Argument(help="A folder with recordings.")]


Model = Annotated[
    str | None, typer.Option(help="Tier, model folder, Hugging Face id or export. Default: the best of this machine.")
]
Language = Annotated[str | None, typer.Option(help="What is spoken, as Whisper's code.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (check, draft, align):
        app.command()(command)


def check(
    folder: Folder,
    language: Language = None,
    model: Annotated[
        str | None, typer.Option(help="Multilingual tier or model folder that says which language it hears.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with each recording of a folder; needs no daemon. Exit status 1 where one is rejected."""
    from daemon.config import load
    from daemon.folder_view import show_report
    from daemon.intake.check import check as check_folder
    from daemon.intake.check import heard_as
    from daemon.paths import Paths
    from daemon.terminal import print_json, progress_reporter

    language = language or load(Paths.at(None).config_file).training.language
    with progress_reporter() as reporter:
        report = check_folder(folder, language, reporter)
        if model is not None:
            report = heard_as(report, model, language, Paths.at(None).cache, reporter)
    print_json(report.to_json()) if json else show_report(report)
    raise typer.Exit(int(report.counts()["rejected"] > 0))


def draft(
    folder: Folder,
    model: Model = None,
    language: Language = None,
    accept: Annotated[bool, typer.Option("--accept", help="Let the drafts count as they are.")] = False,
) -> None:
    """Write NAME.draft.txt beside each recording without text; correct it and rename it to NAME.txt."""
    from daemon.terminal import out, progress_reporter
    from daemon.work import texts

    if accept:
        accepted = texts.accept(folder)
        out.print(f"{len(accepted)} drafts count from now on")
        return
    recordings = texts.without_text(folder)
    if not recordings:
        out.print("every recording has a text or a draft")
        return
    paths, chosen, options = _listening(model, language)
    with progress_reporter() as reporter:
        written = list(texts.draft(recordings, chosen, options, paths.cache, reporter))
    out.print(f"{len(written)} drafts, heard by {chosen}: correct each NAME.draft.txt and rename it to NAME.txt,")
    out.print("or take all as they are with: idiolect draft FOLDER --accept")


def align(folder: Folder, model: Model = None, language: Language = None, json: Json = False) -> None:
    """Cut recordings longer than 30 s by their NAME.txt: writes NAME.srt with the parts where both agree."""
    from daemon.terminal import out, percent, plain, print_json, progress_reporter
    from daemon.work import texts

    paths, chosen, options = _listening(model, language)
    with progress_reporter() as reporter:
        found = list(texts.align(folder, chosen, options, paths.cache, reporter))
    if json:
        print_json([{**vars(each), "path": str(each.path), "srt": each.srt and str(each.srt)} for each in found])
        return
    for each in found:
        share, back = percent(each.kept_s / each.duration_s), f", {each.restored} words put back" * bool(each.restored)
        out.print(f"{plain(str(each.path))}: {share} of the speech kept in {each.cues} cues{back}", soft_wrap=True)
    if not found:
        out.print("no recording longer than 30 s has a NAME.txt and no cues")


def _listening(model: str | None, language: str | None) -> tuple[Paths, str, DecodingOptions]:
    from daemon.cli_resident import find_status
    from daemon.config import load
    from daemon.paths import Paths
    from daemon.work.texts import best_model
    from idiolect.transcriber import DecodingOptions

    paths = Paths.at(None)
    config = load(paths.config_file)
    chosen = model or best_model(find_status()["runs"], paths, config)
    return paths, chosen, DecodingOptions(language or config.training.language)
