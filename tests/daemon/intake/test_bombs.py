"""Files that promise or hold more than any recording should, in the real confined worker."""

import struct
import wave
from pathlib import Path

import pytest

from daemon.intake.reader import Reader
from daemon.intake.reading import Reading, Request
from tests.training.samples import silence, without_length

pytestmark = pytest.mark.slow

WITHIN_S = 600.0  # the worker is not ended before; each takes a second or two
TEN_HOURS_S = 36_000


def wav(path: Path, data_bytes: int, block_bytes: int = 2, rate_hz: int = 16_000, riff: bytes = b"RIFF") -> Path:
    """A WAV file of a second that says it has so many bytes."""
    head = struct.pack("<HHIIHH", 1, 1, rate_hz, rate_hz * block_bytes, block_bytes, 8 * block_bytes)
    chunks = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", data_bytes & 0xFFFFFFFF) + bytes(32_000)
    path.write_bytes(riff + struct.pack("<I", 0xFFFFFFFF) + chunks)
    return path


async def read(path: Path) -> Reading:
    reader = Reader(timeout_s=WITHIN_S)
    try:
        reading = await reader.read(Request(path=path, folder=path.parent))
        assert reader.running  # the worker has survived it
    finally:
        await reader.close()
    assert "\n" not in reading.reason
    return reading


@pytest.mark.parametrize("text", [None, "words", "cues"])
async def test_ten_hours_of_silence_in_a_small_file(tmp_path: Path, text: str | None) -> None:
    path, flac = tmp_path / "a.flac", silence(TEN_HOURS_S)
    assert len(flac) < 1 << 20
    if text == "cues":
        (tmp_path / "a.srt").write_text("09:59:00,000 --> 09:59:05,000\nwords\n")
    elif text:
        (tmp_path / "a.txt").write_text(text)

    for bomb in (flac, without_length(flac)):
        path.write_bytes(bomb)
        reading = await read(path)
        assert (reading.state, "longer than" in reading.reason) == ("rejected", True)


@pytest.mark.parametrize("data_bytes", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFE, 0x80000000])
@pytest.mark.parametrize("block_bytes", [1, 2, 4])
async def test_a_wav_that_promises_four_thousand_million_frames(
    tmp_path: Path, data_bytes: int, block_bytes: int
) -> None:
    reading = await read(wav(tmp_path / "a.wav", data_bytes, block_bytes))

    assert reading.state in {"waiting", "rejected"}
    assert reading.reason


async def test_a_wav_with_more_channels_than_ears(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(65)
        file.setsampwidth(2)
        file.setframerate(384_000)
        file.writeframes(bytes(65 * 2 * 384_000))

    assert (await read(path)).state == "rejected"


async def test_a_whole_day_cut_at_a_cue_near_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(silence(7_000))
    (tmp_path / "a.srt").write_text("01:56:00,000 --> 01:56:05,000\nwords\n")

    reading = await read(path)
    assert (reading.state, "there is no sound in it" in reading.reason) == ("rejected", True)
