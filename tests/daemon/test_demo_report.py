"""The demo's promises: kept and missed ones are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon.demo_report import Finding, promises


def scores(wer: float, heard: int, loops: float = 0.0) -> dict[str, Any]:
    terms = [{"term": "mekolet", "group": "terms", "heard": heard, "said": 10}]
    return {"wer": wer, "loops": loops, "rtf": 0.1, "clips": 20, "terms": terms}


def finding(tuned: float = 0.08, heard: int = 8, loops: float = 0.0, waited_s: float = 9.0) -> Finding:
    return Finding(
        run={},
        result={"stock": {"wer": 0.4}, "tuned": {"wer": tuned}},
        phone=(scores(0.41, 0), scores(0.10, heard, loops)),
        desktop=(scores(0.45, 0), scores(0.12, heard), 0.1),
        examples=(),
        files={},
        pull_s=1.0,
        found_at="https://127.0.0.1:1",
        trained_to_pulled_s=waited_s,
        home=Path("home"),
    )


def missed(found: Finding, voice: str = "synthetic") -> list[str]:
    return [row.what for row in promises(voice, found) if not row.kept]


def test_what_was_promised_is_kept_or_named() -> None:
    assert missed(finding()) == []
    assert missed(finding(heard=7)) == ["its new words, phone file"]
    assert missed(finding(loops=0.05)) == ["outputs that run on in loops"]
    assert missed(finding(waited_s=15.1)) == ["training done → on the phone"]
    assert missed(finding(tuned=0.13)) == ["word errors, new model"]  # 68 % fewer, 70 are promised
    assert missed(finding(tuned=0.06)) == ["word errors, phone file (android-futo)"]


def test_the_human_voice_has_no_new_words() -> None:
    assert missed(finding(tuned=0.13, heard=0), "human") == []
