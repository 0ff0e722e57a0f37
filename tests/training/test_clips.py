import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.errors import DatasetError
from training.clips import Clip, find_recordings, find_texts, is_audio, read_folder


def put(folder: Path, **files: str) -> None:
    """Files by `name__suffix`; what is in the audio files does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_audio_names() -> None:
    assert is_audio("a.WAV")
    assert is_audio("v1.2 take.opus")
    assert not is_audio("wav")
    assert not is_audio("a.wav.tmp")


def test_pairs_in_every_sub_folder(tmp_path: Path) -> None:
    put(tmp_path, a__wav="", a__txt="one", b__mp3="", notes__txt="nothing to do with it")
    put(tmp_path / "deep" / "er", c__FLAC="", c__TXT="two")
    put(tmp_path / ".stversions", d__wav="", d__txt="old")
    told: list[tuple[str, str]] = []

    clips = read_folder(tmp_path, lambda path, reason: told.append((path.name, reason)))

    assert clips == [Clip(tmp_path / "a.wav", "one"), Clip(tmp_path / "deep" / "er" / "c.FLAC", "two")]
    assert told == [("b.mp3", "no text yet: put b.txt beside it")]
    assert read_folder(tmp_path) == clips


def test_train_and_validation_are_obeyed(tmp_path: Path) -> None:
    for folder in ("train", "Validation", "train2", "other/train"):
        put(tmp_path / folder, audio001__wav="", audio001__txt=folder)

    sides = {clip.text: clip.side for clip in read_folder(tmp_path)}

    assert sides == {"train": "train", "Validation": "held-out", "train2": None, "other/train": None}
    assert read_folder(tmp_path / "train")[0].side is None


def test_metadata_beside_and_above(tmp_path: Path) -> None:
    put(tmp_path, metadata__jsonl='{"file_name": "train/a.wav", "text": "above", "language": "HE"}\n')
    put(
        tmp_path / "train",
        a__wav="",
        b__wav="",
        c__wav="",
        c__txt="own",
        d__wav="",
        d__srt="1\n00:00:01,000 --> 00:00:02,500\ncue\n",
        metadata__csv="file_name,text,language\nb.wav,beside,\nc.wav,,de\nd.wav,table,fr",
    )

    clips = read_folder(tmp_path)

    assert [(clip.text, clip.language, clip.side) for clip in clips] == [
        ("above", "he", "train"),
        ("beside", None, "train"),
        ("own", "de", "train"),
        ("cue", "fr", "train"),
    ]


def test_a_row_of_the_language_alone_is_no_text(tmp_path: Path) -> None:
    rows = '{"file_name": "in/a.wav", "text": "above"}\n{"file_name": "b.wav", "language": "de"}\n'
    put(tmp_path, b__wav="", metadata__jsonl=rows)
    put(tmp_path / "in", a__wav="", metadata__csv="file_name,language\na.wav,he\n")
    told: list[str] = []

    clips = read_folder(tmp_path, lambda _, reason: told.append(reason))

    assert [(clip.path.name, clip.text, clip.language) for clip in clips] == [("a.wav", "above", "he")]
    assert told == ["no text yet: put b.txt beside it"]


def test_metadata_is_read_again_when_it_changes(tmp_path: Path) -> None:
    put(tmp_path, a__wav="", metadata__jsonl='{"file_name": "a.wav", "text": "one"}\n')
    assert read_folder(tmp_path)[0].text == "one"

    put(tmp_path, metadata__jsonl='{"file_name": "a.wav", "text": "another"}\n')
    assert read_folder(tmp_path)[0].text == "another"


def test_cues_win_over_plain_text_and_long_ones_are_left_out(tmp_path: Path) -> None:
    put(
        tmp_path,
        a__wav="",
        a__txt="all of it",
        a__srt="1\n00:00:01,000 --> 00:00:02,500\none\n\n2\n00:00:03,000 --> 00:00:40,000\ntoo long\n",
    )
    told: list[str] = []

    clips = read_folder(tmp_path, lambda _, reason: told.append(reason))

    assert clips == [Clip(tmp_path / "a.wav", "one", 0.8, 2.7)]
    assert told == ["a.srt: the cue at 3.0 s lasts 37 s (0.1 to 30 s can be used)"]
    with pytest.raises(DatasetError, match="lasts 37"):
        read_folder(tmp_path)


def test_one_bad_text_does_not_stop_the_rest(tmp_path: Path) -> None:
    put(tmp_path, a__wav="", a__txt="", b__wav="", b__txt="fine", c__wav="")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c.wav", "text": "x", "language": "klingon"}')
    told: dict[str, str] = {}

    clips = read_folder(tmp_path, lambda path, reason: told.update({path.name: reason}))

    assert [clip.text for clip in clips] == ["fine"]
    assert "a.txt: the text is empty" in told["a.wav"]
    assert "'klingon' is no language of Whisper" in told["c.wav"]
    with pytest.raises(DatasetError, match="empty"):
        read_folder(tmp_path)


def test_a_line_that_is_no_json_is_told_where_a_text_is_missing(tmp_path: Path) -> None:
    put(
        tmp_path, a__wav="", b__wav="", metadata__jsonl='{"file_name": "b.wav", "text": "x"}\n{"file_name": "a.wav", \n'
    )
    told: list[str] = []

    read_folder(tmp_path, lambda _, reason: told.append(reason))

    assert told == ['no text yet: put a.txt beside it (metadata.jsonl line 2 has no "file_name" and "text")']


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    put(tmp_path, a__wav="")

    with pytest.raises(DatasetError, match=r"no recording with its text \(1 without\)"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("stem", ["two words", 'it\'s "so"', "line\nbreak", "🎤", "שלום", "a.b.c", "100%", "-x"])
def test_any_name(tmp_path: Path, stem: str) -> None:
    (tmp_path / f"{stem}.wav").touch()
    (tmp_path / f"{stem}.txt").write_text("words")

    assert read_folder(tmp_path) == [Clip(tmp_path / f"{stem}.wav", "words")]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "real", a__wav="", a__txt="one")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")

    assert list(find_recordings(tmp_path / "real")) == [tmp_path / "real" / "a.wav"]
    assert find_texts(tmp_path / "real" / "a.wav", tmp_path / "real") == [tmp_path / "real" / "a.txt"]


def test_importing_the_readers_is_light() -> None:
    code = "import sys, training.clips, training.audio, training.split; print({'numpy', 'av'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"
