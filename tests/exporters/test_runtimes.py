"""Exported files in real whisper.cpp, and children that die."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from exporters import export_file, export_to, runtimes
from exporters.runtimes import open_artifact
from idiolect.errors import ArtifactError, MissingExtra, RuntimeFailed, UsageError
from idiolect.transcriber import AudioContext, DecodingOptions, Transcriber
from idiolect.whisper import RATE_HZ
from tests.exporters.helpers import dims, make_checkpoint
from tests.training.speech import shipped

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

pytestmark = pytest.mark.whispercpp
NAME = "nano f16 – \u202emodel.bin"  # a space, a dash, right-to-left text


@pytest.fixture(scope="session")
def clips(voices: Path) -> list[Pcm]:
    from training.audio import decode

    names = [f"human/digits_{i:03}.ogg" for i in range(2)] + [f"synthetic/clip{i:03}.ogg" for i in range(2)]
    return [decode(voices / name) for name in names]


@pytest.fixture(scope="session")
def f16_file(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("f16") / NAME
    export_file(nano, "ggml", "f16", path)
    return path


@pytest.mark.parametrize(("n_vocab", "n_mels"), [(51_864, 80), (51_866, 128)])
@pytest.mark.parametrize(
    ("format", "package"), [("ggml", "pywhispercpp"), ("gguf", "transcribe_cpp"), ("sherpa-onnx", "sherpa_onnx")]
)
def test_english_only_models_and_those_of_128_bands_are_heard(
    tmp_path: Path, format: str, package: str, n_vocab: int, n_mels: int
) -> None:
    pytest.importorskip(package)
    model = make_checkpoint(tmp_path / "model", dims(width=64, n_vocab=n_vocab, n_mels=n_mels))
    (model / "added_tokens.json").write_text('{"<|yue|>": 50358}')
    export_to(model, format, "int8" if format == "sherpa-onnx" else "q4_0", tmp_path / "artifact")
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE_HZ).astype(np.float32)
    runtime = open_artifact(tmp_path / "artifact")
    try:
        assert runtime.transcribe(noise, DecodingOptions("en")).duration_s == 2.0
    finally:
        runtime.close()


@pytest.fixture
def model(f16_file: Path) -> Iterator[Transcriber]:
    transcriber = open_artifact(f16_file, threads=1)
    yield transcriber
    transcriber.close()


def _child() -> psutil.Process:
    (child,) = psutil.Process().children()
    return child


@pytest.mark.torch
@pytest.mark.parametrize("audio_context", ["dynamic", "full"])
def test_f16_says_what_the_checkpoint_says(
    nano: Path, model: Transcriber, clips: list[Pcm], audio_context: AudioContext
) -> None:
    from training.decode import CheckpointTranscriber

    options = DecodingOptions(audio_context=audio_context)
    checkpoint = CheckpointTranscriber(nano)
    expected = [checkpoint.transcribe(pcm, options).text for pcm in clips]
    assert [heard.text for heard in model.transcribe_many(clips, options)] == expected
    assert len(set(expected)) == len(clips)


def test_timestamps_are_asked_for_and_not_shown(model: Transcriber, voices: Path) -> None:
    clips = [pcm for _, pcm, _ in shipped(voices, "synthetic", 8)]
    plain, stamped = (
        [heard.text for heard in model.transcribe_many(clips, DecodingOptions(timestamps=timestamps))]
        for timestamps in (False, True)
    )
    assert 1 <= sum(one != other for one, other in zip(plain, stamped, strict=True)) <= 2
    assert not any("<|" in text for text in stamped)


def test_beams_find_other_words_and_leave_greedy_decoding_as_it_was(model: Transcriber, voices: Path) -> None:
    unsure = [pcm for _, pcm, _ in shipped(voices, "synthetic", 8)]
    greedy, searched, again = (
        [heard.text for heard in model.transcribe_many(unsure, DecodingOptions(beam_size=size))] for size in (1, 5, 1)
    )
    assert greedy == again != searched


def test_figures(model: Transcriber, clips: list[Pcm]) -> None:
    assert model.name == NAME
    assert model.runtime.startswith("whisper.cpp 1.")
    assert model.peak_memory_bytes() == 0
    heard = model.transcribe(clips[0])
    assert heard.duration_s == len(clips[0]) / 16_000
    assert 0 < heard.compute_s < 60
    assert 20e6 < model.peak_memory_bytes() < 200e6


@pytest.mark.parametrize("samples", [0, 1, 800, 15_999])
def test_the_shortest_clips_are_padded(model: Transcriber, samples: int) -> None:
    assert model.transcribe(np.zeros(samples, np.float32)).duration_s == samples / 16_000


def test_what_whisper_cpp_would_misunderstand_is_refused(model: Transcriber, clips: list[Pcm]) -> None:
    with pytest.raises(UsageError, match="no language 'klingon'"):
        model.transcribe(clips[0], DecodingOptions(language="klingon"))
    for wrong in (np.zeros((2, 9), np.float32), np.zeros(9, np.int16), np.zeros(9)):
        with pytest.raises(UsageError, match="PCM of shape"):
            model.transcribe(wrong)  # type: ignore[arg-type]
    assert model.transcribe(clips[0]).text


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_crash_is_a_failure_with_its_name(model: Transcriber, clips: list[Pcm], name: str) -> None:
    _child().send_signal(signal.Signals[name])
    for _ in range(2):
        with pytest.raises(RuntimeFailed, match=rf"was killed by {name} while transcribing \d\.\d s of audio"):
            model.transcribe(clips[0])


def test_a_child_that_hangs_is_ended(model: Transcriber, clips: list[Pcm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "ANSWER_TIMEOUT_S", 0.3)
    _child().suspend()
    with pytest.raises(RuntimeFailed, match="SIGKILL"):
        model.transcribe(clips[0])


def test_closing_ends_the_child(f16_file: Path) -> None:
    transcriber = open_artifact(f16_file, threads=1)
    child = _child()
    transcriber.close()
    transcriber.close()
    assert not child.is_running()
    with pytest.raises(RuntimeFailed, match="exit status 0"):
        transcriber.transcribe(np.zeros(16_000, np.float32))


def test_a_child_ends_with_its_parent(f16_file: Path) -> None:
    """A parent killed without warning leaves nobody behind: its end of the pipe closes."""
    code = (
        "import sys, time; from pathlib import Path; from exporters.runtimes import open_artifact;"
        "model = open_artifact(Path(sys.argv[1]), 1); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(f16_file)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(10)


def test_bad_files_never_start_a_child(small_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(small_file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"m\.bin cannot be used"):
        open_artifact(path)
    assert psutil.Process().children() == []


def test_a_file_that_vanishes_before_it_is_loaded(small_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed, match=r"killed by SIGSEGV while loading gone\.bin\n.*failed to open"):
        runtimes.WhisperCpp(tmp_path / "gone.bin", 51_865)


def test_without_the_package_the_install_command_is_shown(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[whispercpp\]"'):
        open_artifact(small_file)
