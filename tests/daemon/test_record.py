"""Recording from a generated tone and from a stand-in for the sound server's tool; no microphone is needed."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.record import MAX_S, Prompt, Take, keep, read_script, unread
from daemon.record_view import Session
from idiolect.errors import AudioError, UsageError
from training.clips import read_folder

TONE = "lavfi:sine=frequency=440:sample_rate=44100:duration=2"
SECOND = b"\x01\x00" * 16_000


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "script.txt"
    file.write_text("\ufeffthe first one\n# as fast as you can\nthe second one\n\nthe third one\n", encoding="utf-8")
    return file


def test_a_script_is_read_with_its_hints(script: Path, tmp_path: Path) -> None:
    assert read_script(script) == [
        Prompt("the first one"),
        Prompt("the second one", "as fast as you can"),
        Prompt("the third one"),
    ]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, said in (("empty.txt", "no sentence"), ("binary.txt", "not UTF-8"), ("none.txt", "cannot read")):
        with pytest.raises(UsageError, match=said):
            read_script(tmp_path / name)


def test_what_a_device_gives_is_16_khz_mono(tmp_path: Path) -> None:
    take = Take(TONE)
    take._thread.join(20)
    pcm = take.stop()
    assert len(pcm) / 2 / 16_000 == pytest.approx(2, abs=0.1)
    file = keep(pcm, "a tone", tmp_path)
    with wave.open(str(file)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (16_000, 1, 2)
        assert reader.getnframes() == len(pcm) // 2
    (clip,) = read_folder(tmp_path)
    assert (clip.path, clip.text.strip()) == (file, "a tone")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".txt", ".wav"]


def test_a_take_ends_by_itself() -> None:
    take = Take("lavfi:sine=frequency=440:sample_rate=16000")
    take._thread.join(60)
    assert take.duration_s == pytest.approx(MAX_S, abs=1)


def test_the_sound_servers_tool_listens_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "parec"
    tool.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    take = Take(system="linux")
    take._thread.join(60)
    assert take.stop()[:2] == b"\0\0"
    assert take.duration_s >= MAX_S


def test_without_a_microphone_it_says_what_to_do() -> None:
    with pytest.raises(AudioError, match="no microphone at nonsense:x") as error:
        Take("nonsense:x")
    assert "--device" in error.value.hint


def test_a_slip_of_the_finger_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"only 0\.1 s"):
        keep(SECOND[:3_200], "x", tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_recordings_of_one_second_do_not_meet(tmp_path: Path) -> None:
    first, second = keep(SECOND, "one", tmp_path, 1e9), keep(SECOND, "two", tmp_path, 1e9 + 0.01)
    assert first != second


@pytest.mark.parametrize(
    ("typed", "texts", "kept"),
    [
        (["", "", ""] * 3, ["the first one", "the second one", "the third one"], 3),
        (["s", "", "", "a", "", "", "", "q"], ["the second one"], 1),
        (["", "", "q"], [], 0),
        ([""], [], 0),  # the terminal was closed while the voice was recorded
    ],
)
def test_a_session(script: Path, tmp_path: Path, typed: list[str], texts: list[str], kept: int) -> None:
    folder, answers = tmp_path / "recordings", iter(typed)

    def ask(question: str) -> str:
        if "recording" in question:
            sessions[-1]._thread.join(20)
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    sessions: list[Take] = []

    def take(device: str | None) -> Take:
        sessions.append(Take(device))
        return sessions[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.record_view.Take", take)
        assert Session(script, folder, TONE, ask).run() == kept
    assert sorted(_texts(folder)) == sorted(texts)
    left = [prompt.text for prompt in unread(read_script(script), folder)]
    assert left == [prompt.text for prompt in read_script(script) if prompt.text not in texts]


def _texts(folder: Path) -> Iterator[str]:
    return (path.read_text().strip() for path in folder.glob("*.txt"))
