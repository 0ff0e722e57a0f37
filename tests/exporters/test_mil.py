"""What the saved packages compute, against Whisper in PyTorch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from exporters.mlpackage import MODEL, WEIGHTS
from idiolect.errors import ArtifactError, RuntimeFailed
from tests.exporters.helpers import NEEDS_COREML

if TYPE_CHECKING:
    from exporters.mil import Program
    from idiolect.transcriber import Pcm

pytestmark = NEEDS_COREML


def _program(folder: Path, part: str, fixed: tuple[str, ...] = ()) -> Program:
    from exporters.mil import Program

    return Program(folder / f"{part}.mlpackage", fixed)


def _clip(voices: Path) -> Pcm:
    from training.audio import decode

    return np.pad(decode(voices / "human" / "digits_000.ogg"), (0, 480_000))[:480_000]


@pytest.mark.parametrize(("loudness", "error"), [(1.0, 1e-3), (1e-3, 1e-3), (0.0, 0.0)])
def test_mel_is_what_whisper_was_trained_on(
    nano: Path, nano_coreml: Path, voices: Path, loudness: float, error: float
) -> None:
    """Quiet audio and silence too, where float16 arithmetic is off by 0.69."""
    from transformers import WhisperFeatureExtractor

    audio = (_clip(voices) * loudness).astype(np.float32)
    expected = WhisperFeatureExtractor.from_pretrained(nano)(audio, sampling_rate=16_000).input_features[0]
    found = _program(nano_coreml, "MelSpectrogram")({"audio": audio})["melspectrogram_features"]
    assert found.shape == (1, 80, 1, 3000)
    assert np.abs(found[0, :, 0] - expected).max() <= error


def test_encoder_and_decoder_agree_with_torch(nano: Path, nano_coreml: Path, voices: Path) -> None:
    import torch

    from exporters.coreml_runtime import _Cached
    from training.decode import encode, load_model

    model: Any = load_model(nano)[0]
    mel = _program(nano_coreml, "MelSpectrogram")({"audio": _clip(voices)})["melspectrogram_features"]
    heard = _program(nano_coreml, "AudioEncoder")({"melspectrogram_features": mel})["encoder_output_embeds"]
    tokens = [50_258, 50_259, 50_359, 50_363, 3180, 3407, 3407]
    with torch.inference_mode():
        hidden = encode(model, torch.from_numpy(mel[:, :, 0]).float())
        expected = model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(heard[0, :, 0].T - hidden[0].numpy()).max() < 1e-2
    for fixed in ((), ("encoder_output_embeds",)):  # kept results are the same results
        step = _Cached(_program(nano_coreml, "TextDecoder", fixed), heard, 4 * 128)
        found = np.stack([step(token, index) for index, token in enumerate(tokens)])
        assert np.abs(found - expected).max() < 0.03
        assert (found.argmax(1) == expected.argmax(1)).all()


def test_kept_results_follow_the_input_they_belong_to(nano_coreml: Path) -> None:
    from exporters.coreml_runtime import _Cached

    random = np.random.default_rng(0)
    kept, anew = (_program(nano_coreml, "TextDecoder", fixed) for fixed in (("encoder_output_embeds",), ()))
    for _ in range(2):
        heard = random.standard_normal((1, 128, 1, 1500)).astype(np.float16)
        assert (_Cached(kept, heard, 512)(50_258, 0) == _Cached(anew, heard, 512)(50_258, 0)).all()


def test_alignment_is_a_share_of_the_audio(nano_coreml: Path) -> None:
    decoder, width = _program(nano_coreml, "TextDecoder"), 512
    inputs: dict[str, Any] = {
        "input_ids": np.array([50_258], np.int32),
        "cache_length": np.array([0], np.int32),
        "key_cache": np.zeros((1, width, 1, 224), np.float16),
        "value_cache": np.zeros((1, width, 1, 224), np.float16),
        "kv_cache_update_mask": np.eye(1, 224, dtype=np.float16),
        "encoder_output_embeds": np.random.default_rng(0).standard_normal((1, 128, 1, 1500)).astype(np.float16),
        "decoder_key_padding_mask": np.where(np.arange(224) > 0, -1e4, 0).astype(np.float16)[None],
    }
    weights = decoder(inputs)["alignment_heads_weights"]
    assert weights.shape == (1, 1500)
    assert weights.sum() == pytest.approx(1, abs=0.01)
    assert weights.std() > 0


@pytest.fixture
def encoder(small_coreml: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_coreml / "AudioEncoder.mlpackage", tmp_path / "AudioEncoder.mlpackage")


def test_damaged_weights_change_the_result(small_coreml: Path, encoder: Path) -> None:
    mel = {"melspectrogram_features": np.ones((1, 80, 1, 3000), np.float16)}
    before = _program(small_coreml, "AudioEncoder")(mel)["encoder_output_embeds"]
    data = bytearray((encoder / WEIGHTS).read_bytes())
    data[5_000:10_000] = bytes(5_000)
    (encoder / WEIGHTS).write_bytes(data)
    after = _program(encoder.parent, "AudioEncoder")(mel)["encoder_output_embeds"]
    assert np.abs(after - before).max() > 0.01


def test_an_unknown_operation_is_named(encoder: Path) -> None:
    model = encoder / MODEL
    model.write_bytes(model.read_bytes().replace(b"\x0a\x07softmax", b"\x0a\x07softsig"))
    with pytest.raises((ArtifactError, RuntimeFailed), match="softsig"):
        _program(encoder.parent, "AudioEncoder")


def test_what_coremltools_cannot_read_is_an_artifact_error(encoder: Path) -> None:
    os.truncate(encoder / MODEL, 1000)
    with pytest.raises(ArtifactError, match=r"AudioEncoder\.mlpackage cannot be read"):
        _program(encoder.parent, "AudioEncoder")
