from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.audio import decode
from training.quality import judge, judge_language, measure, rejection, warnings
from training.transcripts import read_metadata

RATE_HZ = 16_000
Damage = Callable[[np.ndarray], np.ndarray]


def voice(voices: Path, name: str = "digits_000.ogg") -> np.ndarray:
    return decode(voices / "human" / name)


def noise(size: int, level: float) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(size)).astype(np.float32)


def hum(size: int, mains_hz: float, level: float) -> np.ndarray:
    at_s = np.arange(size) / RATE_HZ
    tones = [np.sin(2 * np.pi * mains_hz * n * at_s) / n for n in (1, 2, 3)]
    return np.asarray(level * np.sum(tones, axis=0), np.float32)


DAMAGES: dict[str, tuple[str, str, Damage]] = {
    "overdriven": ("clipping", "rejection", lambda pcm: np.clip(80 * pcm, -1, 1)),
    "a little overdriven": ("clipping", "warning", lambda pcm: np.clip(8 * pcm, -1, 1)),
    "overdriven, then turned down": ("clipping", "rejection", lambda pcm: 0.1 * np.clip(80 * pcm, -1, 1)),
    "nothing": ("silence", "rejection", np.zeros_like),
    "next to nothing": ("silence", "rejection", lambda pcm: noise(pcm.size, 1e-4)),
    "far away": ("quiet", "warning", lambda pcm: 0.01 * pcm),
    "noisy": ("noise", "warning", lambda pcm: pcm + noise(pcm.size, 0.1)),
    "50 Hz": ("hum", "warning", lambda pcm: pcm + hum(pcm.size, 50, 0.04)),
    "60 Hz": ("hum", "warning", lambda pcm: pcm + hum(pcm.size, 60, 0.04)),
    "a long pause": ("pause", "warning", lambda pcm: np.concatenate([pcm, noise(8 * RATE_HZ, 1e-4), pcm])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("number", [0, 7, 20])
def test_every_damage_is_found_and_the_undamaged_is_not(voices: Path, name: str, number: int) -> None:
    kind, severity, damage = DAMAGES[name]
    pcm = voice(voices, f"digits_{number:03d}.ogg")

    assert judge(measure(pcm)) == []
    found = {finding.kind: finding.severity for finding in judge(measure(damage(pcm).astype(np.float32)))}
    assert found[kind] == severity


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["human", "synthetic"])
def test_nothing_is_said_of_the_demo_recordings(voices: Path, folder: str) -> None:
    rows = read_metadata(voices / folder / "metadata.jsonl").rows
    judged = {name: judge(measure(decode(voices / folder / name)), row.text) for name, row in rows.items()}

    assert len(judged) == len(list((voices / folder).glob("*.ogg")))
    assert {name: findings for name, findings in judged.items() if findings} == {}


@pytest.mark.parametrize(
    ("text", "language", "kind", "severity"),
    [
        ("word " * 40, "en", "rate", "rejection"),
        ("eight seven seven eight nine and then some more of all of these words here", "en", "rate", "warning"),
        ("אחת שתיים שלוש", "en", "language", "warning"),
        ("one two three", "he", "language", "warning"),
        ("раз два три", "de", "language", "warning"),
        ("one two three", "zh", "language", "warning"),
    ],
)
def test_texts_that_do_not_fit(voices: Path, text: str, language: str, kind: str, severity: str) -> None:
    findings = judge(measure(voice(voices)), text, language)

    assert (kind, severity) in [(finding.kind, finding.severity) for finding in findings]
    assert any(char.isdigit() for char in findings[0].message)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("one two", "en"),
        ("eins zwei", "de"),
        ("אחת שתיים", "he"),
        ("раз, два", "ru"),
        ("一二三", "zh"),
        ("いち二", "ja"),
        ("jedan dva", "sr"),
        ("један два", "sr"),
        ("sagt שלום und geht", "de"),
        ("1 2 3", "he"),
        ("하나 둘", "ko"),
    ],
)
def test_texts_that_fit(voices: Path, text: str, language: str) -> None:
    assert judge(measure(voice(voices)), text, language) == []


def test_too_little_text_for_much_speech(voices: Path) -> None:
    pcm = np.concatenate([voice(voices, f"digits_{number:03d}.ogg") for number in range(6)])

    assert "is the text whole?" in warnings(judge(measure(pcm), "one two"))
    assert judge(measure(pcm), "一二", "zh") == []


@pytest.mark.parametrize("size", [1, 100, 400, 16_000, 16_001])
def test_any_length_can_be_measured(size: int) -> None:
    found = measure(noise(size, 0.1))

    assert found.duration_s == pytest.approx(size / RATE_HZ)
    assert rejection(judge(found)) == ""


@pytest.mark.parametrize(
    ("heard", "likely", "language", "told"),
    [
        ("de", 0.93, "en", "sounds like 'de' (93% sure), and the language is 'en'"),
        ("de", 0.79, "en", None),
        ("en", 0.99, "en", None),
        ("nn", 0.99, "no", None),
        ("yue", 0.9, "zh", None),
        ("hr", 0.9, "ms", "sounds like 'hr' (90% sure), and the language is 'ms'"),
    ],
)
def test_another_language_that_a_model_hears(heard: str, likely: float, language: str, told: str | None) -> None:
    finding = judge_language(heard, likely, language)
    assert (finding and finding.message) == told
    assert finding is None or finding.severity == "warning"
