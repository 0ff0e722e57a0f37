"""Whatever bytes a folder holds, the readers of texts answer with words, with a reason, and with nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idiolect.errors import DatasetError
from training.clips import Clip, clips_of, find_texts
from training.transcripts import read_cues, read_metadata, read_text

fuzzed = settings(max_examples=150, derandomize=True)

LINES = st.sampled_from(
    [
        "WEBVTT",
        "1",
        "00:00:01,000 --> 00:00:02,500",
        "00:01.000 --> 00:02.500 align:start",
        "99:99:99,999 --> 00:00:00,000",
        f"{'9' * 400}:00:00,000 --> {'9' * 400}:00:01,000",
        "00:00:01,000 -->",
        "NOTE",
        "<b>words",
        "&#0;&#x110000;&amp;",
        "{\\an8}words",
        "",
        "   ",
        "words",
        '{"file_name": "a.wav", "text": "words"}',
        '{"file_name": 1, "text": null}',
        '{"file_name": "../../a.wav", "text": "words", "language": "klingon"}',
        "[" * 2000,
        '"file_name","text"',
        "file_name,text",
        'a.wav,"words',
        "a.wav,words,more,and more",
        "\x00",
        "\ufeff",
        "\u2028\u2029\x85\x0b",
    ]
)
TEXTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(LINES, max_size=12).map(lambda lines: "\n".join(lines).encode()),
    st.lists(LINES, max_size=12).map(lambda lines: "\r\n".join(lines).encode("utf-16")),
)


def answer(read: Callable[[Path], Any], path: Path) -> Any:  # noqa: ANN401
    try:
        return read(path)
    except DatasetError as error:
        if path.name not in error.message:
            raise
        return None


@fuzzed
@given(TEXTS)
def test_plain_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    text = answer(read_text, tmp_path / "a.txt")

    assert text is None or (text and "\n" not in text and text == " ".join(text.split()))


@fuzzed
@given(TEXTS, st.sampled_from(["a.srt", "a.vtt"]))
@example(f"00:00:01,000 --> {'9' * 400}:00:02,000\nwords".encode(), "a.srt")
def test_cues(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    cues = answer(read_cues, tmp_path / name) or []

    assert all(math.isfinite(cue.start_s) and math.isfinite(cue.end_s) and cue.text for cue in cues)
    assert cues == sorted(cues, key=lambda cue: (cue.start_s, cue.end_s))


@fuzzed
@given(TEXTS, st.sampled_from(["metadata.jsonl", "metadata.csv"]))
@example(b'{"file_name": "a.wav", "text": "\\ud800"}', "metadata.jsonl")
@example(b'{"file_name": "\\ud800.wav", "text": "words"}', "metadata.jsonl")
@example(b'{"file_name": "a.wav", "text": ' + b"9" * 5000 + b"}", "metadata.jsonl")
def test_metadata(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    found = answer(read_metadata, tmp_path / name)

    if found is not None:
        json.dumps({key: row.text for key, row in found.rows.items()}).encode()
        assert all(row.text.encode() is not None and "\n" not in row.text for row in found.rows.values())
        assert all("\n" not in problem for problem in found.problems)
        found.find(PurePosixPath("a.wav"))


@fuzzed
@given(TEXTS, st.sampled_from(["a.txt", "a.srt", "a.vtt", "metadata.jsonl", "metadata.csv"]))
def test_clips_of_a_recording(tmp_path: Path, data: bytes, name: str) -> None:
    audio = tmp_path / "a.wav"
    audio.touch()
    for other in tmp_path.iterdir():
        if other != audio:
            other.unlink()
    (tmp_path / name).write_bytes(data)
    told: list[str] = []
    try:
        clips = clips_of(audio, find_texts(audio, tmp_path), tmp_path, lambda _, reason: told.append(reason))
    except DatasetError:
        return
    for clip in clips:
        assert isinstance(clip, Clip)
        assert clip.start_s >= 0
        assert clip.end_s is None or 0 < clip.end_s - clip.start_s <= 30.0 + 1e-6


@pytest.mark.parametrize("name", ["a.txt", "a.srt", "metadata.jsonl", "metadata.csv"])
def test_a_text_of_hundreds_of_megabytes_is_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(300 << 20)
    read = {"a.txt": read_text, "a.srt": read_cues}.get(name, read_metadata)

    with pytest.raises(DatasetError, match="too large"):
        read(tmp_path / name)
