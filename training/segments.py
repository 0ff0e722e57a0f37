"""A long recording and its plain transcript, cut into short pieces with their words.

The recording is cut where the voice pauses; a model hears every piece; what it heard, all pieces in a row, is aligned
with the transcript; and each piece gets the words of the transcript that fell to it. A piece is kept where both agree
well. A word that was heard between words that agree, and is not written, was left out by the writer and is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from idiolect.whisper import RATE_HZ
from training.clips import CUE_PADDING_S
from training.scoring import basic_normalize

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

LONGEST_S = 4.0
"""Of a piece to be heard: of three lengths tried, the one that kept most and was right most often."""
SHORTEST_S = 1.0
JOINED_S = 15.0
"""Kept neighbours are joined again up to this length: whole sentences teach more."""
MIN_AGREEMENT = 0.7
"""Share of a piece's words, written or heard, that are both."""

_FRAME_S = 0.02
_PAUSE_FRAMES = 9  # a pause is looked for as the quietest 0.18 s

_Kind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True)
class Segment:
    """A piece of a recording with its words; times in seconds. `agreement` from 0 to 1; `restored` words put back."""

    start_s: float
    end_s: float
    text: str
    agreement: float
    restored: int = 0

    @property
    def kept(self) -> bool:
        """Whether recording and transcript agree well enough here to learn from."""
        return self.text != "" and self.agreement >= MIN_AGREEMENT


class _Place(NamedTuple):
    """One place of the alignment: a word written, a word heard and the piece it was heard in."""

    kind: _Kind
    written: str
    heard: str
    piece: int


def pieces(pcm: Pcm, longest_s: float = LONGEST_S) -> list[tuple[float, float]]:
    """Where to cut 16 kHz samples: (start, end) in seconds, in order and without gaps, each at most `longest_s`."""
    import numpy as np

    frame = round(_FRAME_S * RATE_HZ)
    frames = pcm[: pcm.size // frame * frame].reshape(-1, frame)
    power = np.mean(np.square(frames, dtype=np.float32), axis=1)
    quiet = np.convolve(power, np.ones(_PAUSE_FRAMES) / _PAUSE_FRAMES, mode="same")
    margin = round(SHORTEST_S / _FRAME_S)
    found, pending = [], [(0, len(quiet))]
    while pending:
        first, end = pending.pop()
        if (end - first) * _FRAME_S <= max(longest_s, 2 * SHORTEST_S + _FRAME_S):
            found.append((first * _FRAME_S, end * _FRAME_S))
            continue
        cut = first + margin + int(quiet[first + margin : end - margin].argmin())
        pending += [(cut, end), (first, cut)]
    return found


def segments(spans: Sequence[tuple[float, float]], heard: Sequence[str], transcript: str) -> list[Segment]:
    """One segment for each of `spans`, in their order, from what a model heard in each and the whole transcript."""
    by_piece: list[list[_Place]] = [[] for _ in spans]
    places = _aligned(heard, transcript)
    neighbours = [None, *places, None]
    restorable = [
        here.kind == "insert" and all(side is None or side.kind == "equal" for side in (before, after))
        for before, here, after in zip(neighbours, places, neighbours[2:], strict=False)
    ]
    restored = [0] * len(spans)
    for place, may_restore in zip(places, restorable, strict=True):
        if may_restore:
            place = place._replace(kind="equal", written=place.heard)
            restored[place.piece] += 1
        by_piece[place.piece].append(place)
    doubtful = _doubtful(places)
    made = []
    for index, ((start_s, end_s), mine) in enumerate(zip(spans, by_piece, strict=True)):
        text = " ".join(place.written for place in mine if place.written)
        equal = sum(place.kind == "equal" for place in mine)
        agreement = equal / len(mine) if mine and index not in doubtful else 0.0
        if restored[index] * 2 > equal:  # mostly guessed
            agreement = 0.0
        made.append(Segment(start_s, end_s, text, agreement, restored[index]))
    return made


def joined(found: Sequence[Segment]) -> list[Segment]:
    """The kept segments, those that follow each other made one up to `JOINED_S`."""
    made: list[Segment] = []
    for segment in found:
        last = made[-1] if made else None
        if not segment.kept:
            continue
        if last is not None and last.end_s == segment.start_s and segment.end_s - last.start_s <= JOINED_S:
            made[-1] = Segment(
                last.start_s,
                segment.end_s,
                f"{last.text} {segment.text}",
                min(last.agreement, segment.agreement),
                last.restored + segment.restored,
            )
        else:
            made.append(segment)
    return made


def to_srt(found: Sequence[Segment]) -> str:
    """Joined segments as subtitles. Readers pad a cue where no other follows at once: there it is written narrower."""
    blocks = []
    for number, (before, segment, after) in enumerate(zip([None, *found], found, [*found[1:], None], strict=False), 1):
        apart_before = before is None or before.end_s < segment.start_s
        apart_after = after is None or segment.end_s < after.start_s
        start_s = segment.start_s + (CUE_PADDING_S if apart_before else 0.0)
        end_s = segment.end_s - (CUE_PADDING_S if apart_after else 0.0)
        blocks.append(f"{number}\n{_clock(start_s)} --> {_clock(end_s)}\n{segment.text}\n")
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def _aligned(heard: Sequence[str], transcript: str) -> list[_Place]:
    import jiwer

    written = [(word, _key(word)) for word in transcript.split()]
    written = [(word, key) for word, key in written if key]
    said = [(word, index) for index, text in enumerate(heard) for word in text.split() if _key(word)]
    if not written or not said:
        return [_Place("insert", "", word, piece) for word, piece in said]
    keys = " ".join(key for _, key in written), " ".join(_key(word) for word, _ in said)
    places: list[_Place] = []
    for chunk in jiwer.process_words(*keys).alignments[0]:
        mine = [word for word, _ in written[chunk.ref_start_idx : chunk.ref_end_idx]]
        theirs = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        kind = cast(_Kind, chunk.type)
        if kind == "delete":
            piece = said[min(chunk.hyp_start_idx, len(said) - 1)][1]
            places += [_Place(kind, word, "", places[-1].piece if places else piece) for word in mine]
        elif kind == "insert":
            places += [_Place(kind, "", word, piece) for word, piece in theirs]
        else:
            places += [_Place(kind, word, other, piece) for word, (other, piece) in zip(mine, theirs, strict=True)]
    return places


def _doubtful(places: Sequence[_Place]) -> set[int]:
    """Pieces at whose border a word was written that neither was heard to hold: it may be in either."""
    found = set()
    for before, after in pairwise(places):
        if before.piece != after.piece and "delete" in {before.kind, after.kind}:
            found |= {before.piece, after.piece}
    return found


def _key(word: str) -> str:
    return "".join(basic_normalize(word).split())
