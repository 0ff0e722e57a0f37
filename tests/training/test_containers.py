import io
from pathlib import Path

import pytest

from tests.training.samples import CODECS, sound, write_encoded, write_wav
from training.containers import is_open_ended, promised_bytes


def promised(data: bytes) -> int | None:
    return promised_bytes(io.BytesIO(data))


@pytest.mark.parametrize("name", [name for name in CODECS if name != "a.flac"])
def test_a_whole_file_holds_what_it_promises_and_half_of_one_does_not(tmp_path: Path, name: str) -> None:
    codec, rate_hz = CODECS[name]
    data = write_encoded(tmp_path / name, sound(3, rate_hz), codec, rate_hz).read_bytes()

    assert promised(data) == pytest.approx(len(data), abs=8)
    assert (promised(data) or 0) <= len(data)
    for share in (0.5, 0.9, 0.99):
        part = data[: int(len(data) * share)]
        assert (promised(part) or 0) > len(part)


def test_wav_is_exact_to_the_byte_and_tags_may_follow(tmp_path: Path) -> None:
    data = write_wav(tmp_path / "a.wav", sound(1)).read_bytes()

    assert promised(data) == promised(data + b"LIST\4\0\0\0tags") == len(data)
    assert promised(data[:-1]) == len(data)
    assert promised(data[:20]) == 36 + 8  # "fmt " came, and its end is not there


def test_a_streamed_wav_promises_nothing(tmp_path: Path) -> None:
    data = write_wav(tmp_path / "a.wav", sound(1)).read_bytes()

    assert promised(data[:40] + b"\xff\xff\xff\xff" + data[44:]) is None


def test_a_live_webm_promises_nothing() -> None:
    assert promised(b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7 + b"data") is None


def test_mp3_counts_from_behind_its_tag(tmp_path: Path) -> None:
    data = write_encoded(tmp_path / "a.mp3", sound(3), "libmp3lame").read_bytes()
    tag_bytes = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))

    bare = data[tag_bytes:]
    assert promised(bare) == len(bare)
    assert promised(b"ID3\4\0\0\0\0\1\0" + bytes(128) + bare) == 138 + len(bare)


def open_ended(data: bytes) -> bool:
    return is_open_ended(io.BytesIO(data))


@pytest.mark.parametrize("name", CODECS)
def test_a_whole_file_tells_its_end(tmp_path: Path, name: str) -> None:
    codec, rate_hz = CODECS[name]
    assert not open_ended(write_encoded(tmp_path / name, sound(3, rate_hz), codec, rate_hz).read_bytes())


def test_the_human_voice_tells_its_end(voices: Path) -> None:
    for path in list((voices / "human").glob("*.ogg"))[:10]:
        assert not open_ended(path.read_bytes())


def test_a_recorder_that_has_not_finished_leaves_an_open_end(tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "a.wav", sound(1)).read_bytes()
    quiet = wav[:-4000] + bytes(4000)
    assert not open_ended(wav)
    assert not open_ended(quiet)
    for size in (bytes(4), b"\xff" * 4, b"\0\xf0\xff\x7f"):
        assert open_ended(wav[:40] + size + wav[44:])
    assert not open_ended(wav[:20])  # cut off, which it says

    opus = write_encoded(tmp_path / "a.ogg", sound(3, 48_000), "libopus", 48_000).read_bytes()
    assert open_ended(opus[: opus.rindex(b"OggS")])

    flac = write_encoded(tmp_path / "a.flac", sound(1), "flac").read_bytes()
    assert open_ended(flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:])

    mp4 = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov"
    assert open_ended(mp4 + b"\0\0\0\x08moof")
    assert not open_ended(mp4)
    assert not open_ended(mp4 + b"\0\0\0\x08moof" + b"\0\0\0\x08mfra")


@pytest.mark.parametrize(
    "data", [b"#!AMR\n", b"\xff\xf3\x40\xc0", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7]
)
def test_formats_that_never_tell_their_end(data: bytes) -> None:
    assert open_ended(data + bytes(200))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff", b"RIFF", b"ID3", b"OggS", b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftyp"]
)
def test_scraps_do_not_raise(data: bytes) -> None:
    found = promised(data)

    assert found is None or found > len(data)
    assert open_ended(data) == (data in {b"ID3", b"OggS", b"\x1a\x45\xdf\xa3"})
