"""Plots are sound XML, show what they are given, and let nothing from outside be markup."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from training.svg import WIDTH, Bar, Line, Point, bars, lines, safe

HOSTILE = "</svg><script>alert('1')</script>&\"\x00\u202e\udc80"


def test_bars_are_as_long_as_their_rates_and_stay_inside() -> None:
    drawn = ElementTree.fromstring(bars("WER", [Bar("a", 0.4, 0.3, 0.5), Bar("b", 0.2, is_marked=True)]))
    long, short = drawn.findall("rect")
    assert float(long.get("width", "")) == pytest.approx(2 * float(short.get("width", "")))
    assert float(long.get("width", "")) < WIDTH
    assert (long.get("class"), short.get("class")) == ("bar", "marked")
    assert len(drawn.findall("path")) == 1  # only one has an interval
    assert "40.0%" in "".join(drawn.itertext())


def test_lines_share_the_steps_they_have_in_common() -> None:
    human = Line("human", (Point("10", 0.4, 0.3, 0.5), Point("50", 0.2)))
    drawn = ElementTree.fromstring(lines("curve", [human, Line("synthetic", (Point("50", 0.1),))]))
    dots = drawn.findall("circle")
    assert [dot.findtext("title") for dot in dots] == ["human, 10: 40.0%", "human, 50: 20.0%", "synthetic, 50: 10.0%"]
    assert dots[1].get("cx") == dots[2].get("cx")
    assert float(dots[0].get("cy", "")) < float(dots[1].get("cy", "")) < float(dots[2].get("cy", ""))


@pytest.mark.parametrize("drawn", [bars("none", []), bars("zero", [Bar("a", 0.0)]), lines("none", [Line("a", ())])])
def test_nothing_to_show_is_no_error(drawn: str) -> None:
    assert "nan" not in ElementTree.tostring(ElementTree.fromstring(drawn), "unicode").replace("none", "")


def test_hostile_text_stays_text() -> None:
    assert safe(HOSTILE).encode() == (
        b"&lt;/svg&gt;&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&amp;&quot;" + "\ufffd\ufffd\ufffd".encode()
    )
    drawn = bars(HOSTILE, [Bar(HOSTILE, 0.5)]) + lines(HOSTILE, [Line(HOSTILE, (Point(HOSTILE, 0.5),))])
    root = ElementTree.fromstring(f"<p>{drawn}</p>")
    assert not [tag for tag in root.iter() if tag.tag == "script"]
