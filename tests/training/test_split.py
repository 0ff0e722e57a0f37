import pytest

from training.split import is_judgeable, side, text_key


def test_the_shares_are_about_as_promised() -> None:
    sides = [side(f"sentence number {i}") for i in range(4000)]

    assert sides.count("held-out") / 4000 == pytest.approx(0.20, abs=0.02)
    assert sides.count("select") / (4000 - sides.count("held-out")) == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize("other", ["call mum now", "  Call Mum,\tnow! ", "CALL MUM NOW.", "ＣＡＬＬ mum now"])
def test_two_takes_of_one_sentence_never_straddle(other: str) -> None:
    assert text_key(other) == text_key("Call mum now")
    assert side(other) == side("Call mum now")


def test_different_sentences_have_different_keys() -> None:
    assert len({text_key(text) for text in ("a b", "ab", "שלום", "שלם", "cafe", "café", "?", "!")}) == 8


def test_a_declared_side_stands_and_train_is_shared_with_select() -> None:
    assert {side(f"sentence {i}", "held-out") for i in range(100)} == {"held-out"}
    assert {side(f"sentence {i}", "train") for i in range(300)} == {"train", "select"}


@pytest.mark.parametrize(("clips", "words", "enough"), [(10, 60, True), (9, 600, False), (100, 59, False)])
def test_too_little_to_judge(clips: int, words: int, enough: bool) -> None:
    assert is_judgeable(clips, words) is enough
