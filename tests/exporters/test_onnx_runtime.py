"""Exports for transformers.js in onnxruntime, beside the checkpoint they were made of."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from exporters import export_to
from exporters.runtimes import open_artifact
from idiolect.errors import MissingExtra, RuntimeFailed, UsageError
from idiolect.transcriber import AudioContext, DecodingOptions, Transcriber

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")


@pytest.fixture(scope="module")
def clips(voices: Path) -> list[tuple[Pcm, str]]:
    """The last 32 clips of each voice, and what was said."""
    from training.audio import decode

    found = []
    for voice in ("human", "synthetic"):
        rows = [json.loads(line) for line in (voices / voice / "metadata.jsonl").read_text().splitlines()]
        found += [(decode(voices / voice / row["file_name"]), row["text"]) for row in rows[-32:]]
    return found


@pytest.fixture(scope="module")
def folders(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("onnx")
    for quantization in ("fp32", "int8"):
        export_to(nano, "onnx", quantization, base / quantization)
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def fp32(folders: dict[str, Path]) -> Transcriber:
    return open_artifact(folders["fp32"], threads=1)


@pytest.mark.torch
@pytest.mark.parametrize(("audio_context", "timestamps"), [("dynamic", False), ("full", False), ("dynamic", True)])
def test_fp32_says_what_the_checkpoint_says(
    nano: Path, fp32: Transcriber, clips: list[tuple[Pcm, str]], audio_context: AudioContext, timestamps: bool
) -> None:
    from training.decode import CheckpointTranscriber

    options = DecodingOptions(audio_context=audio_context, timestamps=timestamps)
    chosen = [pcm for pcm, _ in clips[:: 3 if options == DecodingOptions() else 8]]
    checkpoint = CheckpointTranscriber(nano, threads=1)
    expected = [checkpoint.transcribe(pcm, options).text for pcm in chosen]
    assert [heard.text for heard in fp32.transcribe_many(chosen, options)] == expected
    assert len(set(expected)) > len(chosen) / 2


@pytest.mark.torch
def test_int8_hears_nearly_as_well(folders: dict[str, Path], fp32: Transcriber, clips: list[tuple[Pcm, str]]) -> None:
    from training.scoring import error_rates

    said = [text for _, text in clips]
    int8 = open_artifact(folders["int8"], threads=1)
    rates = [error_rates(said, [model.transcribe(pcm).text for pcm, _ in clips]).wer for model in (fp32, int8)]
    assert rates[1] <= rates[0] + 0.03
    assert 0.1 < rates[0] < 0.4


def test_figures(fp32: Transcriber, clips: list[tuple[Pcm, str]]) -> None:
    pcm, _ = clips[0]
    assert fp32.name == "fp32"
    assert fp32.runtime.startswith("onnxruntime 1.")
    heard = fp32.transcribe(pcm)
    assert heard.duration_s == len(pcm) / 16_000
    assert 0 < heard.compute_s < 60
    assert fp32.peak_memory_bytes() > 50e6


@pytest.mark.parametrize("samples", [0, 1, 800, 15_999, 480_001])
def test_every_length_is_answered(fp32: Transcriber, samples: int) -> None:
    assert fp32.transcribe(np.zeros(samples, np.float32)).duration_s == samples / 16_000


def test_what_it_cannot_take_is_refused(fp32: Transcriber) -> None:
    with pytest.raises(UsageError, match="no language 'klingon'"):
        fp32.transcribe(np.zeros(9, np.float32), DecodingOptions(language="klingon"))
    for wrong in (np.zeros((2, 9), np.float32), np.zeros(9, np.int16), np.zeros(9)):
        with pytest.raises(UsageError, match="PCM of shape"):
            fp32.transcribe(wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_closed_model_fails_with_its_name(folders: dict[str, Path]) -> None:
    model = open_artifact(folders["int8"], threads=1)
    model.close()
    model.close()
    with pytest.raises(RuntimeFailed, match=r"onnxruntime .* with int8"):
        model.transcribe(np.zeros(9, np.float32))


@pytest.mark.slow
def test_a_client_needs_no_torch(folders: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np; from exporters.runtimes import open_artifact;"
        "open_artifact(Path(sys.argv[1]), 1).transcribe(np.zeros(16_000, np.float32));"
        "sys.exit(str({'torch', 'transformers', 'onnx', 'optimum', 'safetensors'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code, folders["int8"]], stderr=subprocess.PIPE, text=True)
    assert done.stderr.strip() == ""


def test_without_the_package_the_install_command_is_shown(small_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[onnx\]"'):
        open_artifact(small_onnx)
