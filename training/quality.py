"""What is wrong with a recording, in numbers: clipping, level, noise, hum, pauses, and text that does not fit.

`measure` looks at the samples, `judge` at the numbers; each finding is a warning or a rejection with its number.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from idiolect.errors import DatasetError
from idiolect.whisper import MAX_SAMPLES, RATE_HZ
from training.transcripts import check_length

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

Severity = Literal["warning", "rejection"]

CLIPPED_WARNING, CLIPPED_REJECTION = 0.002, 0.1
QUIET_DBFS, INAUDIBLE_DBFS = -45.0, -65.0
NOISE_DB = 10.0
"""Speech less than this over the noise in its pauses."""
HUM_DB = -22.0
"""Mains hum louder than this beside the speech."""
MAX_PAUSE_S = 5.0
MAX_CHARS_PER_SPEECH_S = 28.0
"""Fast readers reach 20 letters a second of speech."""
MIN_CHARS_PER_SPEECH_S = 2.0
MIN_SLOW_S = 5.0
FOREIGN_LETTERS = 0.5
SURE_OF_LANGUAGE = 0.8
"""Probability from which another language that a model hears is worth a remark."""

_FRAME_S = 0.025
_RUN_SAMPLES = 3
_PAUSE_DB = 20.0  # a frame so far under the speech is a pause
_HUM_STEP = 16
_HUM_PEAK = range(-2, 3)
_HUM_BESIDE = [*range(-12, -4), *range(5, 13)]  # Hz to its left and right

_SCRIPTS = {
    "ARABIC": "ar fa ur ps sd",
    "ARMENIAN": "hy",
    "BENGALI": "bn as",
    "CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA": "ja",
    "CJK": "zh yue",
    "CYRILLIC": "ru uk be bg mk sr kk mn tg ba tt",
    "DEVANAGARI": "hi mr ne sa",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "KANNADA": "kn",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "bo",
}
_SCRIPTS_OF = {code: set(scripts.split()) for scripts, codes in _SCRIPTS.items() for code in codes.split()}
_ALIKE = tuple(map(frozenset, (["zh", "yue"], ["no", "nn"], ["bs", "hr", "sr"], ["id", "ms"], ["hi", "ur"])))
"""One spoken language under several codes, or nearly so: which of them a model names says little."""
_ALSO_LATIN = frozenset({"sr", "kk", "tg", "ms", "tt"})


@dataclass(frozen=True)
class Measures:
    """A recording in numbers. Levels in dB of full scale; `speech_s` is its length without pauses.

    `noise_dbfs` is the level of its quietest tenth, `hum_dbfs` that of 50 or 60 Hz and their multiples.
    """

    duration_s: float
    speech_s: float
    longest_pause_s: float
    clipped: float
    speech_dbfs: float
    noise_dbfs: float
    hum_dbfs: float


class Finding(NamedTuple):
    """One thing that is wrong: its name, how bad it is, and the words with the number."""

    kind: str
    severity: Severity
    message: str


def measure(pcm: Pcm) -> Measures:
    """Measure 16 kHz mono samples; a few milliseconds for a clip of 5 s."""
    import numpy as np

    frame = round(_FRAME_S * RATE_HZ)
    frames = pcm[: pcm.size // frame * frame].reshape(-1, frame) if pcm.size >= frame else pcm[None]
    levels = 10 * np.log10(np.mean(np.square(frames, dtype=np.float32), axis=1) + 1e-10)
    noise_dbfs, speech_dbfs = map(float, np.percentile(levels, [10, 95]))
    pauses = levels < speech_dbfs - _PAUSE_DB
    heard = np.flatnonzero(~pauses)
    gaps = np.diff(np.concatenate([[-1], heard, [len(levels)]])) - 1
    return Measures(
        duration_s=pcm.size / RATE_HZ,
        speech_s=float(heard.size) * _FRAME_S,
        longest_pause_s=float(gaps.max()) * _FRAME_S,
        clipped=_clipped(pcm),
        speech_dbfs=speech_dbfs,
        noise_dbfs=noise_dbfs,
        hum_dbfs=min(_hum_dbfs(pcm), noise_dbfs),  # it sounds on in the pauses
    )


def judge(found: Measures, text: str | None = None, language: str = "en") -> list[Finding]:
    """What is wrong with a recording and, where it has one, with its text."""
    findings = [*_judge_sound(found)]
    if text is not None:
        findings += _judge_text(found, text, language)
    return findings


def judge_language(heard: str, likely: float, language: str) -> Finding | None:
    """What a multilingual model's language head says against `language`, where it is sure enough (Whisper's codes)."""
    if heard == language or likely < SURE_OF_LANGUAGE or any({heard, language} <= alike for alike in _ALIKE):
        return None
    told = f"sounds like {heard!r} ({likely:.0%} sure), and the language is {language!r}"
    return Finding("language", "warning", told)


def check_audible(pcm: Pcm) -> None:
    """Raise DatasetError unless these 16 kHz mono samples are something that Whisper can hear, in one window."""
    import numpy as np

    if len(pcm) > MAX_SAMPLES:
        raise DatasetError(f"{len(pcm) / RATE_HZ:.1f} s long, at most 30 s fit", "cut it, or write cues in an .srt")
    if not np.isfinite(pcm).all():
        raise DatasetError("the audio holds values that are not numbers", "record or convert it again")
    if not np.abs(pcm).max(initial=0.0) > 10 ** (INAUDIBLE_DBFS / 20):
        raise DatasetError("the audio is silent", "record it again; is the microphone on?")


def rejection(findings: list[Finding]) -> str:
    """The words of the first rejection; empty without one."""
    return next((finding.message for finding in findings if finding.severity == "rejection"), "")


def warnings(findings: list[Finding]) -> str:
    """The words of all warnings on one line."""
    return "; ".join(finding.message for finding in findings if finding.severity == "warning")


def _judge_sound(found: Measures) -> list[Finding]:
    findings = []
    if found.speech_dbfs <= INAUDIBLE_DBFS:
        return [Finding("silence", "rejection", f"there is no sound in it ({found.speech_dbfs:.0f} dB of full scale)")]
    if found.clipped > CLIPPED_WARNING:
        severity: Severity = "rejection" if found.clipped > CLIPPED_REJECTION else "warning"
        share = f"{found.clipped:.1%} of its samples are clipped"
        findings.append(Finding("clipping", severity, f"{share}: turn the microphone down"))
    if found.speech_dbfs < QUIET_DBFS:
        told = f"very quiet ({found.speech_dbfs:.0f} dB of full scale): turn the microphone up"
        findings.append(Finding("quiet", "warning", told))
    if found.speech_dbfs - found.noise_dbfs < NOISE_DB:
        told = f"noisy: speech is only {found.speech_dbfs - found.noise_dbfs:.0f} dB over the noise"
        findings.append(Finding("noise", "warning", told))
    if found.hum_dbfs - found.speech_dbfs > HUM_DB:
        told = f"mains hum {found.speech_dbfs - found.hum_dbfs:.0f} dB under the speech"
        findings.append(Finding("hum", "warning", told))
    if found.longest_pause_s > MAX_PAUSE_S:
        findings.append(Finding("pause", "warning", f"a pause of {found.longest_pause_s:.1f} s"))
    return findings


def _judge_text(found: Measures, text: str, language: str) -> list[Finding]:
    if too_much := check_length(text, found.duration_s):
        return [Finding("rate", "rejection", too_much)]
    findings = []
    letters = sum(char.isalnum() for char in text)
    rate = letters / max(found.speech_s, 0.3)
    if rate > MAX_CHARS_PER_SPEECH_S:
        told = f"{letters} letters for {found.speech_s:.1f} s of speech, {rate:.0f} a second: is it the right text?"
        findings.append(Finding("rate", "warning", told))
    elif found.speech_s >= MIN_SLOW_S and rate < MIN_CHARS_PER_SPEECH_S and _is_alphabetic(text):
        told = f"{letters} letters for {found.speech_s:.1f} s of speech: is the text whole?"
        findings.append(Finding("rate", "warning", told))
    foreign, script = _foreign(text, language)
    if foreign > FOREIGN_LETTERS:
        told = f"{foreign:.0%} of its letters are {script.capitalize()}, and the language is {language!r}"
        findings.append(Finding("language", "warning", told))
    return findings


def _clipped(pcm: Pcm) -> float:
    """Share of samples in runs that stay at the recording's own ceiling, wherever that was set."""
    import numpy as np

    ceiling = float(np.abs(pcm).max(initial=0.0))
    if ceiling == 0.0:
        return 0.0
    clipped = 0
    for side in (pcm, -pcm):
        at = side >= 0.98 * ceiling
        run = at[:-2] & at[1:-1] & at[2:]
        inside = np.zeros(pcm.size, bool)
        for shift in range(_RUN_SAMPLES):
            inside[shift : shift + run.size] |= run
        clipped += int(inside.sum())
    return clipped / pcm.size


def _hum_dbfs(pcm: Pcm) -> float:
    """Level of what stands out at the mains frequency and its multiples, in the quietest second's spectrum."""
    import numpy as np

    low = pcm[: pcm.size // _HUM_STEP * _HUM_STEP].reshape(-1, _HUM_STEP).mean(axis=1)  # 1000 samples a second
    window = RATE_HZ // _HUM_STEP
    if low.size < window:
        return -100.0
    frames = np.lib.stride_tricks.sliding_window_view(low, window)[:: window // 2]
    power = np.abs(np.fft.rfft(frames * _hann(window), axis=1)) ** 2
    steady = power.min(axis=0) * (4 / (1.5 * window**2)) + 1e-20  # one bin is 1 Hz; a voice leaves no bin loud for long
    at = np.outer((50, 60), (1, 2, 3, 4))[..., None]  # Hz
    around = np.median(steady[at + _HUM_BESIDE], axis=-1)
    peaks = steady[at + _HUM_PEAK].sum(axis=-1)
    peaks[peaks <= 30 * around] = 0.0
    sums = peaks[peaks[:, :2].any(axis=1)].sum(axis=1)  # a tone at a higher multiple alone is something else
    return 10 * float(np.log10(sums.max() / 2 + 1e-10)) if sums.size else -100.0


@cache
def _hann(window: int) -> Any:  # noqa: ANN401
    import numpy as np

    return np.hanning(window).astype(np.float32)


def _foreign(text: str, language: str) -> tuple[float, str]:
    """Share of letters in scripts that the language is not written in, and the commonest of those scripts."""
    own = _SCRIPTS_OF.get(language, {"LATIN"})
    own = own | {"LATIN"} if language in _ALSO_LATIN else own
    scripts = Counter(_script(char) for char in text if char.isalpha())
    foreign = Counter({script: count for script, count in scripts.items() if script not in own})
    if not foreign:
        return 0.0, ""
    return foreign.total() / scripts.total(), foreign.most_common(1)[0][0]


@cache
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split()[0]


def _is_alphabetic(text: str) -> bool:
    """Whether a letter is about a sound; a Chinese character is a syllable or two."""
    return not any(_script(char) in {"CJK", "HANGUL", "HIRAGANA", "KATAKANA"} for char in text)
