"""Comparing quantisations: each made, heard, judged by the profiles and removed, and what people see of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import device_profiles
from daemon import quantisation_view as view
from daemon.work.quantisations import NO_TERMS, Quantisations, Request, compare_quantisations, usual_context
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import DatasetError, IdiolectError, UsageError
from idiolect.transcriber import DecodingOptions
from tests.training.parrots import Parrot
from training.audio import decode
from training.compare import Scored, compare
from training.evaluate import EvaluationClip, evaluate
from training.promise import Facts
from training.svg import Spot
from training.trained_on import write_trained_on
from training.vocabulary import Term, Vocabulary

PROFILES = device_profiles.load()


@pytest.fixture
def data(tmp_path: Path, voices: Path) -> Path:
    """Two recordings with their texts."""
    folder = tmp_path / "data"
    folder.mkdir()
    for row in map(json.loads, (voices / "human" / "metadata.jsonl").read_text().splitlines()[:2]):
        shutil.copy(voices / "human" / row["file_name"], folder)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    return folder


def found(errors: dict[str, int], sizes_mb: dict[str, float], failed: dict[str, str] | None = None) -> Quantisations:
    """As if heard on ten clips of 8 words: the checkpoint hears all, the others miss so many words."""
    import numpy as np

    clips = [
        EvaluationClip("clip", np.zeros(16_000, np.float32), "kubernetes two three four five six seven eight")
    ] * 10
    scored = []
    for name, missed in {"checkpoint": 0, **errors}.items():
        heard = [" ".join(clip.text.split()[: 8 - (missed if i == 0 else 0)]) for i, clip in enumerate(clips)]
        clean = replace(evaluate(Parrot(heard, name), clips), rtf=0.05)
        scored.append(Scored(clean, Facts(size_bytes=int(1e6 * sizes_mb.get(name, 100)))))
    vocabulary = Vocabulary((Term("Kubernetes"),), "words.txt")
    comparison = compare(scored, len(scored), 0, [clip.name for clip in clips], vocabulary)
    futo = {name: PROFILES[name] for name in ("android-futo", "desktop-whispercpp")}
    return Quantisations("ggml", DecodingOptions(), comparison, failed or {}, futo)


def test_each_profile_says_what_it_would_take() -> None:
    result = found({"q4_0": 4, "q5_0": 1, "q8_0": 0}, {"q4_0": 25, "q5_0": 30, "q8_0": 43})
    fits = [{fit.profile: fit for fit in result.fits(each)} for each in result.comparison.results[1:]]
    assert [each["android-futo"].missed for each in fits] == [("max_wer_loss",), (), ("max_size_mb",)]
    assert [each["android-futo"].is_choice for each in fits] == [True, False, False]
    assert list(view.advice(result)) == [
        "android-futo takes q4_0: misses max_wer_loss; the smallest that keeps its limits is q5_0",
        "desktop-whispercpp takes q5_0: within its limits (it is checked with windows of 30 s: --audio-context full)",
    ]


def test_speed_alone_only_warns_unless_it_is_enforced() -> None:
    slow = found({"q4_0": 0}, {"q4_0": 25})
    strict = {"a": PROFILES["android-futo"].model_copy(update={"name": "a", "min_speed_x": 50.0})}
    (fit,) = replace(slow, profiles=strict).fits(slow.comparison.results[1])
    assert (fit.missed, fit.is_refused) == (("min_speed_x",), False)
    assert "which only warns" in next(view.advice(replace(slow, profiles=strict)))
    enforced = {"a": strict["a"].model_copy(update={"enforce_speed": True})}
    assert next(replace(slow, profiles=enforced).fits(slow.comparison.results[1])).is_refused
    assert "no quantisation keeps them" in next(view.advice(replace(slow, profiles=enforced)))


def test_a_quantisation_that_was_not_heard_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = found({"q5_0": 0}, {"q5_0": 30}, {"q4_0": "whisper.cpp was killed by SIGABRT"})
    view.show_quantisations(result)
    shown = capsys.readouterr().out
    assert "q4_0 was not heard: whisper.cpp was killed by SIGABRT" in shown
    assert "android-futo takes q4_0: it was not heard" in shown
    assert "q5_0 ●" in shown
    assert "10/10" in shown  # how often Kubernetes was heard
    assert result.to_json()["failed"] == {"q4_0": "whisper.cpp was killed by SIGABRT"}


def test_the_plot_shows_every_quantisation_even_where_they_lie_close() -> None:
    spots = [Spot(name, 6 + i / 10, 0.05, name == "q4_0") for i, name in enumerate(("q4_0", "q4_1", "q5_0", "q5_1"))]
    lines = view.plot([*spots, Spot("f16", 18, 0.08)], checkpoint=0.02)
    text = "\n".join(lines)
    assert all(len(re.findall(spot.label, text)) == 1 for spot in spots)
    assert "┄" in lines[-4]
    assert "8.6%" in lines[0]
    assert "18.0 MB" in lines[-1]
    assert view.plot([Spot("int8", 10, 0.0)], 0.0)


def test_the_page_is_whole_and_lets_nothing_in() -> None:
    page = view.page(found({"q4_0": 1}, {}, {"f32": "<script>"}))
    assert page.startswith("<!doctype html>")
    assert "<script>" not in page
    assert page.count("<circle") == 1
    assert "android-futo takes q4_0" in page


def test_the_context_is_the_one_that_profiles_ask_for() -> None:
    assert usual_context("ggml", PROFILES) == "dynamic"
    assert usual_context("onnx", PROFILES) == "full"
    assert usual_context("nothing", PROFILES) == "full"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "tflite"}, "there is no format 'tflite'"),
        ({"vocabulary": Path("nowhere.txt")}, "cannot read nowhere.txt"),
        ({"model": "tinny"}, "no base model is called 'tinny'"),
        ({"data": Path("nowhere")}, "no such folder"),
    ],
)
@pytest.mark.whispercpp
def test_mistakes_are_told_first(data: Path, cache: Path, change: dict[str, object], said: str) -> None:
    request = replace(Request("nano", "ggml", data), **change)  # type: ignore[arg-type]
    with pytest.raises(IdiolectError, match=said) as caught:
        compare_quantisations(request, PROFILES, cache, Reporter())
    assert caught.value.hint


@pytest.mark.whispercpp
def test_a_model_is_not_judged_on_what_it_learnt(data: Path, cache: Path, nano: Path, tmp_path: Path) -> None:
    model = shutil.copytree(nano, tmp_path / "me")
    write_trained_on(model, [decode(path) for path in data.glob("*.ogg")])
    with pytest.raises(DatasetError, match="was trained on all of these clips"):
        compare_quantisations(Request(str(model), "ggml", data), PROFILES, cache, Reporter())


@pytest.mark.torch
def test_every_quantisation_is_made_heard_and_removed(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(device_profiles.FORMATS, "onnx", ("fp16", "int8"))
    seen: list[Message] = []
    request = Request("nano", "onnx", data, DecodingOptions())
    result = compare_quantisations(request, PROFILES, cache, CallbackReporter(seen.append))
    rows = result.to_json()
    assert [row["model"] for row in rows["quantizations"]] == ["fp16", "int8"]
    assert rows["checkpoint"]["runtime"].startswith("torch ")
    sizes = [row["size_bytes"] for row in rows["quantizations"]]
    assert sizes[0] > sizes[1] > 5e6
    assert all(30e6 < row["peak_memory_bytes"] < 400e6 for row in rows["quantizations"])  # without PyTorch
    assert rows["quantizations"][1]["profiles"][0]["is_choice"]
    assert rows["vocabulary"]["source"] == NO_TERMS
    assert [message.data["name"] for message in seen if message.kind == "stage"][2:5] == [
        "write fp16", "hear fp16", "write int8",
    ]  # fmt: skip
    assert not list(tmp_path.glob("idiolect-*"))


@pytest.mark.torch
def test_a_quantisation_that_cannot_be_made_keeps_no_other_from_it(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that fails is told; where all fail, why the last did."""
    monkeypatch.setattr("daemon.work.quantisations.open_model", lambda *_: Parrot(["one two"] * 2))
    monkeypatch.setattr("exporters.apart.open_apart", lambda path: Parrot(["one two"] * 2))
    monkeypatch.setattr("daemon.work.quantisations.require", lambda *_: None)

    def export_to(checkpoint: Path, format: str, quantization: str, out: Path, reporter: Reporter) -> None:
        if quantization not in made:
            raise UsageError(f"{out}: no room", "free some")
        out.write_bytes(b"lmgg")

    monkeypatch.setattr("exporters.export_to", export_to)
    made = {"q4_0", "q8_0"}
    result = compare_quantisations(Request("nano", "ggml", data), PROFILES, cache, Reporter())
    assert [each.label for each in result.comparison.results] == ["checkpoint", "q4_0", "q8_0"]
    assert result.failed == dict.fromkeys(("f32", "f16", "q4_1", "q5_0", "q5_1"), "") | {
        name: f"{name}: no room" for name in ("f32", "f16", "q4_1", "q5_0", "q5_1")
    }
    made = set()
    with pytest.raises(UsageError, match="q8_0: no room"):
        compare_quantisations(Request("nano", "ggml", data), PROFILES, cache, Reporter())


def test_clips_without_a_word_cannot_be_scored(data: Path, cache: Path) -> None:
    for text in data.glob("*.txt"):
        text.write_text(" ")
    with pytest.raises(DatasetError):
        compare_quantisations(Request("nano", "ggml", data), PROFILES, cache, Reporter())


@pytest.mark.torch
@pytest.mark.whispercpp
def test_an_interrupt_leaves_nothing(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon.cli", "export", "nano", "--compare", "--data", str(data)]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "IDIOLECT_HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        while "write" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode in {1, 130}
    assert "stopped" in said
    assert "Traceback" not in said
    assert not list(temporary.glob("idiolect-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "home", "tmp"]
