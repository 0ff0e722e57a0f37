from __future__ import annotations

import pytest

from idiolect import whisper
from idiolect.whisper import audio_context, mel_filterbank, special_tokens


def test_lengths_agree() -> None:
    assert whisper.MAX_SAMPLES == whisper.MAX_S * whisper.RATE_HZ
    assert whisper.MAX_FRAMES * whisper.HOP_SAMPLES == whisper.MAX_SAMPLES
    assert whisper.MAX_POSITIONS * whisper.SAMPLES_PER_POSITION == whisper.MAX_SAMPLES


@pytest.mark.parametrize(
    ("n_samples", "positions"),
    [(0, 160), (16_000, 160), (40_960, 160), (40_961, 161), (80_000, 282), (469_760, 1500), (480_000, 1500)],
)
def test_audio_context(n_samples: int, positions: int) -> None:
    assert audio_context(n_samples) == positions


@pytest.mark.parametrize(
    ("n_vocab", "ids"),
    [
        # eot, sot, translate, transcribe, no_timestamps, timestamp_begin, languages: openai/whisper's tokenizer
        (51_864, (50_256, 50_257, 50_357, 50_358, 50_362, 50_363, 99)),
        (51_865, (50_257, 50_258, 50_358, 50_359, 50_363, 50_364, 99)),
        (51_866, (50_257, 50_258, 50_359, 50_360, 50_364, 50_365, 100)),
    ],
)
def test_special_tokens(n_vocab: int, ids: tuple[int, ...]) -> None:
    tokens = special_tokens(n_vocab)
    assert ids == (
        tokens.eot,
        tokens.sot,
        tokens.translate,
        tokens.transcribe,
        tokens.no_timestamps,
        tokens.timestamp_begin,
        tokens.n_languages,
    )
    assert tokens.timestamp_begin + 1501 == n_vocab
    assert tokens.multilingual == (n_vocab != 51_864)


def test_prompts() -> None:
    assert special_tokens(51_865).prompt("en") == [50_258, 50_259, 50_359, 50_363]
    assert special_tokens(51_865).prompt("de", timestamps=True) == [50_258, 50_261, 50_359]
    assert special_tokens(51_866).prompt("yue") == [50_258, 50_358, 50_360, 50_364]
    assert special_tokens(51_864).prompt("en") == [50_257, 50_362]
    assert special_tokens(51_864).prompt("en", timestamps=True) == [50_257]


def test_languages() -> None:
    assert len(whisper.LANGUAGES) == len(set(whisper.LANGUAGES)) == 100
    assert special_tokens(51_865).language("su") == 50_357
    for code in ("yue", "xx", "EN"):
        with pytest.raises(KeyError, match=code):
            special_tokens(51_865).language(code)


@pytest.mark.parametrize("n_vocab", [0, 51_863, 51_867])
def test_another_vocabulary(n_vocab: int) -> None:
    with pytest.raises(ValueError, match=f"{n_vocab} tokens is not Whisper's"):
        special_tokens(n_vocab)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filterbank(n_mels: int) -> None:
    rows = mel_filterbank(n_mels)
    assert (len(rows), {len(row) for row in rows}) == (n_mels, {201})
    assert all(weight >= 0 for row in rows for weight in row)
    assert all(sum(row) > 0 for row in rows)
    peaks = [row.index(max(row)) for row in rows]
    assert peaks == sorted(peaks)


def test_mel_filterbank_has_the_published_values() -> None:
    row = mel_filterbank(80)[0]
    assert row[:4] == pytest.approx([0.0, 0.02486259, 0.0, 0.0], abs=1e-8)


@pytest.mark.torch
@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filterbank_is_that_of_transformers(n_mels: int) -> None:
    import numpy as np
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(201, n_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney").T
    np.testing.assert_allclose(mel_filterbank(n_mels), theirs, atol=1e-9)
