"""WhisperKit's contract as a table, and the names its apps list."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporters.whisperkit import PARTS, Feature, contract, is_listed
from tests.exporters.helpers import SMALL


def test_the_caches_grow_with_the_layers_and_the_outputs_with_alignment() -> None:
    dims = replace(SMALL, n_text_layer=4, n_audio_state=384, n_text_state=384)
    decoder = contract("TextDecoder", dims, True)
    assert Feature("key_cache", (1, 1536, 1, 224), "float16") in decoder.inputs  # the published tiny's
    assert Feature("alignment_heads_weights", (1, 1500), "float16") in decoder.outputs
    assert contract("TextDecoder", dims, False).outputs == decoder.outputs[:3]
    mel, encoder = (contract(part, dims, True) for part in PARTS[:2])
    assert mel.outputs == encoder.inputs
    assert encoder.outputs[0] in decoder.inputs


@pytest.mark.parametrize("name", ["a-tiny", "my_whisper-base.en", "x-small", "large-v3-turbo_6bit", "openai-large"])
def test_listed_names(name: str) -> None:
    assert is_listed(name)


@pytest.mark.parametrize("name", ["m_whisper-nano", "tiny-int8", "base.de", "smaller"])
def test_names_that_are_not_listed(name: str) -> None:
    assert not is_listed(name)
