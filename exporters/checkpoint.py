"""A Hugging Face Whisper folder, read without torch: dimensions, vocabulary, weights in pieces.

Everything that no exporter could use is refused here, by `open_checkpoint`, before anyone writes a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.layout import Dims, check_dims, tensors
from exporters.weights import StoredTensor, find_tensors, read_json
from idiolect.errors import CheckpointError
from idiolect.whisper import special_tokens

_TIED_HEAD = "proj_out.weight"
_EMBEDDING = "decoder.embed_tokens.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that an exporter can use; `tensors` by Hugging Face name without `model.`, `tokens` by id."""

    folder: Path
    dims: Dims
    tokens: tuple[bytes, ...]
    tensors: Mapping[str, StoredTensor]


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a Whisper folder; the weights stay on disk.

    Raises CheckpointError naming the file and what is wrong with it.
    """
    config = read_json(folder / "config.json", "expected a Hugging Face Whisper folder")
    dims = _dims(folder / "config.json", config)
    stored = find_tensors(folder)
    _check_tensors(folder, dims, stored)
    _check_tied(stored)
    return Checkpoint(folder, dims, read_tokens(folder, dims), stored)


def read_dims(folder: Path) -> Dims:
    """Only the dimensions of a Whisper folder, from its config.json. Raises CheckpointError."""
    return _dims(folder / "config.json", read_json(folder / "config.json", "expected a Hugging Face Whisper folder"))


def _dims(path: Path, config: dict[str, Any]) -> Dims:
    if config.get("model_type") != "whisper":
        kind = config.get("model_type", "nameless")
        raise CheckpointError(f"{path} describes a {kind!r} model, not Whisper", "name the folder of a Whisper model")

    def number(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{path}: {key} is {value!r}", "expected a whole number; copy it from the base model")
        return value

    # max_length also stands in a config.json, but it is a generation setting: the position table has this size.
    width = number("d_model")
    dims = Dims(
        n_vocab=number("vocab_size"),
        n_audio_ctx=number("max_source_positions"),
        n_audio_state=width,
        n_audio_head=number("encoder_attention_heads"),
        n_audio_layer=number("encoder_layers"),
        n_text_ctx=number("max_target_positions"),
        n_text_state=width,
        n_text_head=number("decoder_attention_heads"),
        n_text_layer=number("decoder_layers"),
        n_mels=number("num_mel_bins"),
    )
    if reason := check_dims(dims):
        hint = "added tokens shift every special token: train without adding any" if "vocabulary" in reason else ""
        raise CheckpointError(f"{path}: {reason}", hint or "no Whisper runtime takes such a model")
    for key in ("encoder_ffn_dim", "decoder_ffn_dim"):
        if number(key) != 4 * width:
            raise CheckpointError(f"{path}: {key} is {number(key)}", f"runtimes expect four times d_model, {4 * width}")
    for key, accepted in (("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(key, accepted) != accepted:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}", f"runtimes compute with {accepted!r}")
    return dims


def _check_tensors(folder: Path, dims: Dims, stored: Mapping[str, StoredTensor]) -> None:
    if any("lora_" in name or name.startswith("base_model.") for name in stored):
        raise CheckpointError(f"{folder} holds an adapter that was not merged", "call merge_and_unload() before saving")
    expected = {tensor.source: tensor.shape for tensor in tensors(dims)}
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(f"{folder} lacks {_some(missing)}", "save the whole model again")
    if unknown := sorted(stored.keys() - expected.keys() - {_TIED_HEAD}):
        raise CheckpointError(f"{folder} holds {_some(unknown)}, which no Whisper has", "export a plain Whisper")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {list(stored[name].shape)}, config.json says {list(shape)}",
                "config.json and weights belong to different models; copy both again",
            )


def _check_tied(stored: Mapping[str, StoredTensor]) -> None:
    """Runtimes use the token embedding as output layer too: a separate one must be equal."""
    head, embedding = stored.get(_TIED_HEAD), stored[_EMBEDDING]
    if head is not None and not head.same_bytes(embedding):
        raise CheckpointError(
            f"{_TIED_HEAD} in {head.file} differs from the token embedding, and runtimes have only one of the two",
            "train with tied weights (tie_word_embeddings = true)",
        )


def read_tokens(folder: Path, dims: Dims) -> tuple[bytes, ...]:
    """The bytes of every text token up to end-of-text, in id order. Raises CheckpointError."""
    vocabulary, path = _vocabulary(folder)
    eot = special_tokens(dims.n_vocab).eot
    words = {index: word for word, index in vocabulary.items()}
    count = min(len(words), eot + 1)
    if count < eot or any(index not in words for index in range(count)):
        raise CheckpointError(f"{path} has {count} text tokens, a Whisper of this size has {eot}", _TOKENIZER_HINT)
    if vocabulary.get("<|endoftext|>", eot) != eot:
        found = vocabulary["<|endoftext|>"]
        raise CheckpointError(f"{path}: <|endoftext|> is token {found}, this model's is {eot}", _TOKENIZER_HINT)
    if dims.n_vocab == 51_866 and not _knows_cantonese(folder):
        raise CheckpointError(
            f"{folder}: 51866 tokens without <|yue|>: a token was added to an older Whisper, which shifts all others",
            "train without adding tokens",
        )
    table = byte_table()
    try:
        return tuple(bytes(map(table.__getitem__, words[index])) for index in range(count))
    except KeyError as error:
        raise CheckpointError(f"{path} is not a byte-level vocabulary: it holds {error}", _TOKENIZER_HINT) from None


def check_tokenizer(folder: Path) -> None:
    """What some apps read alone: raises CheckpointError for a tokenizer.json of other tokens than vocab.json's, or that
    splits words by no merges."""
    path = folder / TOKENIZER
    model = read_json(path, f"{_TOKENIZER_HINT}; newer tools save it").get("model")
    found = model if isinstance(model, dict) else {}
    held, expected = found.get("vocab"), _vocabulary(folder)[0]
    same = isinstance(held, dict) and spelled(held) == spelled(expected)
    if not same or not found.get("merges"):
        raise CheckpointError(f"{path} does not hold the tokens and merges of this model", _TOKENIZER_HINT)


TOKENIZER = "tokenizer.json"
_TOKENIZER_HINT = "copy the tokenizer's files from the base model's folder"


def _vocabulary(folder: Path) -> tuple[dict[str, int], Path]:
    """Token → id, from vocab.json or, as newer tools save it, from tokenizer.json."""
    path = folder / "vocab.json"
    if path.is_file():
        vocabulary: object = read_json(path, _TOKENIZER_HINT)
    else:
        path = folder / TOKENIZER
        model = read_json(path, _TOKENIZER_HINT).get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(type(index) is int for index in vocabulary.values()):
        raise CheckpointError(f"{path} holds no vocabulary", _TOKENIZER_HINT)
    return vocabulary, path


def spelled(vocabulary: dict[str, int]) -> dict[str, int]:
    """The tokens without the special ones, which tools list here or elsewhere."""
    return {token: index for token, index in vocabulary.items() if not (token[:2] == "<|" and token[-2:] == "|>")}


def _knows_cantonese(folder: Path) -> bool:
    names = ("added_tokens.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return any(b'"<|yue|>"' in path.read_bytes() for name in names if (path := folder / name).is_file())


def byte_table() -> dict[str, int]:
    """GPT-2's alphabet for bytes: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
