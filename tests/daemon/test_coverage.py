"""Coverage of the user's terms, and the script that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.coverage import coverage, measure, write_prompts
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work import runs
from daemon.work.spec import RESULT_FILE, TermRecall, load_spec
from idiolect.errors import UsageError
from idiolect.files import write_text
from tests.daemon import small_job
from tests.daemon.homes import CONFIG
from tests.daemon.work.test_runs import hear
from training.split import text_key
from training.vocabulary import Term


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.at(tmp_path)
    paths.make()
    paths.vocabulary_file.write_text("Kubernetes\n[Hebrew]\nmekolet\n")
    return paths


def test_the_neediest_go_first() -> None:
    often = ["the mekolet"] * 8 + ["arnona"] * 4 + ["mazgan"] * 8
    recalls = [
        TermRecall(term="mekolet", occurrences=4, stock=0, tuned=4),
        TermRecall(term="mazgan", occurrences=4, stock=0, tuned=1),
    ]
    terms = measure([Term(text) for text in ("mekolet", "arnona", "mazgan", "sherut")], often, recalls)
    assert [each.term.text for each in terms] == ["sherut", "arnona", "mazgan", "mekolet"]
    assert [each.recorded for each in terms] == [0, 4, 8, 8]
    assert [round(each.need, 3) for each in terms] == [1.0, 0.75, 0.375, 0.0]


def test_a_home_without_anything_says_where_the_words_go(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vocabulary\.txt does not exist yet"):
        coverage(Paths.at(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"vocabulary\.txt does not exist yet"):
        write_prompts(Paths.at(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    script = write_prompts(Paths.at(tmp_path / "none"), language="he-latin")
    assert "mekolet" in {sentence.term for sentence in script.sentences}


def test_recordings_and_runs_are_looked_at(paths: Paths) -> None:
    with Rooms.opened(paths, CONFIG) as rooms:
        hear(rooms, "I went to the mekolet", "nothing new")
        run_id = runs.begin(rooms, "nano")
        spec = load_spec(rooms.run_dir(run_id))
        recall = TermRecall(term="mekolet", occurrences=3, stock=1, tuned=2)
        result = small_job.result(rooms.run_dir(run_id), spec).model_copy(update={"vocabulary": (recall,)})
        write_text(rooms.run_dir(run_id) / RESULT_FILE, result.model_dump_json())
        rooms.library.update_run(run_id, state="kept")
    assert spec.vocabulary == ("Kubernetes", "mekolet")
    found = coverage(paths)
    assert (found.run, found.tier) == ("run-0001", "nano")
    kubernetes, mekolet = found.terms
    assert (kubernetes.term.text, kubernetes.recorded, kubernetes.said) == ("Kubernetes", 0, 0)
    assert (mekolet.term.group, mekolet.recorded, mekolet.heard_by_stock, mekolet.heard_now) == ("Hebrew", 1, 1, 2)


def test_what_was_recorded_does_not_come_again(paths: Paths) -> None:
    first = write_prompts(paths, minutes=2)
    with Rooms.opened(paths, CONFIG) as rooms:
        hear(rooms, *(sentence.text for sentence in first.sentences))
    second = write_prompts(paths, minutes=2)
    assert not {text_key(s.text) for s in first.sentences} & {text_key(s.text) for s in second.sentences}


def test_own_texts_are_read(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("The mekolet is closed on the holidays. We deploy Kubernetes on Thursday.")
    script = write_prompts(paths, minutes=2, own_files=[tmp_path / "notes.md"])
    assert "The mekolet is closed on the holidays." in {sentence.text for sentence in script.sentences}
    with pytest.raises(UsageError, match="cannot read"):
        write_prompts(paths, own_files=[tmp_path / "none.md"])


def test_the_library_of_a_running_daemon_can_be_read(paths: Paths) -> None:
    library = Library(paths.library_db)
    with paths.locked():
        assert coverage(paths).terms
    library.close()
