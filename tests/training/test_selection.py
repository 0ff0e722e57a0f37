"""The clips that choose the best weights: judged however little memory there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from idiolect.child import CallbackReporter, Message
from idiolect.whisper import special_tokens
from tests.training.interrupted import sources, warnings
from training import selection
from training.decode import greedy, load_model
from training.examples import ExampleMaker
from training.selection import Selection

pytestmark = [pytest.mark.torch]


def test_too_little_memory_judges_fewer_clips_at_once(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(nano)
    special = special_tokens(model.config.vocab_size)
    make = ExampleMaker(tokenizer, special, model.config.num_mel_bins)
    clips = [make(source.name, source.pcm, source.text, source.language) for source in sources()]
    messages: list[Message] = []
    reporter = CallbackReporter(messages.append)
    expected = Selection(clips, special, 6_000, reporter).errors(model)
    assert 0.0 < expected[0] < 1.0
    assert not messages

    most = 1_000

    def little(model: Any, hidden: Any, *rest: Any, **options: Any) -> list[list[int]]:  # noqa: ANN401
        if hidden.shape[0] * hidden.shape[1] > most:
            raise MemoryError
        return greedy(model, hidden, *rest, **options)

    monkeypatch.setattr(selection, "greedy", little)
    judge = Selection(clips, special, 6_000, reporter)
    assert judge.errors(model)[0] == pytest.approx(expected[0], abs=0.05)
    told = warnings(messages).splitlines()
    assert told == ["out of memory while choosing the best weights: half as much at once from now on"] * len(told)
    assert 1 <= len(told) <= 3
    judge.errors(model)
    assert warnings(messages).splitlines() == told
    most = 0
    with pytest.raises(MemoryError):
        judge.errors(model)
