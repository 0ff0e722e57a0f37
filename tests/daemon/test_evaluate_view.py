"""The tables of `idiolect evaluate`: what a newcomer reads, and how wide it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from daemon import evaluate_view, terminal
from tests.training.parrots import compared
from training.compare import Comparison
from training.promise import Facts
from training.vocabulary import Term, Vocabulary

SAID = [f"please bring the arnona letter number {n}" for n in "one two three four five six".split()] * 2
HEARD = [text.replace("arnona", "iron door") for text in SAID]
LONG = "/home/me/models/run-0001/a-model-with-quite-a-long-name-[bold]q5_0.bin"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[Comparison, int], str]:
    """What is printed on a terminal of so many columns."""

    def show(comparison: Comparison, columns: int) -> str:
        console = Console(width=columns, highlight=False, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        monkeypatch.setattr(terminal, "out", console)
        monkeypatch.setattr(evaluate_view, "out", console)
        evaluate_view.show_comparison(comparison, ["base", "small"])
        console.file.close()
        return console.export_text()

    return show


@pytest.mark.parametrize("columns", [80, 100])
def test_it_fits_the_terminal(shown: Callable[[Comparison, int], str], columns: int) -> None:
    words = Vocabulary(tuple(Term(word, "[red]group") for word in ("arnona", "letter", "zeroconf")), "vocabulary.txt")
    answers = {"nano": HEARD, LONG: SAID, "/tmp/me.bin": HEARD}
    text = shown(compared(SAID, answers, vocabulary=words, noisy={name: HEARD for name in answers}), columns)
    for line in text.splitlines():
        assert cell_len(line.rstrip()) <= columns or LONG in line, line  # a path is left whole, to be copied
    for told in (
        "95 % interval",
        "better",
        "Never said in these clips: zeroconf",
        "real-time",
        "models fetch base small",
    ):
        assert told in " ".join(text.split()), told
    assert "[red]group" in text  # names are no markup


def test_of_few_clips_it_is_said_that_they_settle_nothing(shown: Callable[[Comparison, int], str]) -> None:
    text = shown(compared(SAID[:4], {"nano": HEARD[:4], "me": SAID[:4]}), 100)
    assert "too little to judge" in " ".join(text.split())


def test_words_stand_above_each_other(shown: Callable[[Comparison, int], str]) -> None:
    text = shown(compared(["call anna now שבת please"], {"nano": ["call ann right now please"]}), 80)
    above, below = text.splitlines()[-2:]
    assert above.index("now") == below.index("now")
    assert above.index("please") == below.index("please")
    assert "·" in above
    assert "·" in below


def test_an_output_in_loops_does_not_fill_the_screen(shown: Callable[[Comparison, int], str]) -> None:
    text = shown(compared(["call anna"], {"nano": ["call " * 200]}), 80)
    assert text.splitlines()[-1].strip() == "…"
    assert text.count("call") < 60


def test_the_promise_comes_first(shown: Callable[[Comparison, int], str]) -> None:
    facts = {"me": Facts("tiny"), "base": Facts("base", stock=True)}
    text = shown(compared(SAID, {"me": SAID, "base": HEARD}, facts), 100)
    assert text.index("The promise") < text.index("Errors")
    assert "models fetch" not in text
