"""Small recordings for tests: real files of every format, made on the spot."""

from __future__ import annotations

import functools
import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


def sound(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> Pcm:
    """Something like a voice: a warbling tone in a little noise, another one for each seed."""
    at_s = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(at_s.size)
    tone = np.sin(2 * np.pi * (180 + 10 * seed) * at_s) * np.sin(2 * np.pi * 3 * at_s)
    return (0.3 * tone + 0.02 * noise).astype(np.float32)


def write_wav(path: Path, pcm: Pcm, rate_hz: int = 16_000, channels: int = 1, width_bytes: int = 2) -> Path:
    """`pcm` as integer WAV, the same in every channel."""
    values = np.rint(np.repeat(pcm, channels).astype(np.float64) * (2 ** (8 * width_bytes - 1) - 1)).astype("<i4")
    data = values.view(np.uint8).reshape(-1, 4)[:, :width_bytes].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width_bytes)
        file.setframerate(rate_hz)
        file.writeframes(data)
    return path


def write_encoded(path: Path, pcm: Pcm, codec: str, rate_hz: int = 16_000) -> Path:
    """`pcm` in the container of the path's suffix."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        for part in (*av.AudioResampler(stream.codec_context.format.name, "mono", rate_hz).resample(frame), None):
            container.mux(stream.encode(part))
    return path


@functools.cache
def silence(seconds: int, rate_hz: int = 8_000) -> bytes:
    """Digital silence as FLAC with the largest blocks: ten hours take less than 100 kB."""
    import av

    made = io.BytesIO()
    with av.open(made, "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=rate_hz, layout="mono")
        stream.codec_context.options = {"frame_size": "65535"}
        block = np.zeros((1, 65_535), np.int16)
        for at in range(0, seconds * rate_hz, block.size):
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return made.getvalue()


def without_length(flac: bytes) -> bytes:
    """The same as a stream: its header says nothing of how many samples follow."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


CODECS = {
    "a.flac": ("flac", 16_000),
    "a.mp3": ("libmp3lame", 16_000),
    "a.m4a": ("aac", 16_000),
    "a.ogg": ("libopus", 48_000),
    "a.opus": ("libopus", 48_000),
    "a.webm": ("libopus", 48_000),
}
