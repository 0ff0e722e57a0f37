"""Audio files to samples: any rate and channels in, mono float32 at 16 kHz out."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from idiolect.errors import AudioError, UnfinishedAudio
from idiolect.whisper import MAX_S, RATE_HZ
from training.containers import is_open_ended, promised_bytes

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MIN_S = 0.1
"""Shorter than any word."""
MAX_FILE_S = 7200.0
MIN_RATE_HZ = 4_000

_FORMATS = "wav,flac,mp3,mov,ogg,matroska,amr"
"""The only containers the library may recognise: playlist formats would open other files and addresses."""
_ACCEPTED = "taken are wav, flac, mp3, m4a, ogg, opus, webm, amr and 3gp"
_UNFINISHED = "if it is still being copied, wait until it is whole; else copy it again"
_SLACK_S = 0.25  # lossy codecs count their run-in and padding differently from their headers

Span = tuple[float, float | None]


def decode(path: Path, start_s: float = 0.0, end_s: float | None = None, max_s: float = MAX_FILE_S) -> Pcm:
    """The samples of `path` from `start_s` to `end_s` (None: to the end): 1-D float32 in [-1, 1], mono, 16 kHz.

    Raises AudioError, in plain words, for whatever is not a regular file of audio, lasts longer than `max_s` in all,
    or leaves less than `MIN_S` between the two times; UnfinishedAudio where the file promises more than is there.
    """
    (pcm,) = decode_spans(path, [(start_s, end_s)], max_s)
    if pcm.size < MIN_S * RATE_HZ:
        raise AudioError(
            f"{path}: {duration_s(pcm):.2f} s of audio is too short to hold a word", "record a whole sentence"
        )
    return pcm


def decode_spans(path: Path, spans: Sequence[Span], max_s: float = MAX_FILE_S) -> Iterator[Pcm]:
    """The samples of each of `spans` (sorted by start), read in one pass; a span is shorter where the audio ends.

    The file is always decoded from its beginning, so a span's samples do not depend on how they were asked for.
    Memory holds one span at a time. Raises AudioError as `decode` does, except for short spans.
    """
    import numpy as np

    with opened(path, max_s) as blocks:
        held: Pcm = np.zeros(0, np.float32)
        first = 0  # position in samples of held[0]
        for start_s, end_s in spans:
            start = round(start_s * RATE_HZ)
            end = math.inf if end_s is None else round(end_s * RATE_HZ)
            parts = [held]
            have = first + held.size
            while have < end and (block := next(blocks, None)) is not None:
                parts.append(block)
                have += block.size
                if have <= start:  # nothing of it is wanted
                    parts, first = [], have
            held = np.concatenate(parts) if parts else held[:0]
            held, first = held[max(0, start - first) :], max(start, first)
            yield held[: int(end - first)] if end < math.inf else held


@contextmanager
def opened(path: Path, max_s: float = MAX_FILE_S) -> Iterator[Iterator[Pcm]]:
    """The samples of `path` in pieces as `decode` gives them. The file is open already, but nothing of it is decoded
    before the first piece is asked for: what decoding does not need can be given up in between."""
    with _opened(path) as file, closing(_blocks(path, file, max_s)) as blocks:
        yield blocks


def has_open_end(path: Path) -> bool:
    """Whether nothing in the file tells its end; raises AudioError as `decode` does for one that cannot be opened."""
    with _opened(path) as file:
        return is_open_ended(file)


def duration_s(pcm: Pcm) -> float:
    """Length in seconds of 16 kHz samples."""
    return float(pcm.size) / RATE_HZ


def pcm_sha256(pcm: Pcm) -> str:
    """Hex SHA-256 of the samples rounded to 16-bit little-endian integers: the same for WAV and FLAC of one sound."""
    import numpy as np

    return hashlib.sha256(np.clip(np.rint(pcm * 32768.0), -32768, 32767).astype("<i2").tobytes()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, neither empty nor cut off. A pipe is refused without waiting for its writer."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
            raise AudioError(f"{path}: {what} with the name of a recording", "give it another name")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be opened: {error.strerror}", "check that it is there and yours to read"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes == 0:
            raise AudioError(f"{path}: the file is empty", "record or copy it again")
        promised = promised_bytes(file)
        if promised is not None and promised > size_bytes:
            raise UnfinishedAudio(
                f"{path}: the file is cut off: {size_bytes} of at least {promised} bytes are there",
                _UNFINISHED,
            )
        file.seek(0)
        yield file


def _blocks(path: Path, file: BinaryIO, max_s: float) -> Generator[Pcm]:
    """The whole file in pieces of a second at most."""
    import av
    import numpy as np

    samples, declared_s, reached_s = 0, None, 0.0
    try:
        with av.open(file, options={"format_whitelist": _FORMATS}) as container:
            stream = _audio_stream(path, container)
            declared_s = _declared_s(container, stream)
            if declared_s is not None and declared_s > max_s + _SLACK_S:
                raise _too_long(path, max_s, declared_s)
            for block, at_s in _resampled(container, stream):
                samples += block.size
                reached_s = max(samples / RATE_HZ, at_s + block.size / RATE_HZ if at_s else 0.0)
                if samples > max_s * RATE_HZ:
                    raise _too_long(path, max_s)
                if not np.isfinite(block).all():
                    raise AudioError(
                        f"{path}: holds samples that are not numbers (at {_clock(reached_s)})",
                        "record or convert it again",
                    )
                yield block.clip(-1.0, 1.0)
    except (av.FFmpegError, ValueError) as error:
        if declared_s is None and not samples:
            raise AudioError(f"{path}: not audio, or only the first bytes of it", _ACCEPTED) from error
        reason = f"damaged or cut off: cannot be decoded beyond {_clock(reached_s)}"
        raise AudioError(f"{path}: {reason}", "copy or record it again") from error
    if declared_s is not None and reached_s < declared_s - _SLACK_S:
        reason = f"the file is cut off: {_clock(reached_s)} of {_clock(declared_s)} are there"
        raise UnfinishedAudio(f"{path}: {reason}", _UNFINISHED)


def _audio_stream(path: Path, container: Any) -> Any:  # noqa: ANN401
    if not container.streams.audio:
        raise AudioError(f"{path}: there is no sound track in it", _ACCEPTED)
    stream = container.streams.audio[0]
    if (stream.rate or 0) < MIN_RATE_HZ:
        reason = f"{stream.rate} samples a second cannot carry speech (at least {MIN_RATE_HZ})"
        raise AudioError(f"{path}: {reason}", "record it with 16000 or more")
    return stream


def _resampled(container: Any, stream: Any) -> Iterator[tuple[Pcm, float | None]]:  # noqa: ANN401
    """Blocks of 16 kHz mono with the time the file gives each."""
    import av

    frames = container.decode(stream)
    first = next(frames, None)
    if first is None:
        return
    if _is_plain(first):
        yield from _converted(itertools.chain([first], frames))
        return
    resampler = av.AudioResampler(format="fltp", rate=RATE_HZ, frame_size=RATE_HZ)  # keeps the channels
    for frame in itertools.chain([first], frames, [None]):
        for resampled in resampler.resample(frame):
            # the library's own mix makes equal channels 3 dB louder
            yield resampled.to_ndarray().mean(axis=0), resampled.time


def _is_plain(frame: Any) -> bool:  # noqa: ANN401
    """Whether nothing has to be resampled or mixed: the usual WAV and FLAC of a dictation."""
    layout = (frame.sample_rate, frame.layout.nb_channels)
    return layout == (RATE_HZ, 1) and frame.format.name in {"s16", "s16p"}


def _converted(frames: Iterator[Any]) -> Iterator[tuple[Pcm, float | None]]:
    """What the resampler makes of plain frames, bit for bit, in a third of its time."""
    import numpy as np

    parts: list[Any] = []
    size, at_s = 0, None
    for frame in itertools.chain(frames, [None]):
        if size and (frame is None or size >= RATE_HZ):
            yield np.concatenate(parts) * np.float32(2**-15), at_s
            parts, size = [], 0
        if frame is not None:
            if not _is_plain(frame):
                raise ValueError("the format changes within the file")
            if not parts:
                at_s = frame.time
            parts.append(np.frombuffer(frame.planes[0], np.int16, frame.samples))
            size += frame.samples


def _declared_s(container: Any, stream: Any) -> float | None:  # noqa: ANN401
    """The length in the header. For MP3 it may be a guess from the bit rate: none then."""
    if container.format.name == "mp3":
        return None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _too_long(path: Path, max_s: float, lasts_s: float | None = None) -> AudioError:
    lasts = f"lasts {_clock(lasts_s)}, longer" if lasts_s is not None else "lasts longer"
    hint = (
        f"split it, or put {path.stem}.srt with its words and their times beside it "
        "(`idiolect align` makes one of a text)"
        if max_s <= MAX_S
        else "split it"
    )
    return AudioError(f"{path}: {lasts} than the {_clock(max_s)} taken in one piece", hint)


def _clock(seconds: float) -> str:
    """`3.2 s`, `4 min 05 s`, `2 h 00 min`."""
    if seconds < 60:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
