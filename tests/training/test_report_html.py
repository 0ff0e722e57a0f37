"""The page stands alone, shows every part, and takes nothing from outside for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tests.training.parrots import compared
from training.compare import Comparison
from training.promise import Facts
from training.report_html import report
from training.svg import Line, Point
from training.vocabulary import Term, Vocabulary

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&\u202e\udc80'
SAID = [f"please bring the arnona letter number {n}" for n in "one two three four five six".split()] * 2
HEARD = [text.replace("arnona", "iron") for text in SAID]


class _Page(HTMLParser):
    """Collects tags with their attributes; notes one that is closed out of turn."""

    void = frozenset({"meta", "br", "path", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def evil() -> Comparison:
    facts = {EVIL: Facts("tiny", False, 37_800_000, 151_000_000), "base": Facts("base", stock=True)}
    words = Vocabulary((Term(EVIL, EVIL), Term("arnona", EVIL)), EVIL)
    said = [*SAID, f"hello {EVIL}"]
    heard = [*HEARD, EVIL]
    return compared(
        said,
        {EVIL: heard, "base": heard},
        facts,
        words,
        noisy={EVIL: heard, "base": heard},
        names=[EVIL] * len(said),
    )


def test_nothing_from_outside_becomes_markup(evil: Comparison) -> None:
    line = Line(EVIL, (Point(EVIL, 0.5), Point("b", 0.4)))
    text = report(evil, [line], [line])
    text.encode()  # a file name may hold what UTF-8 has no bytes for
    page = _Page(text)
    assert page.open == []
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "href"]
    assert "alert(1)" in text  # it is there, as text


def test_the_page_needs_no_network(evil: Comparison) -> None:
    text = report(evil)
    assert "default-src 'none'" in text
    assert not re.findall(r"https?:|@import|url\(|src=(?!x)", text)


def test_every_part_is_there_once_it_has_something_to_show(evil: Comparison) -> None:
    curve = [Line("human", (Point("10", 0.4, 0.3, 0.5), Point("50", 0.2)))]
    whole = report(evil, curve, [Line("tiny, tuned", (Point("r-0001", 0.1),))])
    for title in (
        "promise",
        "Errors",
        "Words that matter",
        "In noise",
        "cost",
        "worst clips",
        "recordings",
        "releases",
    ):
        assert re.search(rf"<h2>[^<]*{title}", whole), title
    assert whole.index("The promise") < whole.index("Errors")
    bare = report(compared(SAID, {"nano": SAID}))
    assert not re.search(r"<h2>[^<]*(promise|In noise|recordings|releases)", bare)
    assert "<details" not in bare  # nothing was misheard


def test_words_are_shown_above_each_other() -> None:
    text = report(compared(["call anna now"], {"nano": ["call ann right now"]}))
    assert re.search(r'class="substitute"><b>anna</b><i>(ann|right)</i>', text)
    assert re.search(r'class="insert"><b>·</b><ins>(ann|right)</ins>', text)
    assert "2 errors, 3 words said" in text
