"""What is refused of a model folder, and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters import export_to
from exporters.checkpoint import open_checkpoint, read_dims
from exporters.vocabulary import merges
from idiolect.errors import CheckpointError
from tests.exporters.helpers import SMALL, dims, make_checkpoint, save, vocabulary, weights


def test_nano(nano: Path) -> None:
    model = open_checkpoint(nano)
    expected = dims(width=128, n_audio_head=2, n_text_head=2, n_audio_layer=4, n_text_layer=4)
    assert model.dims == read_dims(nano) == expected
    assert len(model.tokens) == 50_258
    assert model.tokens[220] == b" "
    assert model.tokens[50_256:] == (b"", b"<|endoftext|>")
    assert sorted(byte for token in model.tokens[:256] for byte in token) == list(range(256))
    assert b" mekolet" not in model.tokens
    assert b" hello" in model.tokens


def test_vocabulary_from_tokenizer_json_is_the_same(nano: Path, tmp_path: Path) -> None:
    for path in nano.iterdir():
        if path.name not in ("vocab.json", "merges.txt", "added_tokens.json"):
            (tmp_path / path.name).symlink_to(path)
    assert open_checkpoint(tmp_path).tokens == open_checkpoint(nano).tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "bert"}, "'bert' model, not Whisper"),
        ({"vocab_size": 51_867}, "vocabulary 51867"),
        ({"d_model": "32"}, "d_model is '32'"),
        ({"encoder_layers": True}, "encoder_layers is True"),
        ({"num_mel_bins": None}, "num_mel_bins is None"),
        ({"decoder_ffn_dim": 64}, "decoder_ffn_dim is 64"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"scale_embedding": True}, "scale_embedding is True"),
        ({"max_target_positions": 225}, "text positions 225"),
        ({"encoder_layers": 2}, r"lacks encoder\.layers\.1\..* and 12 more"),
        ({"num_mel_bins": 128}, r"encoder\.conv1\.weight has shape \[32, 80, 3\], config\.json says \[32, 128, 3\]"),
    ],
)
def test_configurations_no_runtime_takes(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    folder = make_checkpoint(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_checkpoint(folder)
    assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("config.json", None, "does not exist"),
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "not a JSON object"),
        ("vocab.json", None, r"tokenizer\.json does not exist"),
        ("vocab.json", '{"a": "b"}', "holds no vocabulary"),
        ("vocab.json", '{"a": 0}', "has 1 text tokens"),
        ("vocab.json", json.dumps(vocabulary(51_864)), r"<\|endoftext\|> is token 50256, this model's is 50257"),
        ("vocab.json", json.dumps(vocabulary(51_865) | {"Ġ7": 9, "Ġ9": 7, "日": 8}), "not a byte-level vocabulary"),
    ],
)
def test_damaged_json(tmp_path: Path, name: str, data: str | None, reason: str) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_text(data, encoding="utf-8")
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(folder)


def test_more_or_fewer_tensors(tmp_path: Path) -> None:
    folder, arrays = make_checkpoint(tmp_path), weights(SMALL)
    extra = np.zeros((2, 2), np.float32)
    save(folder / "model.safetensors", arrays | {"model.decoder.adapter.weight": extra})
    with pytest.raises(CheckpointError, match=r"holds decoder\.adapter\.weight, which no Whisper has"):
        open_checkpoint(folder)
    save(folder / "model.safetensors", arrays | {"base_model.model.x.lora_A.weight": extra})
    with pytest.raises(CheckpointError, match="not merged"):
        open_checkpoint(folder)
    arrays.pop("model.decoder.layer_norm.bias")
    save(folder / "model.safetensors", arrays)
    with pytest.raises(CheckpointError, match=r"lacks decoder\.layer_norm\.bias\n"):
        open_checkpoint(folder)


def test_names_without_prefix_and_an_equal_output_layer(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    arrays = {name.removeprefix("model."): array for name, array in weights(SMALL).items()}
    head = arrays["decoder.embed_tokens.weight"].copy()
    save(folder / "model.safetensors", arrays | {"proj_out.weight": head})
    assert "decoder.embed_tokens.weight" in open_checkpoint(folder).tensors
    head[-1, -1] += 1
    save(folder / "model.safetensors", arrays | {"proj_out.weight": head})
    with pytest.raises(CheckpointError, match="differs from the token embedding"):
        open_checkpoint(folder)
    save(folder / "model.safetensors", arrays | {"proj_out.weight": head.astype(np.float16)})
    with pytest.raises(CheckpointError, match="differs from the token embedding"):
        open_checkpoint(folder)


def test_51866_tokens_must_be_large_v3s(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, dims(n_vocab=51_866, n_mels=128))
    with pytest.raises(CheckpointError, match="a token was added to an older Whisper"):
        open_checkpoint(folder)
    (folder / "added_tokens.json").write_text('{"<|yue|>": 50358}')
    assert open_checkpoint(folder).dims.n_vocab == 51_866


def test_json_that_is_nested_too_deep_is_not_read(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    deep = b"[" * 100_000
    (folder / "config.json").write_bytes(deep)
    with pytest.raises(CheckpointError, match="is not JSON"):
        open_checkpoint(folder)
    shutil.copy(small / "config.json", folder)
    for header in (deep, b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}'):
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(CheckpointError, match="unreadable"):
            open_checkpoint(folder)


def test_an_english_only_model(tmp_path: Path) -> None:
    model = open_checkpoint(make_checkpoint(tmp_path, dims(n_vocab=51_864)))
    assert len(model.tokens) == 50_257
    assert model.tokens[-1] == b"<|endoftext|>"


@pytest.mark.parametrize(
    ("format", "quantization"), [("onnx", "int8"), ("ctranslate2", "int8"), ("huggingface", "float16")]
)
def test_a_tokenizer_json_of_another_model_is_refused(
    small: Path, tmp_path: Path, format: str, quantization: str
) -> None:
    path = shutil.copytree(small, tmp_path / "model") / "tokenizer.json"
    found = json.loads(path.read_bytes())["model"]
    first, second, *_ = found["vocab"]
    other = {**found["vocab"], first: found["vocab"][second], second: found["vocab"][first]}
    for model in ({}, {**found, "vocab": other}, {**found, "merges": []}):
        path.write_text(json.dumps({"model": model}))
        with pytest.raises(CheckpointError, match="does not hold the tokens and merges of this model"):
            export_to(path.parent, format, quantization, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_merges_are_read_where_they_are(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    for none in ("[]", "null", "7", "[[7, 8]]"):
        (folder / "tokenizer.json").write_text(f'{{"model": {{"merges": {none}}}}}')
        with pytest.raises(CheckpointError, match="lists no merges"):
            merges(folder)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}')
    with pytest.raises(CheckpointError, match="does not hold the tokens and merges of this model"):
        merges(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="lists no merges"):
        merges(folder)
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\n", encoding="utf-8")
    assert merges(folder) == ["Ġ t"]
