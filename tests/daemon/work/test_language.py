"""A random model of Whisper tiny's size in the place of the stock one: it hears something, and is sure of nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.exporting import TINY, make_checkpoint
from daemon.work import language
from daemon.work.spec import JobClip
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.whisper import LANGUAGES

SECONDS = (2.5, 3.0, 1.0)


@pytest.mark.parametrize(
    ("width", "vocabulary", "knows"),
    [(128, 51_865, False), (384, 51_864, False), (384, 51_865, True), (1280, 51_866, True)],
    ids=["nano", "tiny.en", "tiny", "large-v3"],
)
def test_only_the_multilingual_tiers_tell_languages(width: int, vocabulary: int, knows: bool) -> None:
    assert language.knows_languages(width, vocabulary) is knows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_checkpoint(folder, TINY)
    return folder


def clips_of(code: str) -> tuple[list[JobClip], list[np.ndarray]]:
    pcms = [np.random.default_rng(0).normal(0, 0.1, round(16_000 * s)).astype(np.float32) for s in SECONDS]
    clips = [
        JobClip(path=Path(f"{n}.wav"), duration_s=s, pcm_sha256=f"{n}", text="x", language=code, side="train")
        for n, s in enumerate(SECONDS)
    ]
    return clips, pcms


@pytest.mark.torch
def test_clips_are_heard_once_and_told_when_it_is_sure(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[Message] = []
    reporter = CallbackReporter(messages.append)
    clips, pcms = clips_of("en")
    assert language.listen(tiny, clips, pcms, tmp_path, reporter) == {}  # random weights are sure of nothing
    assert messages[0].data == {"name": "listen for the language"}
    assert messages[-1].data == {"done": 2, "total": 2, "unit": "clips"}  # the third is too short to tell

    kept = next((tmp_path / language.FOLDER).iterdir())
    heard = json.loads(kept.read_text())
    assert set(heard) == {"0", "1"}
    assert all(code in LANGUAGES and 0 < likely < 1 for code, likely in heard.values())

    messages.clear()
    kept.write_text(json.dumps({"0": ["de", 0.93], "1": ["en", 0.99]}))
    told = language.listen(tiny, clips, pcms, tmp_path, reporter)
    assert told == {"0": "sounds like 'de' (93% sure), and the language is 'en'"}
    assert messages == []  # nothing was left to hear

    kept.write_text("[broken")
    monkeypatch.setattr(language, "MOST_CLIPS", 1)
    language.listen(tiny, clips, pcms, tmp_path, Reporter())
    assert set(json.loads(kept.read_text())) == {"0"}
    language.listen(tiny, clips, pcms, tmp_path, Reporter())
    assert set(json.loads(kept.read_text())) == {"0", "1"}


@pytest.mark.torch
def test_nano_is_not_asked(nano: Path, tmp_path: Path) -> None:
    clips, pcms = clips_of("de")
    assert language.listen(nano, clips, pcms, tmp_path, Reporter()) == {}
    assert list(tmp_path.iterdir()) == []
