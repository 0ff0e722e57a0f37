import os
from pathlib import Path

import numpy as np
import pytest

from daemon.intake.reading import Reading, Request, Sound
from daemon.intake.worker import read
from tests.training.samples import sound, write_encoded, write_wav


def hear(path: Path, sound: Sound | None = None) -> Reading:
    return read(Request(path=path, folder=path.parent, sound=sound))


def recording(folder: Path, text: str | bytes | None = "call mum", seconds: float = 2.0) -> Path:
    path = write_wav(folder / "a.wav", sound(seconds))
    if text is not None:
        path.with_suffix(".txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_pair_is_ready(tmp_path: Path) -> None:
    reading = hear(recording(tmp_path, "\ufeffcall mum\n"))

    (clip,) = reading.clips
    assert (reading.state, reading.reason, reading.duration_s) == ("ready", "", 2.0)
    assert (clip.text, clip.start_s, clip.end_s, clip.duration_s, clip.side) == ("call mum", 0.0, None, 2.0, None)
    assert reading.sound is not None
    assert clip.pcm_sha256 == reading.sound.pcm_sha256


def test_without_text_it_waits_and_says_for_what(tmp_path: Path) -> None:
    reading = hear(recording(tmp_path, None))

    assert (reading.state, reading.reason) == ("waiting", "no text yet: put a.txt beside it")
    assert reading.duration_s == 2.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a.txt: the text is empty; write what is said in the recording"),
        ("grüße".encode("latin-1"), "a.txt: the text is not UTF-8 (byte 2); save it again as UTF-8"),
        ("bla " * 1250, "4999 characters of text for 2.0 s of audio are more than anyone can say"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, text: str | bytes, reason: str) -> None:
    reading = hear(recording(tmp_path, text))

    assert (reading.state, reading.reason) == ("rejected", reason)


def test_audio_is_judged_before_its_text_comes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"no sound")
    assert hear(path).state == "rejected"
    assert hear(path).reason.startswith("not audio")

    write_wav(path, np.zeros(16_000, np.float32))
    assert (hear(path).state, hear(path).reason) == ("rejected", "there is no sound in it (-100 dB of full scale)")

    write_wav(path, sound(0.05))
    assert hear(path).reason == "0.05 s of audio is too short to hold a word; record a whole sentence"


def test_a_known_sound_is_not_decoded_again(tmp_path: Path) -> None:
    path = recording(tmp_path, "words")
    before = hear(path)
    path.write_bytes(b"not even audio")

    assert hear(path, before.sound) == before


def test_a_long_recording_needs_cues(tmp_path: Path) -> None:
    path = recording(tmp_path, "all of it", 40)
    assert hear(path).state == "rejected"
    assert hear(path).reason == (
        "lasts 40 s, longer than the 30 s taken in one piece; "
        "split it, or put a.srt with its words and their times beside it (`idiolect align` makes one of a text)"
    )

    path.with_suffix(".srt").write_text(
        "1\n00:00:01,000 --> 00:00:03,000\none\n\n2\n00:00:02,000 --> 00:00:04,500\ntwo\n\n"
        "3\n00:00:05,000 --> 00:00:05,020\nthree\n\n4\n00:00:38,000 --> 00:00:45,000\nfour\n\n"
        f"5\n00:00:10,000 --> 00:00:11,000\n{'five ' * 20}\n\n6\n00:00:01,000 --> 00:00:39,000\nsix\n"
    )
    reading = hear(path)

    assert reading.state == "ready"
    assert [(clip.text, clip.start_s, clip.end_s, clip.duration_s) for clip in reading.clips] == [
        ("one", 0.8, 3.0, 2.2),
        ("two", 2.0, 4.7, 2.7),
    ]
    assert reading.duration_s == pytest.approx(4.9)
    assert reading.reason.startswith("4 cues left out: a.srt: the cue at 1.0 s lasts 38 s")
    assert "the cue at 5.0 s lasts 0.02 s (0.1 to 30 s can be used)" in reading.reason


def test_cues_of_another_recording(tmp_path: Path) -> None:
    path = recording(tmp_path, None)
    path.with_suffix(".vtt").write_text("WEBVTT\n\n01:00.000 --> 01:02.000\nlater\n")

    assert hear(path).state == "rejected"
    assert hear(path).reason == "none of its cues can be used: the cue at 59.8 s: the recording ends before it"


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(recording(tmp_path))
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()

    assert "links are not followed" in hear(tmp_path / "link.wav").reason
    assert "a pipe or a device" in hear(tmp_path / "pipe.wav").reason
    assert "a folder" in hear(tmp_path / "folder.wav").reason
    vanished = hear(tmp_path / "nothing.wav")
    assert (vanished.state, vanished.retry) == ("rejected", True)


def test_a_linked_text_is_not_read(tmp_path: Path) -> None:
    path = recording(tmp_path, None)
    (tmp_path / "secret").write_text("secret")
    path.with_suffix(".txt").symlink_to(tmp_path / "secret")

    assert hear(path).state == "waiting"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("closed", ["a.wav", "a.txt"])
def test_a_closed_file_is_tried_again_later(tmp_path: Path, closed: str) -> None:
    path = recording(tmp_path)
    (tmp_path / closed).chmod(0)

    assert (hear(path).state, hear(path).retry) == ("rejected", True)
    assert "Permission denied" in hear(path).reason


def test_metadata_and_folders_speak_too(tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    path = write_encoded(tmp_path / "validation" / "b.ogg", sound(1, 48_000), "libopus", 48_000)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "validation/b.ogg", "text": "words", "language": "de"}\n')

    (clip,) = read(Request(path=path, folder=tmp_path)).clips

    assert (clip.text, clip.language, clip.side) == ("words", "de", "held-out")
