"""The saved folder: random models of every vocabulary and mel setting, adapters merged, the files converters want."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from idiolect.whisper import special_tokens
from tests.training.interrupted import train
from tests.training.samples import sound
from training import lora
from training.decode import load_model
from training.finetune import Settings, Source, finetune
from training.model_card import Card, card_text, write_card
from training.saved_folder import complete_generation

if TYPE_CHECKING:
    import torch

QUICK = Settings(max_steps=2, epochs=4, batch_size=2, threads=1, learning_rate=1e-3)
Maker = Callable[..., Path]


@pytest.fixture
def small(nano: Path, tmp_path: Path) -> Maker:
    """Makes a folder of a tiny random Whisper with nano's tokenizer."""

    def make(vocab_size: int = 51_865, n_mels: int = 80) -> Path:
        import torch
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        torch.manual_seed(0)
        config: Any = WhisperConfig(
            vocab_size=vocab_size,
            num_mel_bins=n_mels,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=1,
            decoder_attention_heads=1,
            encoder_ffn_dim=256,
            decoder_ffn_dim=256,
        )
        folder = tmp_path / f"base-{vocab_size}-{n_mels}"
        WhisperForConditionalGeneration(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            shutil.copy(nano / name, folder / name)
        return folder

    return make


def _sources(language: str = "en") -> list[Source]:
    return [Source(f"{i}.wav", sound(1.5, seed=i), "milk and eggs", language, i == 3) for i in range(4)]


@pytest.mark.torch
@pytest.mark.parametrize(("vocab_size", "n_mels"), [(51_864, 80), (51_865, 80), (51_866, 128)])
def test_every_vocabulary_and_mel_setting_trains(small: Maker, tmp_path: Path, vocab_size: int, n_mels: int) -> None:
    from safetensors.torch import load_file

    base = small(vocab_size, n_mels)
    finetune(base, _sources(), tmp_path / "me", QUICK, mel_cache=tmp_path / "mels")
    saved = json.loads((tmp_path / "me" / "generation_config.json").read_text())
    special = special_tokens(vocab_size)
    assert saved["no_timestamps_token_id"] == special.no_timestamps
    assert saved["is_multilingual"] is special.multilingual
    assert saved["max_length"] == 448
    assert json.loads((tmp_path / "me" / "config.json").read_text())["max_length"] == 448
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "me" / "model.safetensors").values()} == {
        "torch.float16"
    }


@pytest.mark.torch
def test_a_base_with_one_tokenizer_file_gets_the_older_ones(nano: Path, small: Maker, tmp_path: Path) -> None:
    finetune(small(), _sources(), tmp_path / "me", QUICK)
    for name in ("vocab.json", "added_tokens.json"):
        assert json.loads((tmp_path / "me" / name).read_text()) == json.loads((nano / name).read_text()), name
    assert (tmp_path / "me" / "merges.txt").read_text().split("\n") == (nano / "merges.txt").read_text().split("\n")


@pytest.mark.torch
def test_an_english_model_refuses_other_languages(small: Maker, tmp_path: Path) -> None:
    base = small(51_864)
    mixed = [*_sources(), Source("de.wav", sound(1.5, seed=9), "Milch", "de", False)]
    outcome = finetune(base, mixed, tmp_path / "me", QUICK)
    assert outcome.skipped == (
        "de.wav: this model knows English alone, and the language is 'de'; take one without .en",
    )


@pytest.mark.torch
def test_adapters_are_merged_and_leave_the_rest_alone(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="needs the [lora] extra")
    from safetensors.torch import load_file

    answers: list[torch.Tensor] = []
    merge = lora.merge

    def watched(model: torch.nn.Module) -> None:
        answers.append(_states(model))
        merge(model)

    monkeypatch.setattr(lora, "merge", watched)
    settings = Settings(max_steps=8, epochs=8, batch_size=4, lora_rank=4, threads=1, longer_share=0, full_share=0)
    train(nano, tmp_path / "me", settings, [])
    with_adapters, stock, merged = answers[0], _states(load_model(nano)[0]), _states(load_model(tmp_path / "me")[0])
    assert (merged - with_adapters).abs().max() < 0.05 * (merged - stock).abs().max()
    before, after = (load_file(folder / "model.safetensors") for folder in (nano, tmp_path / "me"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert any("q_proj" in name for name in changed)
    assert all(name.endswith("proj.weight") or ".fc" in name or "embed_tokens" in name for name in changed)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "me").iterdir()} == {0o644}


def _states(model: Any) -> torch.Tensor:  # noqa: ANN401
    import torch

    mel = torch.randn((1, 80, 3000), generator=torch.Generator().manual_seed(0))
    prompt = torch.tensor([[50258, 50259, 50359, 50363]])
    with torch.inference_mode():
        states: torch.Tensor = model.eval().model(mel, decoder_input_ids=prompt).last_hidden_state
    return states


def test_what_a_base_says_itself_stays() -> None:
    special = special_tokens(51_865)
    complete = complete_generation({"suppress_tokens": [1], "max_length": None, "eos_token_id": 7}, special)
    assert complete["suppress_tokens"] == [1]
    assert complete["max_length"] == 448
    assert complete["eos_token_id"] == 7
    assert complete["lang_to_id"]["<|he|>"] == special.language("he")
    assert "lang_to_id" not in complete_generation({}, special_tokens(51_864))


def test_the_card_tells_what_was_measured(tmp_path: Path) -> None:
    card = Card("openai/whisper-tiny", "Apache-2.0", ["en", "he"], 120, 1800.0, 60, 0.25, 0.1, 30)
    write_card(tmp_path, card)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "license: apache-2.0" in text
    assert "base_model: openai/whisper-tiny" in text
    assert "0.50 hours" in text
    assert "10.0% (the stock model's: 25.0%)" in text
    assert "not measured" in card_text(Card("nano", "", ["en"], 1, 1.0, 1))
