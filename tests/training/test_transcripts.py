from pathlib import Path, PurePosixPath

import pytest

from idiolect.errors import DatasetError
from training.transcripts import Cue, Row, check_length, read_cues, read_metadata, read_text


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("data", ["call mum\n", "\ufeffcall mum", "  call\r\n mum \n\n", "call\tmum"])
def test_text_is_one_line_without_bom(tmp_path: Path, data: str) -> None:
    assert read_text(write(tmp_path / "a.txt", data)) == "call mum"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        ("grüße".encode("latin-1"), "not UTF-8 (byte 2)"),
        ("call mum".encode("utf-16"), "not UTF-8"),
        ("call mum".encode("utf-16-le"), "UTF-16"),
        (b"x" * (1 << 20) + b"x", "too large"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_text(write(tmp_path / "a.txt", data))

    assert words in caught.value.message
    assert str(tmp_path / "a.txt") in caught.value.message


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a text file"):
        read_text(tmp_path)


def test_srt(tmp_path: Path) -> None:
    srt = (
        "\ufeff1\r\n00:00:01,500 --> 00:00:04,000\r\n<i>Hello</i> there,\r\n{\\an8}you &amp; me\r\n\r\n"
        "2\r\n00:00:05,000 --> 00:00:06,000\r\n♪\r\n\r\n3\r\n01:00:00,000 --> 01:00:02,250\r\nlate\r\n"
    )

    assert read_cues(write(tmp_path / "a.srt", srt)) == [
        Cue(1.5, 4.0, "Hello there, you & me"),
        Cue(3600.0, 3602.25, "late"),
    ]


def test_vtt(tmp_path: Path) -> None:
    vtt = "WEBVTT\n\nNOTE of no use\n\nintro\n00:10.000 --> 00:12.000 align:start\n<v Ann>second\n\n"
    vtt += "00:01.000 --> 00:02.000\nfirst"

    assert read_cues(write(tmp_path / "a.vtt", vtt)) == [Cue(1.0, 2.0, "first"), Cue(10.0, 12.0, "second")]


def test_no_cues(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no cue with words"):
        read_cues(write(tmp_path / "a.srt", "just words\n\n1\n"))


def test_jsonl(tmp_path: Path) -> None:
    table = read_metadata(
        write(
            tmp_path / "metadata.jsonl",
            '\ufeff{"file_name": "a.wav", "text": " call\\n mum ", "language": "en"}\n\nnot json\n[1]\n'
            '{"file_name": "sub\\\\b.wav", "transcription": "two"}\n{"file_name": "./c.wav", "sentence": ""}\n'
            '{"file_name": "cafe\u0301.wav", "text": "five"}\n{"file_name": 7, "text": "six"}\n',
        )
    )

    assert table.find(PurePosixPath("a.wav")) == Row("call mum", "en")
    assert table.find(PurePosixPath("sub/b.wav")) == Row("two")
    assert table.find(PurePosixPath("c.wav")) == Row("")
    assert table.find(PurePosixPath("caf\u00e9.wav")) == Row("five")
    assert table.find(PurePosixPath("d.wav")) is None
    assert table.problems == tuple(f'metadata.jsonl line {n} has no "file_name" and "text"' for n in (3, 4, 8))


def test_csv(tmp_path: Path) -> None:
    table = read_metadata(
        write(tmp_path / "metadata.csv", 'file_name,sentence\na.wav,"one, two"\nb.wav\n"c ""d"".wav",three\n')
    )

    assert table.find(PurePosixPath("a.wav")) == Row("one, two")
    assert table.find(PurePosixPath('c "d".wav')) == Row("three")
    assert table.problems == ('metadata.csv line 3 has no "file_name" and "text"',)


def test_a_table_of_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_metadata(write(tmp_path / "metadata.csv", "file_name,text\na.wav,grüße\n".encode("latin-1")))


def test_text_that_nobody_can_say_in_the_time() -> None:
    assert check_length("yes please do", 0.3) is None
    assert check_length("x" * 80, 2.0) is None
    assert check_length("x" * 5000, 2.0) == "5000 characters of text for 2.0 s of audio are more than anyone can say"
