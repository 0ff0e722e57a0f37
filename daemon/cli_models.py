"""Commands about models: models, train, evaluate, transcribe, wer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from idiolect.child import Reporter
from idiolect.errors import IdiolectError, UsageError

if TYPE_CHECKING:
    from daemon.paths import Paths
    from daemon.work.direct import Trained


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Language = Annotated[str, typer.Option(help="What is spoken, as Whisper's code.")]
Context = Annotated[
    Literal["dynamic", "full"],
    typer.Option(help="Encoder length: cut to the audio as FUTO Keyboard does, or the full 30 s."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    models = typer.Typer(help="List the base models, or fetch some.", invoke_without_command=True)
    models.callback()(list_models)
    models.command("fetch")(fetch_models)
    app.add_typer(models, name="models")
    for command in (train, evaluate, transcribe, wer):
        app.command()(command)


def list_models(context: typer.Context, json: Json = False) -> None:
    """List the base models: on this machine or not, size, licence."""
    if context.invoked_subcommand is not None:
        return
    from daemon.lines import megabytes
    from daemon.terminal import print_json, table
    from training import base_models

    cache = _cache()
    found = [
        {
            "tier": tier.name,
            "repo": tier.repo or "ships with idiolect",
            "parameters_m": tier.parameters_m,
            "cached": base_models.is_cached(tier.name, cache),
            "size_bytes": base_models.size_bytes(tier.name, cache) or tier.size_mb * 1_000_000,
            "license": tier.license,
        }
        for tier in base_models.TIERS.values()
    ]
    if json:
        print_json(found)
        return
    rows = [
        [
            str(m["tier"]),
            "yes" if m["cached"] else "–",
            f"{m['parameters_m']} M",
            megabytes(float(str(m["size_bytes"]))),
            str(m["license"]),
        ]
        for m in found
    ]
    table("", ["tier", "here", "parameters", "size", "licence"], rows)
    typer.echo("\nnano ships with idiolect; get openai/whisper-TIER with: idiolect models fetch TIER")
    typer.echo("A model folder or any Hugging Face id works as well.")


def fetch_models(models: Annotated[list[str], typer.Argument(help="Tiers or Hugging Face ids.")]) -> None:
    """Download base models; a broken download goes on where it was."""
    from daemon.terminal import out, progress_reporter
    from training import base_models

    cache = _cache()
    for model in models:
        base_models.hub_id(model)  # a misspelt one is refused before the first download
    for model in models:
        with progress_reporter() as reporter:
            reporter.stage(f"fetch {model}")
            folder = base_models.fetch(model, cache, lambda done, total: reporter.progress(done, total, "bytes"))
        out.print(f"{model}: {folder}", markup=False, soft_wrap=True)


def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            help="Tier, model folder or Hugging Face id to start from; several: tiny,small.", show_default="tiny"
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of recordings with transcripts.")] = None,
    train_data: Annotated[Path | None, typer.Option(help="The same, for training only.")] = None,
    val_data: Annotated[Path | None, typer.Option(help="Folder of recordings to measure on.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the new model (a Hugging Face folder); for several, each in its own within."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(min=0.01, max=1000, help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, max=1, help="Peak learning rate.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same model.")] = 0,
    lora: Annotated[bool, typer.Option("--lora", help="Train small adapters alone, for little memory.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Save memory by computing twice; chosen where needed.")
    ] = False,
    language: Language = "en",
    now: Annotated[bool, typer.Option("--now", help="Ask the running daemon to train, whatever it waits for.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a model on a folder, or (--now) ask the daemon."""
    if now:
        _refuse_with_now(context)
        _train_now(model)
        return
    from daemon.terminal import out, print_json, progress_reporter, show_evaluations
    from daemon.work import direct
    from training.finetune import Settings
    from training.lora import RANK
    from training.processes import is_main

    source = train_data or data
    if source is None or output is None:
        missing = "--output" if source else "--data"
        raise UsageError(f"{missing} is missing", "idiolect train --model tiny --data dataset/ --output models/tiny-me")
    settings = Settings.of(
        {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "max_steps": max_steps,
            "seed": seed,
            "lora_rank": RANK if lora else 0,
            "gradient_checkpointing": gradient_checkpointing,
        }
    )
    models = _model_names(model or "tiny")
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(progress_reporter()) if is_main() else Reporter()
        stack.enter_context(direct.stopping_on_interrupt(reporter))
        trained = direct.train(models, source, val_data, output, settings, language, _cache(), reporter)
    if not is_main():
        return
    if json:
        found = [_training_summary(each) for each in trained]
        print_json(found[0] if len(found) == 1 else {"models": found})
        return
    for each in trained:
        outcome = each.outcome
        if each.evaluations:
            show_evaluations([evaluation.summary() for evaluation in each.evaluations])
        left_out = f" ({len(each.left_out)} left out)" if each.left_out else ""
        figures = f"{outcome.clips} clips{left_out}, {outcome.steps} steps, {outcome.train_s:.0f} s"
        out.print(f"\n{outcome.checkpoint}: {figures}", markup=False)
        out.print(f"next: idiolect export {outcome.checkpoint} --profile android-futo", markup=False)


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Tiers, model folders, Hugging Face ids or exports.")],
    data: Annotated[Path, typer.Option(help="Folder of recordings; its validation/ is used where it has one.")],
    against: Annotated[
        str | None, typer.Option(help="Model to hold the others against.", show_default="the first")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Words that matter, one a line, [name] begins a group.",
            show_default="vocabulary.txt in DATA, else what a stock model among them, or --against, misses",
        ),
    ] = None,
    noise_db: Annotated[
        float | None, typer.Option(help="Score again with noise, the voice so many dB above it (10: a busy room).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report to open in a browser, plots included.")] = None,
    rivals: Annotated[
        bool, typer.Option(help="Score the bigger stock models on this machine that a tuned one should match.")
    ] = True,
    language: Language = "en",
    audio_context: Context = "dynamic",
    timestamps: Annotated[bool, typer.Option(help="Decode with timestamps.")] = False,
    json: Json = False,
) -> None:
    """Score models on the same clips, and say which is better and how sure that is."""
    from daemon.evaluate_view import show_comparison
    from daemon.terminal import err, plain, print_json, progress_reporter
    from daemon.work import evaluation
    from daemon.work.direct import stopping_on_interrupt
    from idiolect.transcriber import DecodingOptions

    options = DecodingOptions(language, audio_context, timestamps)
    request = evaluation.Request(tuple(models), data, options, against, vocabulary, noise_db, rivals)
    if html:
        evaluation.check_writable(html)
    with progress_reporter() as reporter, stopping_on_interrupt(reporter):
        found = evaluation.evaluate(request, _cache(), reporter)
    if html:
        evaluation.write_report(html, found, _paths().store)
        err.print(f"report: {plain(str(html))}", soft_wrap=True)
    print_json(found.to_json()) if json else show_comparison(found, evaluation.missing_rivals(found))


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio files.")],
    model: Annotated[str, typer.Option(help="Tier, model folder, Hugging Face id or export.")] = "tiny",
    language: Language = "en",
    audio_context: Context = "dynamic",
    json: Json = False,
) -> None:
    """Write down what is said in audio files."""
    from daemon.terminal import print_json, show_error
    from daemon.work import direct
    from idiolect.transcriber import DecodingOptions

    results: list[dict[str, Any]] = []
    for file, heard in direct.transcribe(model, files, DecodingOptions(language, audio_context), _cache()):
        if isinstance(heard, IdiolectError):
            results.append({"file": str(file), "error": heard.message})
            show_error(heard)
            continue
        results.append({"file": str(file), "text": heard.text, "duration_s": heard.duration_s})
        if not json:
            typer.echo(heard.text if len(files) == 1 else f"{file}: {heard.text}")
    if json:
        print_json({"results": results})
    if any("error" in result for result in results):
        raise typer.Exit(1)


def wer(
    reference: Annotated[Path, typer.Argument(help="Text file: what was said, a line each.")],
    hypothesis: Annotated[Path, typer.Argument(help="Text file: what was heard, a line each.")],
    json: Json = False,
) -> None:
    """Word error rate of one text file against another."""
    from daemon.home import score_files
    from daemon.terminal import print_json

    rates = score_files(reference, hypothesis)
    if json:
        print_json(rates)
        return
    typer.echo(f"WER {rates['wer']:.2%}  CER {rates['cer']:.2%}  ({rates['words']} words: ", nl=False)
    typer.echo(f"{rates['substitutions']} substituted, {rates['deletions']} deleted, {rates['insertions']} inserted)")


def _model_names(models: str) -> list[str]:
    """`tiny,small` → both; a folder may have a comma in its name."""
    return [models] if Path(models).expanduser().is_dir() else [name for name in models.split(",") if name]


def _training_summary(trained: Trained) -> dict[str, Any]:
    outcome = trained.outcome
    results = [evaluation.summary() for evaluation in trained.evaluations]
    return {
        "output": str(outcome.checkpoint),
        "clips": outcome.clips,
        "left_out": trained.left_out,
        "steps": outcome.steps,
        "results": results,
    }


def _refuse_with_now(context: typer.Context) -> None:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if useless := [f"--{name.replace('_', '-')}" for name in given if name not in {"model", "now"}]:
        raise UsageError(
            f"{', '.join(useless)} does nothing with --now: the daemon trains by its own settings",
            "leave it out, or set it in config.toml under [training]; `--model TIER` alone goes with --now",
        )


def _train_now(tier: str | None) -> None:
    from daemon.paths import Paths
    from daemon.sync.control import ask

    answer = ask(Paths.at(None), "train", tier=tier)
    after = f" after {answer['after']}" if answer.get("after") else ""
    typer.echo(f"training {', '.join(answer['tiers'])}{after}; see: idiolect status")


def _paths() -> Paths:
    from daemon.paths import Paths

    return Paths.at(None)


def _cache() -> Path:
    return _paths().cache
