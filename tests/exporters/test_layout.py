"""The table of tensors and the dimensions a runtime takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.layout import QUANTIZATIONS, check_dims, check_fits, tensors
from exporters.weights import find_tensors
from tests.exporters.helpers import SMALL, dims


def test_a_real_checkpoint_has_exactly_these_tensors(nano: Path) -> None:
    planned = tensors(dims(width=128, n_audio_layer=4, n_text_layer=4))
    stored = find_tensors(nano)
    assert {tensor.source: tensor.shape for tensor in planned} == {name: t.shape for name, t in stored.items()}
    assert len({tensor.name for tensor in planned}) == len(planned) == 167


def test_names_and_shapes_are_whisper_cpps() -> None:
    by_name = {tensor.name: tensor for tensor in tensors(SMALL)}
    assert by_name["encoder.conv1.bias"].file_dims == (1, 32)
    assert by_name["encoder.conv2.weight"].file_dims == (3, 32, 32)
    assert by_name["decoder.token_embedding.weight"].file_dims == (32, 51_865)
    assert by_name["encoder.ln_post.weight"].file_dims == (32,)
    assert "decoder.blocks.0.cross_attn.key.weight" in by_name
    assert "decoder.blocks.0.cross_attn.key.bias" not in by_name
    kinds = {name: by_name[name].kind for name in ("encoder.conv1.weight", "decoder.positional_embedding")}
    assert kinds == {"encoder.conv1.weight": "convolution", "decoder.positional_embedding": "plain"}


def test_header_types_are_ggmls() -> None:
    assert {name: (q.header_ftype, q.type_code, q.block_bytes) for name, q in QUANTIZATIONS.items()} == {
        "f32": (0, 0, 4),
        "f16": (1, 1, 2),
        "q4_0": (2002, 2, 18),
        "q4_1": (2003, 3, 20),
        "q5_0": (2008, 6, 22),
        "q5_1": (2009, 7, 24),
        "q8_0": (2007, 8, 34),
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_vocab": 51_867}, "vocabulary 51867; accepted: 51864, 51865, 51866"),
        ({"n_vocab": 50_368}, "vocabulary"),
        ({"n_audio_ctx": 750}, "audio positions 750; accepted: 1500"),
        ({"n_text_ctx": 225}, "text positions 225; accepted: 448"),
        ({"n_mels": 64}, "mel bands 64; accepted: 80, 128"),
        ({"n_audio_layer": 0}, "0 encoder layers"),
        ({"n_text_layer": 65}, "65 decoder layers"),
        ({"n_text_head": 3}, "width 32 does not divide by 3 decoder heads"),
        ({"n_audio_head": 0}, "encoder heads"),
        ({"width": 10_000}, "width 10000"),
    ],
)
def test_dimensions_no_runtime_takes(changes: dict[str, int], reason: str) -> None:
    assert reason in check_dims(dims(**changes))


def test_dimensions_that_fit() -> None:
    assert check_dims(SMALL) == ""
    assert check_dims(dims(width=1280, n_vocab=51_866, n_mels=128, n_audio_layer=32, n_text_layer=4)) == ""
    assert check_fits(dims(width=80), QUANTIZATIONS["f16"]) == ""
    assert "blocks of 32" in check_fits(dims(width=80), QUANTIZATIONS["q4_0"])
