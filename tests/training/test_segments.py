from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import pytest

from training.audio import decode
from training.segments import Segment, joined, pieces, segments, to_srt
from training.transcripts import read_cues, read_metadata

SPANS = [(0.0, 3.0), (3.0, 6.0), (6.0, 9.0)]


def texts(heard: list[str], transcript: str) -> list[str]:
    return [segment.text if segment.kept else "-" for segment in segments(SPANS, heard, transcript)]


@pytest.mark.parametrize(
    ("heard", "transcript", "expected"),
    [
        (["one two three", "four five six", "seven eight"], "One, two three. Four five six? Seven eight!", None),
        (
            ["one two three", "four fife six a", "seven eight"],
            "one two three four five six a seven eight",
            "four five six a",
        ),
        (["one two three", "four five six", "seven eight"], "one two three four six seven eight", "four five six"),
        (["one two three", "noise all over", "seven eight"], "one two three four five six seven eight", "-"),
        (["one two three", "", "seven eight"], "one two three seven eight", "-"),
    ],
)
def test_each_piece_gets_its_words(heard: list[str], transcript: str, expected: str | None) -> None:
    first, second, third = texts(heard, transcript)

    assert second == (expected if expected is not None else "Four five six?")
    assert (first.lower().replace(",", "").strip("."), third.lower().strip("!")) == ("one two three", "seven eight")


def test_a_word_at_a_border_that_was_not_heard_spoils_both_sides() -> None:
    heard = ["one two three", "five six", "seven eight"]

    assert texts(heard, "one two three four five six seven eight") == ["-", "-", "seven eight"]


@pytest.mark.parametrize("transcript", ["", "...", "other words altogether"])
def test_another_transcript_keeps_nothing(transcript: str) -> None:
    assert texts(["one two three", "four five six", "seven eight"], transcript) == ["-", "-", "-"]


def test_kept_neighbours_are_joined_and_written_as_cues(tmp_path: Path) -> None:
    found = [Segment(0.0, 3.0, "one", 1.0), Segment(3.0, 6.0, "two", 0.8), Segment(6.0, 9.0, "no", 0.1)]
    found += [Segment(9.0, 12.0, "three", 1.0), Segment(12.0, 26.0, "four", 1.0)]
    whole = joined(found)

    assert [(s.start_s, s.end_s, s.text) for s in whole] == [
        (0.0, 6.0, "one two"),
        (9.0, 12.0, "three"),
        (12.0, 26.0, "four"),
    ]
    (tmp_path / "a.srt").write_text(to_srt(whole))
    assert [(cue.start_s, cue.end_s, cue.text) for cue in read_cues(tmp_path / "a.srt")] == [
        (0.2, 5.8, "one two"),
        (9.2, 12.0, "three"),
        (12.0, 25.8, "four"),
    ]


def test_pieces_are_cut_in_pauses_and_cover_everything() -> None:
    rng = np.random.default_rng(0)
    loud, quiet = 0.1 * rng.standard_normal(3 * 16_000), 1e-4 * rng.standard_normal(8_000)
    spans = pieces(np.concatenate([loud, quiet] * 5).astype(np.float32))

    assert spans[0][0] == 0.0
    assert spans[-1][1] == pytest.approx(17.5, abs=0.02)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    for place, (_, end_s) in enumerate(spans[:-1]):
        assert 3.0 <= end_s - place * 3.5 <= 3.5


@pytest.mark.torch
@pytest.mark.parametrize("first", [0, 40, 80])
def test_twenty_joined_clips_with_every_tenth_word_missing(voices: Path, nano: Path, first: int) -> None:
    from training.decode import CheckpointTranscriber

    rows = list(read_metadata(voices / "human" / "metadata.jsonl").rows.items())[first : first + 20]
    pcms = [decode(voices / "human" / name) for name, _ in rows]
    ends_s = np.cumsum([pcm.size for pcm in pcms]) / 16_000
    said = [(word, index) for index, (_, row) in enumerate(rows) for word in row.text.split()]
    transcript = " ".join(word for place, (word, _) in enumerate(said, start=1) if place % 10)
    pcm = np.concatenate(pcms)

    spans = pieces(pcm)
    transcriber = CheckpointTranscriber(nano)
    heard = [
        t.text for t in transcriber.transcribe_many([pcm[round(a * 16_000) : round(b * 16_000)] for a, b in spans])
    ]
    kept = joined(segments(spans, heard, transcript))

    words = [(word, segment) for segment in kept for word in segment.text.split()]
    compared = jiwer.process_words(" ".join(word for word, _ in said), " ".join(word for word, _ in words))
    right = 0
    for chunk in compared.alignments[0]:
        if chunk.type == "equal":
            for clip, segment in zip(
                (clip for _, clip in said[chunk.ref_start_idx : chunk.ref_end_idx]),
                (segment for _, segment in words[chunk.hyp_start_idx : chunk.hyp_end_idx]),
                strict=True,
            ):
                begins_s = ends_s[clip - 1] if clip else 0.0
                right += bool(begins_s < segment.end_s and ends_s[clip] > segment.start_s)
    assert sum(segment.end_s - segment.start_s for segment in kept) >= 0.8 * pcm.size / 16_000
    assert right >= 0.95 * len(words)
