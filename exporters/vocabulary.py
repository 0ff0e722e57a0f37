"""Token ids as texts, the way byte-level tokenizers write them, and what generation_config.json says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporters.checkpoint import byte_table, check_tokenizer
from exporters.weights import read_json
from idiolect.errors import CheckpointError
from idiolect.whisper import LANGUAGES, special_tokens

HINT = "copy the tokenizer's files from the base model's folder"


def token_texts(tokens: Sequence[bytes], n_vocab: int) -> list[str]:
    """Every id's text: the first ones of `tokens` in GPT-2's alphabet for bytes, then the special tokens' names."""
    special = special_tokens(n_vocab)
    chars = {byte: char for char, byte in byte_table().items()}
    texts = ["".join(chars[byte] for byte in token) for token in tokens[: special.eot]]
    names = ["endoftext", "startoftranscript", *LANGUAGES[: special.n_languages], "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    names += [f"{index * 0.02:.2f}" for index in range(n_vocab - special.timestamp_begin)]
    return texts + [f"<|{name}|>" for name in names]


def token_settings(folder: Path, n_vocab: int) -> dict[str, Any]:
    """`suppress_tokens`, `begin_suppress_tokens` and `alignment_heads` of generation_config.json; None where absent.

    Raises CheckpointError for a file that is no JSON object. What does not fit the vocabulary is left out.
    """
    path = folder / "generation_config.json"
    found = read_json(path, "copy it from the base model's folder") if path.is_file() else {}
    settings: dict[str, Any] = {}
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        ids = found.get(key)
        known = isinstance(ids, list) and all(type(token) is int and -1 <= token < n_vocab for token in ids)
        settings[key] = ids if known else None
    heads = found.get("alignment_heads")
    pairs = isinstance(heads, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in heads)
    settings["alignment_heads"] = heads if pairs else None
    return settings


def merges(folder: Path) -> list[str]:
    """The tokenizer's merges in order, "left right" each, from tokenizer.json, or from merges.txt.

    Raises CheckpointError where neither lists them, and for a tokenizer.json of other tokens.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        found = read_json(path, HINT).get("model")
        pairs = found.get("merges") if isinstance(found, dict) else None
        parts = [pair if isinstance(pair, list) else [pair] for pair in pairs] if isinstance(pairs, list) else []
        if parts and all(isinstance(part, str) for pair in parts for part in pair):
            check_tokenizer(folder)
            return [" ".join(pair) for pair in parts]
    try:
        lines = (folder / "merges.txt").read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} lists no merges", HINT) from error
    if found_lines := [line for line in lines if line and not line.startswith("#version")]:
        return found_lines
    raise CheckpointError(f"{folder} lists no merges", HINT)
