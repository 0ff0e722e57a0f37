"""What a short training leaves of contexts in whisper.cpp, and what it makes of a model that loops in short ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import export_file
from exporters.runtimes import open_artifact
from idiolect.transcriber import DecodingOptions
from tests.training.speech import shipped
from training.decode import CheckpointTranscriber
from training.evaluate import EvaluationClip, evaluate
from training.finetune import Settings, Source, finetune

pytestmark = [pytest.mark.torch]
LOOPING = Path(__file__).parents[3] / "shared" / "nano" / "model-window"
FULL = DecodingOptions(audio_context="full")


def _divided(voices: Path, voice: str, train: int, judged: int) -> tuple[list[Source], list[EvaluationClip]]:
    clips = shipped(voices, voice, train + judged)
    sources = [Source(*clip, "en", select=index % 8 == 7) for index, clip in enumerate(clips[:train])]
    return sources, [EvaluationClip(*clip) for clip in clips[train:]]


@pytest.mark.whispercpp
def test_a_taught_model_hears_alike_at_every_context(nano: Path, voices: Path, tmp_path: Path) -> None:
    sources, judged = _divided(voices, "human", 24, 8)
    finetune(nano, sources, tmp_path / "me", Settings(epochs=4, max_steps=24, threads=1))
    export_file(tmp_path / "me", "ggml", "q4_0", tmp_path / "me.bin")
    runtime = open_artifact(tmp_path / "me.bin", threads=1)
    short, full = evaluate(runtime, judged), evaluate(runtime, judged, FULL)
    runtime.close()
    assert short.loops == full.loops == 0
    assert short.wer < 0.25
    assert full.wer == pytest.approx(short.wer, abs=0.1)


@pytest.mark.skipif(not LOOPING.is_dir(), reason="shared/nano/model-window is not beside the repository")
def test_a_model_that_loops_in_short_contexts_is_mended(voices: Path, tmp_path: Path) -> None:
    sources, judged = _divided(voices, "synthetic", 96, 16)  # fewer are taught gently, and 30 steps do not do
    before = evaluate(CheckpointTranscriber(LOOPING), judged[:2])
    assert before.loops > 0.5
    finetune(LOOPING, sources, tmp_path / "mended", Settings(epochs=6, max_steps=30, threads=1))
    mended = CheckpointTranscriber(tmp_path / "mended")
    assert evaluate(mended, judged).loops == 0
    assert evaluate(mended, judged[:4], FULL).loops == 0
