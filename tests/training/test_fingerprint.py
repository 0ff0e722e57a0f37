from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.training.samples import write_encoded
from training.audio import decode
from training.fingerprint import SAME_BITS, difference, fingerprint
from training.transcripts import read_metadata


def clip(voices: Path, number: int = 0) -> np.ndarray:
    return decode(voices / "human" / f"digits_{number:03d}.ogg")


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return difference(fingerprint(one), fingerprint(other)) < SAME_BITS


def test_the_same_take_louder_trimmed_and_in_other_formats(voices: Path, tmp_path: Path) -> None:
    pcm = clip(voices)

    assert difference(fingerprint(pcm), fingerprint(pcm)) == 0.0
    assert same(pcm, 0.1 * pcm)
    assert same(pcm, pcm[3977:])
    assert same(pcm[1600:], pcm[:-2000])
    for name, codec in (("a.mp3", "libmp3lame"), ("a.flac", "flac")):
        assert same(pcm, decode(write_encoded(tmp_path / name, pcm, codec)))


def test_other_takes_of_a_voice_are_others(voices: Path) -> None:
    prints = [fingerprint(clip(voices, number)) for number in range(30)]

    assert min(difference(one, other) for one, other in combinations(prints, 2)) > SAME_BITS


@pytest.mark.parametrize("samples", [0, 100, 7000])
def test_too_short_to_tell(samples: int) -> None:
    short = np.ones(samples, np.float32)

    assert difference(fingerprint(short), fingerprint(short)) == 1.0


@pytest.mark.slow
def test_no_demo_recording_is_nearly_another(voices: Path) -> None:
    for voice in ("human", "synthetic"):
        takes: dict[str, list[str]] = {}
        for name, row in read_metadata(voices / voice / "metadata.jsonl").rows.items():
            takes.setdefault(row.text, []).append(name)
        again = [names for names in takes.values() if len(names) > 1]
        prints = [[fingerprint(decode(voices / voice / name)) for name in names] for names in again]
        pairs = [pair for same in prints for pair in combinations(same, 2)]
        assert pairs
        assert [difference(*pair) for pair in pairs if difference(*pair) < SAME_BITS] == []
