"""The gate's decisions, one condition at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import device_profiles
from daemon.work.gate import decide
from daemon.work.spec import ArtifactResult, Difference, ExportedFileRecord, JobResult, Scores

PROFILES = device_profiles.load(overrides={"android-futo": {"tier": "nano"}})
Change = Callable[[dict[str, Any]], None]


def _scores(**changed: float) -> Scores:
    return Scores.model_validate(
        {"clips": 40, "words": 300, "wer": 0.1, "cer": 0.05, "loops": 0, "rtf": 0.02} | changed
    )


def _artifact(**changed: Any) -> ArtifactResult:  # noqa: ANN401
    fields: dict[str, Any] = {
        "profile": "android-futo",
        "format": "ggml",
        "quantization": "q4_0",
        "files": (ExportedFileRecord(path="a.bin", size_bytes=8_000_000, sha256="0" * 64),),
        "runtime": "whisper.cpp 1.8.5",
        "scores": _scores(wer=0.11),
        "checkpoint_wer": 0.1,
        "speed_x": 50.0,
    }
    return ArtifactResult.model_validate(fields | changed)


def _result(**changed: Any) -> JobResult:  # noqa: ANN401
    fields: dict[str, Any] = {
        "run_id": "run-0001",
        "tier": "nano",
        "base_name": "nano",
        "languages": ("en",),
        "train_clips": 200,
        "train_audio_s": 600.0,
        "steps": 100,
        "train_s": 60.0,
        "seed": 0,
        "recipe_sha256": "0" * 64,
        "held_out_clips": 40,
        "held_out_words": 300,
        "held_out_audio_s": 120.0,
        "held_out_sha256": "0" * 64,
        "stock": _scores(wer=0.4),
        "tuned": _scores(),
        "versus_stock": Difference(mean=-0.3, low=-0.35, high=-0.25, clips=40, words=300),
        "artifacts": (_artifact(),),
    }
    return JobResult.model_validate(fields | changed)


def test_a_better_model_with_good_files_is_published() -> None:
    verdict = decide(_result(), PROFILES)
    assert verdict.publish
    assert verdict.reasons == ()
    assert [artifact.profile for artifact in verdict.artifacts] == ["android-futo"]


def _versus(mean: float, low: float, high: float, clips: int = 40) -> Difference:
    return Difference(mean=mean, low=low, high=high, clips=clips, words=clips * 7)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"held_out_clips": 9}, "too little to judge: 9 held-out clips"),
        ({"held_out_words": 59}, "59 words"),
        ({"versus_stock": _versus(-0.02, -0.05, 0.01)}, "not clearly better than the stock model"),
        ({"versus_stock": _versus(0.1, 0.05, 0.15)}, "WER +10.0 points"),
        ({"tuned": _scores(loops=0.025)}, "2.5% of its outputs run on in loops"),
        ({"published_release": "r-0001", "versus_published": _versus(0.05, 0.01, 0.09)}, "worse than r-0001"),
        ({"published_release": "r-0001", "versus_published": _versus(0.02, -0.01, 0.05)}, "worse than r-0001"),
        ({"published_release": "r-0001", "versus_published": _versus(0, 0, 0, clips=3)}, "too little to compare"),
        ({"artifacts": ()}, "nothing was exported"),
        ({"artifacts": (_artifact(scores=_scores(wer=0.14)),)}, "+4.0% against the checkpoint"),
        ({"artifacts": (_artifact(scores=_scores(wer=0.1, loops=0.1)),)}, "run on in loops"),
        ({"artifacts": (_artifact(error="a.bin is of another tier", scores=None),)}, "another tier"),
        ({"artifacts": (_artifact(scores=None),)}, "not measured"),
        ({"artifacts": (_artifact(profile="gone"),)}, "no longer names"),
    ],
)
def test_each_condition_alone_keeps_the_run(changed: dict[str, Any], reason: str) -> None:
    verdict = decide(_result(**changed), PROFILES)
    assert not verdict.publish
    assert any(reason in said for said in verdict.reasons), verdict.reasons


def test_a_file_over_its_profiles_size_keeps_the_run() -> None:
    profiles = device_profiles.load(overrides={"android-futo": {"tier": "nano", "max_size_mb": 7}})
    verdict = decide(_result(), profiles)
    assert not verdict.publish
    assert "8.0 MB, at most 7 MB" in verdict.reasons[0]


def test_a_slow_file_keeps_the_run_only_where_speed_is_enforced() -> None:
    slow = _result(artifacts=(_artifact(speed_x=2.0),))
    assert decide(slow, PROFILES).publish
    assert decide(slow, PROFILES).reasons == ("android-futo: 2.0 × real time, at least 10 × is wanted",)
    profiles = device_profiles.load(overrides={"android-futo": {"tier": "nano", "enforce_speed": True}})
    assert not decide(slow, profiles).publish


def test_a_missing_runtime_names_the_command_that_installs_it() -> None:
    missing = _artifact(scores=None, error="pywhispercpp is not installed", hint="pip install idiolect[whispercpp]")
    verdict = decide(_result(artifacts=(missing,)), PROFILES)
    assert "pip install idiolect[whispercpp]" in verdict.reasons[0]


def test_an_as_good_release_and_stock_loops_do_not_matter() -> None:
    fair = _result(published_release="r-0001", versus_published=_versus(0.0, -0.02, 0.02), stock=_scores(loops=0.5))
    assert decide(fair, PROFILES).publish


def test_anyway_overrides_figures_but_never_a_broken_file() -> None:
    worse = _result(versus_stock=_versus(0.1, 0.05, 0.15))
    verdict = decide(worse, PROFILES, publish_anyway=True)
    assert verdict.publish
    assert "all the same" in verdict.reasons[0]
    broken = _result(artifacts=(_artifact(error="not written", scores=None),))
    assert not decide(broken, PROFILES, publish_anyway=True).publish
