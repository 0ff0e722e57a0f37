"""Short audio contexts and timestamps in whisper.cpp: what a training leaves of them, and what it mends.

`python -m benchmarks.contexts [VOICE …] [--splits N] [--beam-size N] [--models DIR] [--window-model DIR]`. On
held-out clips: FUTO's audio context beside the full window; timestamps on beside off, with the same training
without timestamps as its control; and a model that loops in short contexts, taught at all lengths and, as the control,
in 30 s windows alone. Never with fallback, and with as many beams as FUTO's, or `--beam-size 1` greedily. What is
promised of timestamps holds greedily, as WhisperKit and whisper.cpp's library decode them; with beams, as `whisper-cli`
does, it is shown. whisper.cpp draws beams' words at random, so figures differ from run to run. Exit status 1 when a
promise is missed. `--models DIR` keeps what was trained, for the next time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

from benchmarks.accuracy import divided
from exporters import export_file
from exporters.runtimes import open_artifact
from idiolect.transcriber import AudioContext, DecodingOptions
from training.base_models import resolve
from training.evaluate import evaluate
from training.finetune import Settings, defaults_for, finetune
from training.scoring import paired_bootstrap

WINDOW_MODEL = Path(__file__).parents[2] / "shared" / "nano" / "model-window"
QUANTIZATIONS = ("f16", "q4_0")
FUTO_BEAM_SIZE = 5
WITHIN = 0.01  # WER, at FUTO's context or with timestamps, of the full window's or without
MENDED_WITHIN = 0.02  # … of the model that looped
CONTROL_VOICE = "synthetic"
WINDOWS_ALONE: dict[str, Any] = {"full_share": 1.0, "longer_share": 0.0}


@dataclass(frozen=True)
class Heard:
    """Held-out clips, of one split or several, as one model heard them one way."""

    errors: tuple[int, ...]
    words: tuple[int, ...]
    loops: int

    def __add__(self, other: Heard) -> Heard:
        return Heard(self.errors + other.errors, self.words + other.words, self.loops + other.loops)

    def __str__(self) -> str:
        return f"{self.wer:7.1%} {self.loops:4}"

    @property
    def wer(self) -> float:
        """Word errors per word of all clips."""
        return sum(self.errors) / sum(self.words)


class Bench:
    """Trains models once, and lets whisper.cpp hear with them."""

    def __init__(self, folder: Path, splits: int, threads: int, beam_size: int) -> None:
        self._folder, self._splits, self._threads, self.beam_size = folder, splits, threads, beam_size
        self._divided, self._heard = cache(divided), cache(self._heard_in)

    def heard(self, model: Path | dict[str, Any], voice: str, quantization: str, how: DecodingOptions) -> Heard:
        """The voice's held-out clips, as heard by a model that is there, or by what `trained` makes of a request."""
        parts = []
        for split in range(self._splits):
            folder = model if isinstance(model, Path) else self.trained(voice, split, **model)
            parts.append(self._heard(folder, voice, split, quantization, how))
        return reduce(Heard.__add__, parts)

    def trained(self, voice: str, split: int, base: Path, **changes: Any) -> Path:  # noqa: ANN401
        """The folder of `base` taught this voice with changed settings; not again where it is there."""
        settings = Settings(**changes)
        d_model = json.loads((base / "config.json").read_text())["d_model"]
        sources = self._divided(voice, split)[0]
        recipes = [defaults_for(settings, d_model, len(sources), new_tokens=new) for new in (True, False)]
        recipe = "".join(each.digest()[:4] for each in recipes)
        out = self._folder / f"{base.name}-{voice}-{split}-{recipe}"
        if not out.exists():
            finetune(base, sources, out, settings)
        return out

    def _heard_in(self, model: Path, voice: str, split: int, quantization: str, how: DecodingOptions) -> Heard:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.bin"
            export_file(model, "ggml", quantization, file)
            runtime = open_artifact(file, self._threads)
            try:
                found = evaluate(runtime, self._divided(voice, split)[1], how)
            finally:
                runtime.close()
        return Heard(found.errors, found.clip_words, round(found.loops * found.clips))


def main() -> int:
    """Print the tables; 1 when a promise is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", nargs="*", default=["human", "synthetic"], metavar="VOICE")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--beam-size", type=int, default=FUTO_BEAM_SIZE, choices=range(1, 9), metavar="N")
    parser.add_argument("--models", type=Path, metavar="DIR")
    parser.add_argument("--window-model", type=Path, default=WINDOW_MODEL, metavar="DIR")
    parser.add_argument("--threads", type=int, default=0, help="of whisper.cpp")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.models or Path(temporary)
        bench = Bench(folder, options.splits, options.threads, options.beam_size)
        nano = resolve("nano", folder)
        kept = [_compare_contexts(bench, nano, options.voices), _compare_timestamps(bench, nano, options.voices)]
        if options.window_model.is_dir():
            kept.append(_compare_mending(bench, options.window_model))
        else:
            print(f"the model that loops in short contexts: skipped, there is no {options.window_model}")
    return 0 if all(kept) else 1


def _compare_contexts(bench: Bench, nano: Path, voices: Sequence[str]) -> bool:
    _head("FUTO's audio context beside the full window", "FUTO", "full")
    kept = True
    for voice in voices:
        for label, model, within in (("stock", nano, None), ("tuned", {"base": nano}, WITHIN)):
            for quantization in QUANTIZATIONS:
                short, full = _both_contexts(bench, model, voice, quantization)
                kept &= _show(f"{voice} {label} {quantization}", short, full, within)
    return kept


def _compare_timestamps(bench: Bench, nano: Path, voices: Sequence[str]) -> bool:
    kept = True
    for beam_size in dict.fromkeys((1, bench.beam_size)):
        _head(f"Timestamps on beside off, {f'{beam_size} beams' if beam_size > 1 else 'greedily'}", "on", "off")
        contexts: dict[str, AudioContext] = {"30 s window": "full", "FUTO's context": "dynamic"}
        kinds = [("tuned", {}, WITHIN if beam_size == 1 else None), ("tuned without", {"timestamps_share": 0.0}, None)]
        for voice, (label, changes, within) in itertools.product(voices, kinds):
            for (place, context), quantization in itertools.product(contexts.items(), QUANTIZATIONS):
                model = {"base": nano, **changes}
                ways = (DecodingOptions("en", context, timestamps, beam_size) for timestamps in (True, False))
                on, off = (bench.heard(model, voice, quantization, way) for way in ways)
                kept &= _show(f"{voice} {label} {quantization}, {place}", on, off, within)
    return kept


def _compare_mending(bench: Bench, base: Path) -> bool:
    _head(f"A model that loops in short contexts, taught the {CONTROL_VOICE} voice", "FUTO", "full")
    request: dict[str, Any] = {"base": base}
    kept = True
    for quantization in QUANTIZATIONS:
        found = _both_contexts(bench, base, CONTROL_VOICE, quantization)
        _show(f"untaught {quantization}", *found)
        found = _both_contexts(bench, request, CONTROL_VOICE, quantization)
        kept &= _show(f"taught at all lengths {quantization}", *found, MENDED_WITHIN)
        found = _both_contexts(bench, {**request, **WINDOWS_ALONE}, CONTROL_VOICE, quantization)
        _show(f"taught in 30 s windows alone {quantization}", *found)
    return kept


def _both_contexts(bench: Bench, model: Path | dict[str, Any], voice: str, quantization: str) -> tuple[Heard, Heard]:
    contexts: tuple[AudioContext, ...] = ("dynamic", "full")
    ways = (DecodingOptions("en", context, beam_size=bench.beam_size) for context in contexts)
    short, full = (bench.heard(model, voice, quantization, way) for way in ways)
    return short, full


def _head(title: str, one: str, other: str) -> None:
    print(f"\n{title}\n{'':46}{one:>7} loops {other:>6} loops  difference (95 %)")


def _show(label: str, one: Heard, other: Heard, within: float | None = None) -> bool:
    """Print a row; False when `one` differs from `other` by more than `within`, or loops."""
    mean, low, high = (100 * value for value in paired_bootstrap(one.errors, other.errors, one.words))
    kept = within is None or (abs(one.wer - other.wer) <= within and not one.loops and not other.loops)
    promise = "" if within is None else f"  within {100 * within:g}: {'kept' if kept else 'MISSED'}"
    print(f"{label:45} {one}  {other}  {mean:+6.1f} ({low:+.1f} … {high:+.1f}){promise}", flush=True)
    return kept


if __name__ == "__main__":
    sys.exit(main())
