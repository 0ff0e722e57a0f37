"""Evaluating by hand: what the user wrote is checked first, each model is known for what it is, all hear the same."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from daemon.work import evaluation
from daemon.work.evaluation import (
    Request,
    check_writable,
    curve_lines,
    evaluate,
    facts_of,
    missing_rivals,
    release_lines,
)
from idiolect.child import CallbackReporter, Reporter
from idiolect.errors import DatasetError, IdiolectError, UsageError
from idiolect.transcriber import DecodingOptions
from tests.daemon.sync.publishing import candidate
from tests.training.parrots import Parrot, compared
from training import base_models
from training.audio import decode
from training.promise import Facts
from training.trained_on import read_trained_on, write_trained_on


@pytest.fixture
def data(tmp_path: Path, voices: Path) -> Path:
    """Two recordings with their texts."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = (voices / "synthetic" / "metadata.jsonl").read_text().splitlines()[:2]
    for row in map(json.loads, rows):
        shutil.copy(voices / "synthetic" / row["file_name"], folder)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models answer "call anna" to everything; the list tells which were opened, in order."""
    names: list[str] = []

    def open_model(model: str, cache: Path, threads: int = 0) -> Any:  # noqa: ANN401
        names.append(model)
        return Parrot(["call anna"] * 2, model)

    monkeypatch.setattr(evaluation, "open_model", open_model)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ("nano", "tinny")}, "no base model is called 'tinny'"),
        ({"models": ("nano", "models/me.bin")}, "there is no such file"),
        ({"against": "nowhere/at-all"}, "is not on this machine yet"),
        ({"vocabulary": Path("nowhere.txt")}, "cannot read nowhere.txt"),
        ({"noise_db": float("nan")}, "--noise-db nan"),
        ({"noise_db": 1e9}, "--noise-db 1e+09"),
        ({"data": Path("nowhere")}, "no such folder"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(
    data: Path, tmp_path: Path, opened: list[str], change: dict[str, Any], said: str
) -> None:
    request = dataclasses.replace(Request(("nano",), data), **change)
    with pytest.raises(IdiolectError, match=re.escape(said)) as caught:
        evaluate(request, tmp_path / "cache", Reporter())
    assert caught.value.hint
    assert opened == []


@pytest.mark.slow
def test_clips_without_a_word_cannot_be_scored(data: Path, tmp_path: Path, opened: list[str]) -> None:
    for text in data.glob("*.txt"):
        text.write_text("…!")
    with pytest.raises(DatasetError, match="no clip with a word"):
        evaluate(Request(("nano",), data), tmp_path / "cache", Reporter())


def test_the_reference_may_be_a_model_of_its_own(data: Path, cache: Path, nano: Path, opened: list[str]) -> None:
    found = evaluate(Request(("nano",), data, against=str(nano)), cache, Reporter())
    assert opened == ["nano", str(nano)]
    assert [result["model"] for result in found.to_json()["results"]] == opened
    assert (found.reference, found.subject) == (1, 0)
    again = evaluate(Request((str(nano), "nano"), data, against="nano"), cache, Reporter())
    assert (again.reference, len(again.results)) == (1, 2)


def test_the_words_beside_the_recordings_count(data: Path, cache: Path, tmp_path: Path, opened: list[str]) -> None:
    (data / "vocabulary.txt").write_text("mekolet")
    (tmp_path / "mine.txt").write_text("zeroconf")
    for named, term in ((None, "mekolet"), (tmp_path / "mine.txt", "zeroconf")):
        found = evaluate(Request(("nano",), data, vocabulary=named), cache, Reporter()).to_json()
        assert term in json.dumps(found["vocabulary"])


def test_few_clips_are_told(data: Path, cache: Path, opened: list[str]) -> None:
    told: list[str] = []
    reporter = CallbackReporter(lambda m: told.append(m.data["message"]) if m.kind == "warning" else None)
    evaluate(Request(("nano",), data), cache, reporter)
    assert len(told) == 1
    assert told[0].startswith(f"{data}: clips to judge by: 2, with")
    assert told[0].endswith("are too few (at least 10 and 60): record more")


def test_rivals_at_hand_join_unless_unwanted(
    data: Path, cache: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"me": Facts("tiny"), "small": Facts("small", stock=True), "medium": Facts("medium", stock=True)}
    monkeypatch.setattr(evaluation, "facts_of", lambda model, cache: facts[model])
    monkeypatch.setattr(base_models, "is_cached", lambda tier, cache: tier in {"small", "medium"})
    found = evaluate(Request(("me",), data), cache, Reporter())
    assert opened == ["me", "small"]
    value = found.to_json()
    assert [result["model"] for result in value["results"]] == ["me"]
    assert [result["model"] for result in value["rivals"]] == ["small"]
    assert [(promise["tuned"], promise["stock"]) for promise in value["promises"]] == [("me", "small")]
    assert evaluation.rivals([facts["small"], facts["me"]], cache) == []
    assert evaluate(Request(("me",), data, rivals=False), cache, Reporter()).promises == ()


@pytest.mark.parametrize(
    ("wrong", "said"), [(UsageError("base is damaged"), "base is damaged"), (MemoryError(), "out of memory")]
)
def test_a_rival_that_cannot_be_heard_is_left_out_with_a_warning(
    data: Path, cache: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, wrong: Exception, said: str
) -> None:
    def facts(model: str, cache: Path) -> Facts:
        if model == "base":
            raise wrong
        return Facts("tiny")

    monkeypatch.setattr(evaluation, "facts_of", facts)
    monkeypatch.setattr(base_models, "is_cached", lambda tier, cache: tier == "base")
    told: list[str] = []
    reporter = CallbackReporter(lambda m: told.append(m.data["message"]) if m.kind == "warning" else None)
    assert len(evaluate(Request(("me",), data), cache, reporter).results) == 1
    assert told[1:] == [f"left out base: {said}"]


def test_missing_rivals_are_named_for_tuned_models_alone() -> None:
    facts = {"me": Facts("small"), "tiny": Facts("tiny", stock=True)}
    assert missing_rivals(compared(["a"], {"me": ["a"], "tiny": ["a"]}, facts)) == ["medium"]
    assert missing_rivals(compared(["a"], {"tiny": ["a"]}, facts)) == []


@pytest.mark.slow
def test_a_model_is_known_by_its_files(cache: Path, nano: Path, tmp_path: Path) -> None:
    from exporters import export_file, export_to

    export_to(nano, "onnx", "int8", tmp_path / "onnx")
    assert (facts_of(str(tmp_path / "onnx"), cache).tier, facts_of(str(tmp_path / "onnx"), cache).stock) == (
        "nano",
        False,
    )
    stock, folder = facts_of("nano", cache), facts_of(str(nano), cache)
    assert (stock.tier, stock.stock, stock.parameters) == ("nano", True, 8_818_560)
    assert (folder.tier, folder.stock) == ("nano", False)
    assert stock.size_bytes == (nano / "model.safetensors").stat().st_size
    file = tmp_path / "me.bin"
    export_file(nano, "ggml", "q4_0", file, Reporter())
    exported = facts_of(str(file), cache)
    assert dataclasses.replace(exported, size_bytes=folder.size_bytes) == folder
    assert exported.size_bytes == file.stat().st_size
    file.write_bytes(b"what is this")
    assert facts_of(str(file), cache) == Facts(size_bytes=12)


def test_a_report_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "report.html")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nowhere" / "report.html", tmp_path / "file" / "report.html"):
        with pytest.raises(UsageError, match="cannot write"):
            check_writable(path)


def test_releases_make_two_lines_a_tier(tmp_path: Path) -> None:
    from daemon.sync.releases import ReleaseStore

    store = ReleaseStore(tmp_path / "store")
    for number in (1, 2):
        store.publish(candidate(tmp_path, number, 2))
    assert store.manifest is not None
    tuned, stock = release_lines(store.manifest.releases)
    assert [point.tick for point in tuned.points] == ["r-0001", "r-0002"]
    assert tuned.label.endswith("tuned")
    first, second = store.manifest.releases
    assert stock.points[0].rate == first.eval.wer_stock
    more = second.model_copy(update={"train": second.train.model_copy(update={"recordings": 900})})
    (curve,) = curve_lines([more, first])
    assert [point.tick for point in curve.points] == ["0", str(first.train.recordings), "900"]
    assert [point.rate for point in curve.points[1:]] == [first.eval.wer_tuned, second.eval.wer_tuned]


@pytest.mark.torch
def test_nano_hears_less_in_noise(data: Path, cache: Path) -> None:
    request = Request(("nano",), data, DecodingOptions(), noise_db=-10)
    one, other = (evaluate(request, cache, Reporter()) for _ in range(2))
    result = one.results[0]
    assert result.noisy is not None
    assert result.noisy.rate > result.wer.rate
    assert result.scored.noisy is not None
    assert other.results[0].scored.noisy is not None
    assert result.scored.noisy.hypotheses == other.results[0].scored.noisy.hypotheses


def test_no_model_is_judged_on_what_it_was_taught(
    data: Path, nano: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = shutil.copytree(nano, tmp_path / "taught")
    first, second = (decode(file) for file in sorted(data.glob("*.ogg")))
    write_trained_on(taught, [first])
    monkeypatch.setattr(evaluation, "open_model", lambda model, *_: Parrot(["call anna"], model))
    told: list[str] = []
    reporter = CallbackReporter(lambda message: told.append(message.data.get("message", "")))
    found = evaluate(Request((str(taught),), data, against="nano"), cache, reporter)
    assert [result.scored.clean.clips for result in found.results] == [1, 1]
    assert f"left out 1 of 2 clips: {taught} was trained on them" in told
    write_trained_on(taught, [first, second])
    with pytest.raises(DatasetError, match="was trained on all of these clips"):
        evaluate(Request((str(taught),), data), cache, reporter)
    (taught / "trained_on.json").write_text("{")
    assert read_trained_on(taught) == frozenset()
