import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.intake import schema
from daemon.intake.library import Library, NewSpeech, Recording, RecordingCounts, RunState
from daemon.intake.reading import ReadClip, Reading, Sound
from daemon.intake.scan import Stamp
from idiolect.errors import UsageError
from training.quality import Measures
from training.split import Side, side

STAMP = Stamp(10, 20, "a.txt", "1:2 3:4")


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "state" / "library.sqlite3")
    yield library
    library.close()


def ready(sound: str, text: str = "some words", declared: Side | None = None, seconds: float = 2.0) -> Reading:
    clip = ReadClip(start_s=0, end_s=None, duration_s=seconds, pcm_sha256=sound * 64, text=text, side=declared)
    measures = Measures(seconds, seconds, 0.0, 0.0, -20.0, -60.0, -100.0)
    heard = Sound(pcm_sha256=sound * 64, fingerprint="", measures=measures)
    return Reading(state="ready", duration_s=seconds, sound=heard, clips=(clip,))


def text_on(wanted: str, n: int = 0) -> str:
    """The n-th text that falls on a side by itself."""
    return [text for text in (f"sentence {i}" for i in range(200)) if side(text) == wanted][n]


def sides(library: Library) -> dict[str, Side]:
    return {clip.pcm_sha256[0]: clip.side for clip in library.ready_clips()}


def test_recordings_by_state(library: Library) -> None:
    library.record("/r/b.wav", STAMP, ready("b"))
    library.record("/r/a\n'🎤.wav", STAMP, Reading(state="rejected", reason="no sound"))
    library.record("/r/c.wav", STAMP, Reading(state="waiting", reason="no text yet", duration_s=3.0))

    assert library.counts() == RecordingCounts(ready=1, waiting=1, rejected=1, ready_s=2.0, clips=1)
    assert library.recordings("rejected") == [Recording(Path("/r/a\n'🎤.wav"), "rejected", "no sound", None)]
    assert [recording.state for recording in library.recordings()] == ["rejected", "ready", "waiting"]


def test_the_file_is_private_and_outlives_the_process(tmp_path: Path) -> None:
    db = tmp_path / "library.sqlite3"
    first = Library(db)
    first.record("/r/a.wav", STAMP, ready("a"))
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first.close()

    second = Library(db)
    known = second.known()["/r/a.wav"]
    assert (known.stamp, known.gone, known.retry) == (STAMP, False, False)
    assert second.sound("/r/a.wav") == ready("a").sound
    assert second.sound("/r/b.wav") is None
    second.close()


def test_a_recording_on_a_disk_mounted_anew_is_the_same(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a"))
    read_at = library.last_arrival()
    anew = Stamp(10, 20, "a.txt", "5:2 6:4")
    library.identify({"/r/a.wav": anew})
    assert library.known()["/r/a.wav"].stamp == anew
    assert library.last_arrival() == read_at


def test_the_same_sound_counts_once_whoever_holds_it(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a"))
    library.record("/r/copy.wav", STAMP, ready("a"))

    assert library.counts() == RecordingCounts(ready=1, waiting=0, rejected=0, ready_s=2.0, clips=1, duplicate=1)
    (copy,) = library.recordings("duplicate")
    assert "the same sound as /r/" in copy.reason

    library.set_gone(["/r/copy.wav"], gone=True)
    assert library.counts() == RecordingCounts(ready=1, waiting=0, rejected=0, ready_s=2.0, clips=1)


def test_of_copies_the_newest_text_counts(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a", "wrong words"))
    time.sleep(0.01)
    library.record("/r/b.wav", STAMP, ready("a", "right words"))

    assert [clip.text for clip in library.ready_clips()] == ["right words"]


def test_sides_are_decided_once_and_kept_when_the_text_is_edited(library: Library) -> None:
    for wanted in ("train", "select", "held-out"):
        other = text_on("train" if wanted == "held-out" else "held-out")
        library.record("/r/a.wav", STAMP, ready(wanted[0], text_on(wanted)))
        assert sides(library) == {wanted[0]: wanted}

        library.record("/r/a.wav", STAMP, ready(wanted[0], other))
        assert sides(library) == {wanted[0]: wanted}
        assert library.ready_clips()[0].text == other


def test_a_side_outlives_the_recording(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a", text_on("held-out")))
    library.record("/r/a.wav", STAMP, Reading(state="rejected", reason="text empty"))
    assert library.ready_clips() == ()

    library.record("/r/other.wav", STAMP, ready("a", text_on("train")))
    assert sides(library) == {"a": "held-out"}


def test_a_new_take_of_an_edited_sentence_joins_it(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a", text_on("train")))
    library.record("/r/a.wav", STAMP, ready("a", text_on("held-out")))
    library.record("/r/b.wav", STAMP, ready("b", text_on("held-out").upper() + "!"))

    assert sides(library) == {"a": "train", "b": "train"}


def test_declared_sides_are_obeyed_also_later(library: Library) -> None:
    library.record("/r/train/a.wav", STAMP, ready("a", text_on("held-out"), "train"))
    library.record("/r/b.wav", STAMP, ready("b", text_on("train", 1)))
    assert sides(library)["a"] in {"train", "select"}

    library.record("/r/validation/b.wav", STAMP, ready("b", text_on("train", 1), "held-out"))
    assert sides(library)["b"] == "held-out"
    library.record("/r/b.wav", STAMP, ready("b", text_on("train", 1)))
    assert sides(library)["b"] == "held-out"


def test_cues_of_one_recording(library: Library) -> None:
    cues = [
        ReadClip(start_s=s, end_s=s + 1, duration_s=1, pcm_sha256=str(s) * 64, text=f"cue {s}", language="he")
        for s in (3, 1, 2)
    ]
    library.record("/r/a.wav", STAMP, Reading(state="ready", reason="1 cue left out", clips=(*cues, cues[0])))

    clips = library.ready_clips("en")
    assert [(clip.start_s, clip.end_s, clip.text, clip.language) for clip in clips] == [
        (1.0, 2.0, "cue 1", "he"),
        (2.0, 3.0, "cue 2", "he"),
        (3.0, 4.0, "cue 3", "he"),
    ]
    assert library.recordings()[0].reason == "1 cue left out"


def test_language_of_clips_that_name_none(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a"))

    assert library.ready_clips("he")[0].language == "he"


def test_what_is_new_for_a_tier(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a", text_on("train"), seconds=3))
    library.record("/r/b.wav", STAMP, ready("b", text_on("held-out"), seconds=5))
    assert library.new_since("tiny") == NewSpeech(2, 8.0, 0.0)

    run = library.create_run("tiny", "openai/whisper-tiny", library.ready_clips())
    states: tuple[RunState, ...] = ("running", "interrupted", "failed")
    for state in states:
        library.update_run(run, state=state)
        assert library.new_since("tiny").clips == 2
    library.update_run(run, state="kept")
    assert library.new_since("tiny") == NewSpeech(0, 0.0, 3.0)
    assert library.new_since("small") == NewSpeech(2, 8.0, 0.0)
    library.not_in_run(run, ["b" * 64])
    assert library.new_since("tiny") == NewSpeech(1, 5.0, 3.0)

    library.record("/r/c.wav", STAMP, ready("c", "new words", seconds=7))
    library.record("/r/a.wav", STAMP, ready("a", "edited words", seconds=3))
    assert library.new_since("tiny") == NewSpeech(3, 15.0, 3.0)
    assert library.trained_on(run) == {"a" * 64}


def test_the_life_of_a_run(library: Library) -> None:
    library.record("/r/a.wav", STAMP, ready("a"))
    first = library.create_run("tiny", "nano", library.ready_clips())
    second = library.create_run("small", "openai/whisper-small", ())
    assert (first, second) == ("run-0001", "run-0002")
    assert library.run(first).finished is None

    library.update_run(first, state="interrupted", reason="asked to stop")
    assert library.run(first).finished is None
    library.update_run(first, state="published", reason="", release_id="r-0001", summary={"wer": 0.1, "בלי": None})

    run = library.run(first)
    assert (run.state, run.reason, run.release_id, run.base) == ("published", "", "r-0001", "nano")
    assert run.summary == {"wer": 0.1, "בלי": None}
    assert run.finished is not None
    assert run.finished >= run.created
    assert run.created.tzinfo is not None
    assert [run.id for run in library.runs()] == [second, first]


@pytest.mark.parametrize("run_id", ["run-0007", "7", "run-", "first", "run-²"])
def test_no_such_run(library: Library, run_id: str) -> None:
    for ask in (library.run, library.trained_on, library.update_run):
        with pytest.raises(UsageError, match="there is no run"):
            ask(run_id)


def test_last_arrival(library: Library) -> None:
    assert library.last_arrival() is None
    library.record("/r/a.wav", STAMP, Reading(state="waiting"))
    assert library.last_arrival() is None
    library.record("/r/a.wav", STAMP, ready("a"))
    assert library.last_arrival() == pytest.approx(time.time(), abs=5)


def test_a_newer_or_damaged_file_is_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite3"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UsageError, match="newer idiolect"):
        Library(newer)

    damaged = tmp_path / "damaged.sqlite3"
    damaged.write_bytes(b"this is not a database, and long enough to be seen as none" * 20)
    before = damaged.read_bytes()
    with pytest.raises(UsageError, match="cannot be used"):
        Library(damaged)
    assert damaged.read_bytes() == before


def test_a_step_of_the_schema_is_taken_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, released = tmp_path / "library.sqlite3", schema.MIGRATIONS
    Library(db).close()
    good, bad = "CREATE TABLE extra (x);", "CREATE TABLE extra (x); CREATE TABLE files (y);"
    monkeypatch.setattr(schema, "MIGRATIONS", (*released, bad))
    with pytest.raises(UsageError, match="already exists"):
        Library(db)

    monkeypatch.setattr(schema, "MIGRATIONS", (*released, good))
    library = Library(db)
    library.record("/r/a.wav", STAMP, ready("a"))
    library.close()
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(released) + 1,)
    connection.close()


def test_a_library_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    db = tmp_path / "library.sqlite3"
    old = sqlite3.connect(db)
    old.executescript(schema.MIGRATIONS[0])
    old.execute("PRAGMA user_version = 1")
    old.execute("INSERT INTO files VALUES ('/r/a.wav', 1, 1, '', 'ready', '', 2.0, 'aa', 0, 0, 1.0)")
    old.execute("INSERT INTO clips VALUES ('aa', 'train')")
    old.execute("INSERT INTO file_clips VALUES ('/r/a.wav', 'aa', 0.0, NULL, 2.0, 'words', 'words', NULL)")
    old.commit()
    old.close()

    library = Library(db)
    assert library.counts().ready == 1
    library.record("/r/b.wav", STAMP, ready("b", "words"))
    assert library.counts().ready == 2
    library.close()


def test_thousands_of_recordings_are_no_burden(library: Library) -> None:
    with library._transaction():
        for i in range(3000):
            digest = f"{i:064x}"
            library._db.execute("INSERT INTO clips VALUES (?, 'train')", (digest,))
            library._db.execute(
                "INSERT INTO files VALUES (?, 1, 1, '', 'ready', '', 2.0, ?, 0, 0, ?, NULL, '')",
                (f"/r/{i}.wav", digest, i),
            )
            library._db.execute(
                "INSERT INTO file_clips VALUES (?, ?, 0, NULL, 2.0, ?, ?, NULL, NULL)",
                (f"/r/{i}.wav", digest, f"t {i}", f"t {i}"),
            )
    run = library.create_run("tiny", "nano", library.ready_clips())
    library.update_run(run, state="kept")

    statements: list[str] = []
    library._db.set_trace_callback(statements.append)
    assert library.counts().ready == 3000
    assert library.new_since("tiny").clips == 0
    assert len(library.ready_clips()) == 3000
    assert len(statements) < 10


def test_what_left_long_ago_is_forgotten(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.record("/r/a.wav", STAMP, ready("a"))
    library.record("/r/b.wav", STAMP, ready("b"))
    library.set_gone(["/r/a.wav"], gone=True)
    library.forget_gone()
    assert set(library.known()) == {"/r/a.wav", "/r/b.wav"}
    monkeypatch.setattr("daemon.intake.library._FORGOTTEN_S", -1.0)
    library.forget_gone()
    assert set(library.known()) == {"/r/b.wav"}
