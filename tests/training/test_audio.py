import os
from pathlib import Path

import numpy as np
import pytest

from idiolect.errors import AudioError
from tests.training.samples import CODECS, sound, write_encoded, write_wav
from training.audio import decode, decode_spans, duration_s, pcm_sha256
from training.clips import is_audio


def error(path: Path, **options: float) -> str:
    with pytest.raises(AudioError) as caught:
        decode(path, **options)
    assert str(path) in caught.value.message
    return str(caught.value)


def test_16_bit_wav_comes_out_as_it_is(tmp_path: Path) -> None:
    pcm = decode(write_wav(tmp_path / "a.wav", sound(2)))

    assert pcm.dtype == np.float32
    assert pcm.shape == (32_000,)
    assert duration_s(pcm) == 2.0
    np.testing.assert_array_equal(np.rint(pcm * 32768), np.rint(sound(2).astype(np.float64) * 32767))


@pytest.mark.parametrize(
    ("rate_hz", "channels", "width_bytes"),
    [(44_100, 2, 2), (8_000, 1, 2), (16_000, 1, 3), (48_000, 2, 3), (96_000, 1, 4)],
)
def test_any_rate_channels_and_width(tmp_path: Path, rate_hz: int, channels: int, width_bytes: int) -> None:
    path = write_wav(tmp_path / "a.wav", sound(1, rate_hz), rate_hz, channels, width_bytes)

    pcm = decode(path)

    assert duration_s(pcm) == pytest.approx(1.0, abs=0.01)
    assert np.sqrt(np.mean(pcm**2)) == pytest.approx(np.sqrt(np.mean(sound(1, rate_hz) ** 2)), rel=0.1)


def test_float_wav_is_clipped_to_one(tmp_path: Path) -> None:
    pcm = decode(write_encoded(tmp_path / "a.wav", sound(1) * 10, "pcm_f32le"))

    assert pcm.max() == 1.0
    assert pcm.min() == -1.0


def test_float_wav_with_no_numbers_is_refused(tmp_path: Path) -> None:
    loud = sound(1)
    loud[5000] = np.nan

    assert "not numbers" in error(write_encoded(tmp_path / "a.wav", loud, "pcm_f32le"))


@pytest.mark.parametrize("name", CODECS)
def test_every_format_whole_and_cut(tmp_path: Path, name: str) -> None:
    codec, rate_hz = CODECS[name]
    path = write_encoded(tmp_path / name, sound(3, rate_hz), codec, rate_hz)
    data = path.read_bytes()

    assert duration_s(decode(path)) == pytest.approx(3.0, abs=0.1)
    for share in (0.02, 0.5, 0.98):
        path.write_bytes(data[: int(len(data) * share)])
        assert "cut off" in error(path) or share == 0.02


def test_what_phones_record(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "a.3gp", sound(3, 16_000), "aac", 16_000)

    assert is_audio(path.name)
    assert duration_s(decode(path)) == pytest.approx(3.0, abs=0.15)


def test_amr_of_older_phones(tmp_path: Path) -> None:
    """PyAV encodes none: frames of 20 ms at 12.2 kbit/s (RFC 4867, section 5) that hold whatever sound."""
    import av

    bare, boxed = tmp_path / "a.amr", tmp_path / "a.3gp"
    frames = (b"\x3c" + bytes((frame * 7 + at) % 256 for at in range(31)) for frame in range(150))
    bare.write_bytes(b"#!AMR\n" + b"".join(frames))
    with av.open(str(bare)) as source, av.open(str(boxed), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    for path in (bare, boxed):
        assert is_audio(path.name)
        assert duration_s(decode(path)) == pytest.approx(3.0, abs=0.05)
        assert abs(decode(path)).max() > 0.01


def test_the_same_sound_has_the_same_digest_in_wav_and_flac(tmp_path: Path) -> None:
    wav = decode(write_wav(tmp_path / "a.wav", sound(1)))
    flac = decode(write_encoded(tmp_path / "a.flac", decode(tmp_path / "a.wav"), "flac"))

    assert pcm_sha256(wav) == pcm_sha256(flac)
    assert pcm_sha256(wav) != pcm_sha256(wav[1:])
    assert pcm_sha256(np.array([1.0, -1.0], np.float32)) == pcm_sha256(np.array([1.5, -1.5], np.float32))


def test_a_truncated_wav_names_what_is_missing(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", sound(1))
    path.write_bytes(path.read_bytes()[:10_000])

    assert "10000 of at least 32044 bytes" in error(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"this is a letter, not a sound" * 40, "not audio"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n", "not audio"),
        (b"ffconcat version 1.0\nfile other.wav\n", "not audio"),
        (bytes(5000), "not audio"),
    ],
)
def test_what_is_no_audio(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)

    assert words in error(path)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_too_short_for_a_word(tmp_path: Path, seconds: float) -> None:
    assert "too short" in error(write_wav(tmp_path / "a.wav", sound(seconds)))


@pytest.mark.slow
def test_too_long(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "talk.wav", np.zeros(2 * 3600 * 4000 + 8000, np.float32), 4_000, width_bytes=1)

    assert "lasts 2 h 00 min, longer than the 30 s" in error(path, max_s=30)
    assert "put talk.srt" in error(path, max_s=30)
    assert "longer than the 2 h 00 min" in error(path)
    mp3 = write_encoded(tmp_path / "a.mp3", sound(3), "libmp3lame")
    assert "lasts longer than the 2 s" in error(mp3, max_s=2)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(write_wav(tmp_path / "a.wav", sound(1)))

    assert "pipe" in error(tmp_path / "pipe.wav")
    assert "folder" in error(tmp_path / "folder.wav")
    assert "cannot be opened" in error(tmp_path / "nothing.wav")
    assert decode(tmp_path / "link.wav").size == 16_000


def test_video_without_sound_and_absurd_rates(tmp_path: Path) -> None:
    assert "100 samples a second" in error(write_wav(tmp_path / "a.wav", sound(50, 100), 100))


def test_spans_are_the_same_samples_as_the_whole(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "a.mp3", sound(6, 44_100), "libmp3lame", 44_100)
    whole = decode(path)
    spans = [(0.5, 1.5), (1.0, 2.5), (1.0, 2.5), (4.0, 5.0), (5.5, 9.0), (7.0, 9.0), (8.0, None)]

    parts = list(decode_spans(path, spans))

    for (start_s, end_s), part in zip(spans, parts, strict=True):
        np.testing.assert_array_equal(part, whole[round(start_s * 16_000) : end_s and round(end_s * 16_000)])
    np.testing.assert_array_equal(decode(path, 4.0, 5.0), parts[3])


def test_nothing_is_written_and_no_name_is_special(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "concat:a|b.wav", sound(1))
    before = path.stat()

    assert decode(path).size == 16_000
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_plain_sound_comes_out_as_the_resampler_makes_it(tmp_path: Path) -> None:
    plain = write_wav(tmp_path / "plain.wav", sound(2.3))
    both = write_wav(tmp_path / "both.wav", sound(2.3), channels=2)

    np.testing.assert_array_equal(decode(plain), decode(both))  # two equal channels are mixed to one
