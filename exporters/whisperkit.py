"""What WhisperKit expects of a Core ML Whisper: the three parts, their inputs and outputs, and the folder's name.

Source: argmaxinc/WhisperKit at 984ab42, Sources/WhisperKit: `Core/FeatureExtractor.swift`, `Core/AudioEncoder.swift`,
`Core/TextDecoder.swift`, `Utilities/ModelUtilities.swift`. WhisperKit checks next to nothing of this: a wrong type is
copied byte by byte into its caches, a wrong rank ends the app.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exporters.layout import Dims
from idiolect.whisper import MAX_FRAMES, MAX_POSITIONS, MAX_SAMPLES

Dtype: TypeAlias = Literal["float16", "float32", "int32"]

PARTS = ("MelSpectrogram", "AudioEncoder", "TextDecoder")
QUANTIZATIONS = ("f16", "int8", "palette6")
KV_LENGTH = 224  # WhisperKit decodes at most 448 / 2 tokens and writes its caches and masks up to index 223
MASKED = -10_000.0  # what the key padding mask adds where nothing was said yet
SPEC_VERSION, OPSET = 7, "CoreML6"  # iOS 16, macOS 13
ALIGNMENT = "alignment_heads_weights"
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "config.json")  # without them WhisperKit asks the network
OPTIONAL_COMPANIONS = ("generation_config.json",)
TOKENIZER_CLASSES = (
    "WhisperTokenizer",
    "WhisperTokenizerFast",
    "GPT2Tokenizer",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
)
_LISTED = re.compile(r"(tiny|base|small|medium)(\.en)?$|large(-v[23])?")


@dataclass(frozen=True)
class Feature:
    """One input or output of a part."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype


@dataclass(frozen=True)
class Contract:
    """What one part takes and gives, in order."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]


def contract(part: str, dims: Dims, aligned: bool) -> Contract:
    """The contract of one of PARTS; `aligned`: the decoder also tells where in the audio it listens."""
    width, cache = dims.n_audio_state, (1, dims.n_text_state * dims.n_text_layer, 1, KV_LENGTH)
    mel = Feature("melspectrogram_features", (1, dims.n_mels, 1, MAX_FRAMES), "float16")
    heard = Feature("encoder_output_embeds", (1, width, 1, MAX_POSITIONS), "float16")
    if part == "MelSpectrogram":
        return Contract((Feature("audio", (MAX_SAMPLES,), "float32"),), (mel,))
    if part == "AudioEncoder":
        return Contract((mel,), (heard,))
    update = (*cache[:3], 1)
    alignment = (Feature(ALIGNMENT, (1, MAX_POSITIONS), "float16"),) if aligned else ()
    return Contract(
        (
            Feature("input_ids", (1,), "int32"),
            Feature("cache_length", (1,), "int32"),
            Feature("key_cache", cache, "float16"),
            Feature("value_cache", cache, "float16"),
            Feature("kv_cache_update_mask", (1, KV_LENGTH), "float16"),
            heard,
            Feature("decoder_key_padding_mask", (1, KV_LENGTH), "float16"),
        ),
        (
            Feature("logits", (1, 1, dims.n_vocab), "float16"),
            Feature("key_cache_updates", update, "float16"),
            Feature("value_cache_updates", update, "float16"),
            *alignment,
        ),
    )


def is_listed(folder_name: str) -> bool:
    """True when apps like WhisperAX list a local folder of that name: it ends in the size, or contains "large"."""
    return _LISTED.search(folder_name) is not None
