"""Words, special tokens and mel filters against those in the openai-whisper package, read from its files."""

from __future__ import annotations

import base64
import json
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from exporters import export_file
from exporters.checkpoint import byte_table
from exporters.readers import check_ggml
from idiolect.whisper import special_tokens
from tests.exporters.helpers import dims, make_checkpoint

_SPEC = find_spec("whisper")
pytestmark = pytest.mark.skipif(_SPEC is None, reason="openai-whisper is not installed: idiolect[dev]")
WHISPER = Path(_SPEC.origin).parent if _SPEC and _SPEC.origin else Path()


def published(name: str) -> list[bytes]:
    """The tokens of a vocabulary as OpenAI publishes it, in id order."""
    lines = (line.split() for line in (WHISPER / "assets" / f"{name}.tiktoken").read_bytes().splitlines() if line)
    found = {int(rank): base64.b64decode(token) for token, rank in lines}
    return [found[rank] for rank in range(len(found))]


def written(path: Path) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], list[bytes]]:
    """Mel filters and tokens of a ggml file."""
    data = path.read_bytes()
    n_mels, n_bins = struct.unpack_from("<2i", data, 48)
    filters = np.frombuffer(data, "<f4", n_mels * n_bins, 56).reshape(n_mels, n_bins)
    at = 56 + filters.nbytes
    (count,) = struct.unpack_from("<i", data, at)
    tokens, at = [], at + 4
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        tokens.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return filters, tokens


def english(folder: Path) -> Path:
    """A checkpoint of an English-only model with GPT-2's vocabulary, as Hugging Face writes it down."""
    made = make_checkpoint(folder, dims(n_vocab=51_864))
    letters = {byte: char for char, byte in byte_table().items()}
    words = {"".join(letters[byte] for byte in token): rank for rank, token in enumerate(published("gpt2"))}
    (made / "vocab.json").write_text(json.dumps(words | {"<|endoftext|>": len(words)}))
    return made


def test_an_english_file_has_the_published_words(tmp_path: Path) -> None:
    export_file(english(tmp_path / "en"), "ggml", "q8_0", tmp_path / "m.bin")
    assert check_ggml(tmp_path / "m.bin").dims.n_vocab == 51_864
    tokens = written(tmp_path / "m.bin")[1]
    assert tokens[:50_256] == published("gpt2")
    assert tokens[50_256:] == [b"<|endoftext|>"]


def test_a_multilingual_file_has_the_published_words(nano: Path, tmp_path: Path) -> None:
    """nano's vocabulary came from another place than the package's."""
    export_file(nano, "ggml", "q8_0", tmp_path / "m.bin")
    tokens = written(tmp_path / "m.bin")[1]
    assert tokens[:50_257] == published("multilingual")[:50_257]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_published_mel_filters(tmp_path: Path, n_mels: int) -> None:
    made = make_checkpoint(tmp_path / "made", dims(n_mels=n_mels))
    export_file(made, "ggml", "q4_0", tmp_path / "m.bin")
    expected = np.load(WHISPER / "assets" / "mel_filters.npz")[f"mel_{n_mels}"]
    assert written(tmp_path / "m.bin")[0].tobytes() == expected.tobytes()


def test_special_tokens_follow_the_words_as_openai_numbers_them() -> None:
    """The order is read from whisper/tokenizer.py: importing it brings PyTorch."""
    listed = (WHISPER / "tokenizer.py").read_text().partition("specials = [")[2].partition("\n    ]")[0]
    assert [line.split('"')[1] for line in listed.splitlines() if '"' in line] == [
        "<|endoftext|>", "<|startoftranscript|>", "<|{lang}|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
        "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", "<|{i * 0.02:.2f}|>",
    ]  # fmt: skip
    for n_vocab, name, languages in ((51_864, "gpt2", 99), (51_865, "multilingual", 99), (51_866, "multilingual", 100)):
        found, words = special_tokens(n_vocab), len(published(name))
        assert (found.eot, found.sot) == (words, words + 1)
        assert (found.translate, found.transcribe) == (words + 2 + languages, words + 3 + languages)
        assert found.no_timestamps == words + 7 + languages
        assert n_vocab == found.no_timestamps + 1 + 1501
