"""The command export: a model as a device takes it, or what every way to store it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from idiolect.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(export)


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model folder, tier or Hugging Face id.")],
    profile: Annotated[str | None, typer.Option(help="Device profile (`idiolect profiles` lists them).")] = None,
    format: Annotated[str | None, typer.Option(help="Container, where no profile is named.")] = None,
    quant: Annotated[str | None, typer.Option(help="Quantisation, such as q5_0 (ggml) or int8 (onnx).")] = None,
    outfile: Annotated[Path | None, typer.Option(help="File or folder to write.")] = None,
    force: Annotated[
        bool,
        typer.Option(help="Also what the device does not read, is too large for it, or its runtime refuses."),
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Instead make every quantisation of the format and hear what each costs.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="To compare: recordings; its validation/ is used where it has one.")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="To compare: words that matter, one a line.", show_default="vocabulary.txt of the home"),
    ] = None,
    audio_context: Annotated[
        Literal["dynamic", "full"] | None,
        typer.Option(help="To compare: encoder length, cut to the audio or 30 s.", show_default="the profile's"),
    ] = None,
    language: Annotated[str, typer.Option(help="To compare: what is spoken, as Whisper's code.")] = "en",
    html: Annotated[Path | None, typer.Option(help="To compare: write table and plot into this file, too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Write a model as the file or folder that a device takes, or (--compare) see what each quantisation costs."""
    from daemon.terminal import print_json

    _refuse_useless(context, {"quant", "outfile", "force"} if compare else set(_COMPARING), compare)
    if compare:
        _compare(model, profile, format, data, vocabulary, audio_context, language, html, json)
        return
    from daemon.home import export_model
    from daemon.lines import megabytes
    from daemon.paths import Paths
    from daemon.terminal import out, progress_reporter
    from daemon.work.direct import stopping_on_interrupt

    with progress_reporter() as reporter, stopping_on_interrupt(reporter):
        reporter.stage("export")
        file, made, checked = export_model(Paths.at(None), model, profile, format, quant, outfile, reporter, force)
    if json:
        runtime = vars(checked) if checked else None
        print_json({"path": str(file), "files": [vars(each) for each in made], "checked": runtime})
        return
    size = megabytes(sum(each.size_bytes for each in made))
    what = f"sha256 {made[0].sha256}" if len(made) == 1 else f"{len(made)} files"
    loads = f"; loads in {checked.runtime}" if checked else ""
    out.print(f"{file}: {size}, {what}{loads}", markup=False, soft_wrap=True)
    for unchecked in checked.not_checked if checked else ():
        out.print(f"not checked: {unchecked}", markup=False, soft_wrap=True)


_COMPARING = ("data", "vocabulary", "audio_context", "language", "html")


def _compare(
    model: str,
    profile_name: str | None,
    format: str | None,
    data: Path | None,
    vocabulary: Path | None,
    audio_context: Literal["dynamic", "full"] | None,
    language: str,
    html: Path | None,
    json: bool,
) -> None:
    from daemon import quantisation_view as view
    from daemon.home import profile_named
    from daemon.paths import Paths
    from daemon.terminal import err, plain, print_json, progress_reporter
    from daemon.work.direct import stopping_on_interrupt
    from daemon.work.evaluation import check_writable, write_page
    from daemon.work.quantisations import Request, compare_quantisations, usual_context
    from idiolect.transcriber import DecodingOptions

    if data is None:
        command = f"idiolect export {model} --compare --format {format or 'ggml'} --data FOLDER"
        raise UsageError("--data is missing: recordings with their texts to hear each quantisation on", command)
    paths = Paths.at(None)
    profiles, profile = profile_named(paths, profile_name)
    format = format or (profile.format if profile else "ggml")
    wanted = audio_context or (profile.audio_context if profile else usual_context(format, profiles))
    words = vocabulary or (paths.vocabulary_file if paths.vocabulary_file.is_file() else None)
    if html:
        check_writable(html)
    request = Request(model, format, data, DecodingOptions(language, wanted), words)
    with progress_reporter() as reporter, stopping_on_interrupt(reporter):
        found = compare_quantisations(request, profiles, paths.cache, reporter)
    if html:
        write_page(html, view.page(found))
        err.print(f"report: {plain(str(html))}", soft_wrap=True)
    print_json(found.to_json()) if json else view.show_quantisations(found)


def _refuse_useless(context: typer.Context, useless: set[str], compare: bool) -> None:
    sources: dict[str, Any] = {name: context.get_parameter_source(name) for name in useless}
    given = sorted(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} does nothing with{'' if compare else 'out'} --compare", "leave it out")
