"""The training loop: it learns, stops and goes on as if it had not stopped, and leaves a folder others can read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from idiolect.child import CallbackReporter, Message
from idiolect.errors import DatasetError, JobStopped, UsageError
from idiolect.files import folder_bytes
from tests.training import interrupted
from tests.training.interrupted import values, warnings
from training import finetune_state
from training.finetune import Settings, Source, defaults_for, finetune
from training.loop import Run, _Pace, computes_in_bf16
from training.rows import Rows
from training.selection import Selection

pytestmark = [pytest.mark.torch]
QUICK = Settings(max_steps=8, epochs=4, batch_size=4, full_share=0.0, longer_share=0.0, threads=1)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return interrupted.sources()


def _at_step(step: int, message: Message) -> bool:
    return message.kind == "progress" and message.data["unit"] == "steps" and message.data["done"] == step


def test_it_learns_and_leaves_a_folder_that_transformers_loads(
    nano: Path, sources: list[Source], tmp_path: Path
) -> None:
    from transformers import WhisperForConditionalGeneration

    messages: list[Message] = []
    plain = Settings(full_share=0.0, longer_share=0.0, mask_share=0.0, stretch=0.0, ctc_weight=0.0, new_words_apart=0.0)
    settings = dataclasses.replace(plain, max_steps=30, epochs=12, batch_size=4, learning_rate=3e-4, threads=1)
    outcome = finetune(nano, sources, tmp_path / "me", settings, CallbackReporter(messages.append))
    losses = values(messages, "loss")
    assert losses[-1] < losses[0]
    assert outcome.best_select_errors == min(values(messages, "select_errors"))
    assert (outcome.clips, outcome.steps) == (10, 30)
    config = json.loads((tmp_path / "me" / "config.json").read_text())
    assert config["max_length"] == 448
    assert {path.name for path in nano.iterdir()} == {path.name for path in (tmp_path / "me").iterdir()}
    assert not (tmp_path / "me.state").exists()
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "me", local_files_only=True)
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    nano: Path, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Message] = []
    finetune(nano, sources, tmp_path / "whole", QUICK, CallbackReporter(whole.append))

    first: list[Message] = []
    reporter = CallbackReporter(first.append)

    def stop_after_five(message: Message) -> None:
        first.append(message)
        if _at_step(5, message):
            reporter.stop.set()

    reporter._receive = stop_after_five
    with pytest.raises(JobStopped):
        finetune(nano, sources, tmp_path / "stopped", QUICK, reporter)
    assert not (tmp_path / "stopped").exists()

    # a disk as full as the stopped run left it, and a setting that changes no result
    free = 10**9 - folder_bytes(tmp_path / "stopped.state")
    monkeypatch.setattr("training.finetune.free_bytes", lambda folder: free)
    monkeypatch.setattr(finetune_state, "needed_bytes", lambda *parameters: 10**9)
    second: list[Message] = []
    again = dataclasses.replace(QUICK, checkpoint_s=1e9)
    outcome = finetune(nano, sources, tmp_path / "stopped", again, CallbackReporter(second.append))
    assert {"continued_at_step": 5} in [message.data for message in second]
    assert outcome.steps == 8
    assert values(second, "loss") == pytest.approx(values(whole, "loss"), rel=1e-3)
    errors = [*values(first, "select_errors"), *values(second, "select_errors")]
    assert errors == pytest.approx(values(whole, "select_errors"), abs=0.02)


def test_a_checkpoint_of_other_clips_or_another_language_is_not_continued(
    nano: Path, sources: list[Source], tmp_path: Path
) -> None:
    def stop_after_two(message: Message) -> None:
        if _at_step(2, message):
            reporter.stop.set()

    german = [dataclasses.replace(source, language="de") for source in sources]
    for others in (sources[:8], german):
        reporter = CallbackReporter(stop_after_two)
        with pytest.raises(JobStopped):
            finetune(nano, sources, tmp_path / "me", QUICK, reporter)
        messages: list[Message] = []
        once = dataclasses.replace(QUICK, checkpoint_s=1e9)
        shutil.rmtree(finetune(nano, others, tmp_path / "me", once, CallbackReporter(messages.append)).checkpoint)
        assert not values(messages, "continued_at_step")
        assert "recordings or languages: the training starts from the beginning" in warnings(messages)


@pytest.mark.parametrize("damage", [False, True])
def test_the_best_weights_may_be_lost(nano: Path, sources: list[Source], tmp_path: Path, *, damage: bool) -> None:
    """As by a kill between the two renames that replace them, or a disk that keeps half of what it takes."""

    def stop(message: Message) -> None:
        if len(values(heard, "select_errors")) == 1:
            reporter.stop.set()
        heard.append(message)

    heard: list[Message] = []
    reporter = CallbackReporter(stop)
    with pytest.raises(JobStopped):
        finetune(nano, sources, tmp_path / "me", QUICK, reporter)
    latest = interrupted.state(tmp_path / "me") / "latest" / "state.json"
    state = json.loads(latest.read_text())
    latest.write_text(json.dumps({**state, "best_errors": -1.0}))  # which no later weights reach
    best = latest.parents[1] / "best" / "best.safetensors"
    if damage:
        best.write_bytes(best.read_bytes()[:1000])
    else:
        shutil.rmtree(best.parent)
    told: list[Message] = []
    outcome = finetune(nano, sources, tmp_path / "me", QUICK, CallbackReporter(told.append))
    assert f"{best} is lost or damaged" in warnings(told)
    assert 0.0 <= outcome.best_select_errors < 9.0
    assert not latest.parents[2].exists()


@pytest.mark.parametrize("count", [0, 1])
def test_few_clips_to_choose_by_are_told(nano: Path, sources: list[Source], tmp_path: Path, count: int) -> None:
    messages: list[Message] = []
    kept = [source for source in sources if not source.select] + [source for source in sources if source.select][:count]
    once = dataclasses.replace(QUICK, max_steps=1)
    assert finetune(nano, kept, tmp_path / "me", once, CallbackReporter(messages.append)).steps == 1
    told = f"clips to choose the best weights by: {count}, too few"
    assert any(line.startswith(told) for line in warnings(messages).splitlines())


def test_languages_mix(nano: Path, sources: list[Source], tmp_path: Path) -> None:
    mixed = [dataclasses.replace(source, language=("en", "de")[index % 2]) for index, source in enumerate(sources)]
    settings = dataclasses.replace(QUICK, join_share=1.0)
    outcome = finetune(nano, mixed, tmp_path / "me", settings)
    assert (outcome.clips, outcome.skipped) == (10, ())
    assert outcome.best_select_errors < 1.0


def test_a_clip_that_cannot_teach_is_left_out_and_counted(nano: Path, sources: list[Source], tmp_path: Path) -> None:
    bad = Source("bad.wav", np.full(16_000, np.nan, np.float32), "nothing", "en", select=False)
    messages: list[Message] = []
    settings = Settings(max_steps=1, epochs=1, batch_size=4, full_share=0.0)
    outcome = finetune(nano, [*sources, bad], tmp_path / "me", settings, CallbackReporter(messages.append))
    assert outcome.skipped == ("bad.wav: the audio holds values that are not numbers; record or convert it again",)
    assert any("bad.wav" in message.data.get("message", "") for message in messages if message.kind == "warning")
    with pytest.raises(DatasetError, match="none of 1 clips"):
        finetune(nano, [bad], tmp_path / "other", settings)
    chosen_by = [source for source in sources if source.select]
    with pytest.raises(DatasetError, match="none of 2 clips can be trained on\nthe others serve to choose"):
        finetune(nano, chosen_by, tmp_path / "other", settings)


def test_the_best_weights_are_kept(
    nano: Path, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    name = "model.decoder.layers.0.fc1.weight"
    judged: list[torch.Tensor] = []

    def first_is_best(selection: Selection, model: torch.nn.Module) -> tuple[float, float]:
        judged.append(model.get_parameter(name).detach().half().clone())
        return (0.1 if len(judged) == 1 else 0.3), 0.1

    monkeypatch.setattr(Selection, "errors", first_is_best)
    outcome = finetune(nano, sources, tmp_path / "me", QUICK)
    kept = load_file(outcome.checkpoint / "model.safetensors")[name]
    assert [torch.equal(kept, weights) for weights in judged] == [True] + [False] * (len(judged) - 1)
    assert len(judged) > 1


def test_a_clip_longer_than_nano_ever_heard_trains_with_timestamps(nano: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * 16_000).astype(np.float32)
    long = [Source(f"{i}.wav", noise, "seven six", "de", select=False) for i in range(2)]
    settings = Settings(max_steps=1, epochs=1, batch_size=2, timestamps_share=1.0, full_share=0.0, threads=1)
    assert finetune(nano, long, tmp_path / "me", settings).steps == 1


def test_memory_is_estimated(nano: Path, sources: list[Source], tmp_path: Path) -> None:
    messages: list[Message] = []
    settings = dataclasses.replace(QUICK, max_steps=14, epochs=6)
    finetune(nano, sources, tmp_path / "me", settings, CallbackReporter(messages.append))
    assert 100e6 < values(messages, "estimated_bytes")[0] < 1e9
    assert values(messages, "measured_steps") == [10]


def test_the_time_left_goes_by_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Message] = []
    run = SimpleNamespace(step=0, positions=[9] * 11 + [18] * 5, reporter=CallbackReporter(messages.append))
    monkeypatch.setattr("training.loop.time.monotonic", lambda: 100.0 + 2.0 * run.step)
    pace = _Pace(cast(Run, run))
    for run.step in range(1, 13):
        pace.tell()
    assert values(messages, "estimated_s") == [pytest.approx(5 * 2 * 2.0)]


def test_more_memory_than_is_free_is_told(
    nano: Path, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.memory.at_hand_bytes", lambda device: 10**8)
    messages: list[Message] = []
    once = dataclasses.replace(QUICK, max_steps=1)
    finetune(nano, sources, tmp_path / "me", once, CallbackReporter(messages.append))
    assert "of memory and 0.1 GB are free: choose a smaller tier" in warnings(messages)


def test_clips_of_one_word_each_are_joined(nano: Path, sources: list[Source], tmp_path: Path) -> None:
    """Only between the clips is there a space to be spelled."""
    single = [dataclasses.replace(source, text=source.text.split()[0]) for source in sources]
    settings = dataclasses.replace(QUICK, max_steps=2, join_share=1.0, ctc_weight=0.6, timestamps_share=1.0)
    assert finetune(nano, single, tmp_path / "me", settings).steps == 2


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(UsageError, match="'epoch'"):
        Settings.of({"epoch": 3})
    assert Settings.of({"epochs": None}) == Settings()


def test_bfloat16_is_for_wide_models_on_processors_that_multiply_it() -> None:
    assert computes_in_bf16(384, {"avx512_bf16": True, "amx_bf16": False})
    assert computes_in_bf16(768, {"amx_bf16": True})
    assert not computes_in_bf16(128, {"avx512_bf16": True})
    assert not computes_in_bf16(768, {"avx512_f": True, "avx512_bf16": False})


def test_one_process_trains_in_both_precisions(
    nano: Path, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen: list[torch.dtype] = []
    logits = Rows.logits

    def watched(rows: Rows, states: torch.Tensor) -> torch.Tensor:
        found = logits(rows, states)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr(Rows, "logits", watched)
    monkeypatch.setattr("training.recipe.MANY_CLIPS", 4)
    once = dataclasses.replace(QUICK, max_steps=1)
    for half in (False, True):
        monkeypatch.setattr("training.loop.computes_in_bf16", lambda d_model, processor, half=half: half)
        outcome = finetune(nano, sources, tmp_path / f"{half}", once)
        assert outcome.settings.splice_share == 0.0  # nano has met the digits
    assert seen[0] == torch.float32
    assert seen[-1] == torch.bfloat16


def test_defaults_follow_the_models_size() -> None:
    tiny, small = defaults_for(Settings(), 384), defaults_for(Settings(), 768)
    assert tiny.learning_rate is not None
    assert small.learning_rate is not None
    assert tiny.learning_rate > small.learning_rate
    assert (tiny.noise_share, tiny.echo_share) == (0.2, 0.2)
    few, some, many = (defaults_for(Settings(), 128, clips) for clips in (10, 50, 200))
    rates = [settings.learning_rate or 0.0 for settings in (few, some, many)]
    assert 0.0 < rates[0] < rates[1] < rates[2]
    assert 0.0 < (some.ctc_weight or 0.0) < (many.ctc_weight or 0.0)
    assert [settings.new_words_apart for settings in (few, some, many)] == [1.0, 0.0, 0.0]
    assert [settings.splice_share for settings in (few, some)] == [0.0, 0.0]
    assert (some.longer_share or 0.0) > (many.longer_share or 0.0) > 0.0
    assert many == defaults_for(Settings(), 128)
    assert (many.noise_share, many.echo_share) == (0.0, 0.0)
    known = defaults_for(Settings(), 128, 200, new_tokens=False)
    assert (known.learning_rate or 0.0) < (many.learning_rate or 0.0)
    assert (known.splice_share, many.splice_share) == (0.0, 0.4)
    assert (known.join_share, many.join_share, tiny.join_share) == (0.5, 0.0, 0.0)
    assert defaults_for(Settings(), 128, 50, new_tokens=False) == some
    assert defaults_for(Settings(full_share=0.0), 128, 50).full_share == 0.0
    epochs = [defaults_for(Settings(), 384, clips).epochs for clips in (10, 60, 159, 160, 5_000)]
    assert epochs == [24.0, 16.0, pytest.approx(6.04, abs=0.01), 6.0, 6.0]
    assert defaults_for(Settings(epochs=1, learning_rate=0.5), 384).learning_rate == 0.5
