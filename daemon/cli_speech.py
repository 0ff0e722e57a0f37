"""Commands about what to record: prompts, record, coverage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Words = Annotated[
    Path | None, typer.Option("--vocabulary", help="Your words, one a line.", show_default="vocabulary.txt of the home")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (prompts, record, coverage):
        app.command()(command)


def prompts(
    minutes: Annotated[
        float | None, typer.Option(min=1, max=600, help="How long reading it takes.", show_default="all your words")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of the sentences: en, de, he-latin.", show_default="[training] language"),
    ] = None,
    texts: Annotated[
        list[Path] | None, typer.Option("--from", help="Texts of your own to take sentences from, before templates.")
    ] = None,
    vocabulary: Words = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another script.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write it there.", show_default="print it")] = None,
) -> None:
    """Write a script to read aloud: your least recorded and worst heard words, ordinary dictation, hard cases."""
    from daemon.coverage import write_prompts
    from daemon.paths import Paths
    from daemon.terminal import err, plain
    from idiolect.files import write_text

    script = write_prompts(
        Paths.at(None),
        minutes=minutes,
        language=language,
        own_files=texts or (),
        vocabulary_file=vocabulary,
        seed=seed,
    )
    if output:
        write_text(output, script.to_text())
    else:
        typer.echo(script.to_text(), nl=False)
    said = f"{len(script.sentences)} sentences, about {script.duration_s / 60:.0f} minutes"
    if script.postponed:
        said += f"; no room for {len(script.postponed)} of your words: {', '.join(script.postponed[:5])}"
        said += ", …" if len(script.postponed) > 5 else ""
    err.print(plain(said), soft_wrap=True)
    if output:
        err.print(plain(f"read them out with: idiolect record {output}"), soft_wrap=True)


def record(
    script: Annotated[Path, typer.Argument(help="What `idiolect prompts --output` wrote, or a sentence a line.")],
    into: Annotated[Path | None, typer.Option(help="Folder to record into.", show_default="the watched one")] = None,
    device: Annotated[
        str | None, typer.Option(help="Microphone, as FORMAT:NAME.", show_default="the system's own")
    ] = None,
) -> None:
    """Read a script out, sentence by sentence, and record it."""
    from daemon.config import load
    from daemon.paths import Paths
    from daemon.record_view import Session

    paths = Paths.at(None)
    folders = load(paths.config_file).recordings.folders or (paths.recordings,)
    Session(script, into or folders[0], device).run()


def coverage(vocabulary: Words = None, json: Json = False) -> None:
    """Your words: how often recorded, how often heard by the stock and by the newest model."""
    from daemon.coverage import coverage
    from daemon.paths import Paths
    from daemon.status_view import show_coverage
    from daemon.terminal import print_json

    found = coverage(Paths.at(None), vocabulary)
    if not json:
        show_coverage(found)
        return
    print_json(
        {
            "run": found.run,
            "tier": found.tier,
            "terms": [
                {
                    "term": each.term.text,
                    "group": each.term.group,
                    "recorded": each.recorded,
                    "said": each.said,
                    "heard_by_stock": each.heard_by_stock,
                    "heard_now": each.heard_now,
                }
                for each in found.terms
            ],
        }
    )
