"""The job on real recordings: what it leaves, how it goes on, and what the gate must refuse in its results."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import device_profiles
from benchmarks.exporting import TINY, make_checkpoint
from daemon.work import gate, pipeline
from daemon.work.spec import JobClip, JobSpec, Side, load_result, load_spec, save_spec
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import JobError, JobStopped
from training.audio import decode, duration_s, pcm_sha256
from training.split import side

pytestmark = [pytest.mark.torch, pytest.mark.whispercpp]
PROFILES = device_profiles.load(overrides={name: {"tier": "nano"} for name in ("android-futo", "desktop-whispercpp")})
ZERO_WEIGHTS = b"\x00\x3c" + b"\x88" * 16  # a q4_0 block: scale 1, and 32 weights, stored plus 8
TRAINING = {"max_steps": 6, "epochs": 2, "batch_size": 8, "full_share": 0.0, "threads": 1}
BRIEF = {**TRAINING, "max_steps": 2, "epochs": 1}


def _clips(voices: Path, count: int, texts: Sequence[str] | None = None) -> tuple[JobClip, ...]:
    rows = [json.loads(line) for line in (voices / "human" / "metadata.jsonl").read_text().splitlines()[:count]]
    clips = []
    for index, row in enumerate(rows):
        path = voices / "human" / row["file_name"]
        pcm = decode(path)
        chosen: Side = side(row["text"])
        text = texts[index] if texts and chosen != "held-out" else row["text"]
        clips.append(JobClip(path=path, duration_s=duration_s(pcm), pcm_sha256=pcm_sha256(pcm), text=text, side=chosen))
    return tuple(clips)


def _run_dir(folder: Path, cache: Path, clips: tuple[JobClip, ...], **changed: Any) -> Path:  # noqa: ANN401
    folder.mkdir()
    fields: dict[str, Any] = {
        "run_id": folder.name,
        "tier": "nano",
        "base": "nano",
        "language": "en",
        "clips": clips,
        "profiles": (PROFILES["android-futo"].model_dump(),),
        "training": TRAINING,
        "cache": cache,
    }
    save_spec(folder, JobSpec(**(fields | changed)))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path, voices: Path) -> Path:
    """A run folder after a whole job as a child process."""
    words = {"vocabulary": ("seven", "mekolet")}
    run_dir = _run_dir(tmp_path_factory.mktemp("runs") / "run-0001", cache, _clips(voices, 60), **words)
    command = [sys.executable, "-m", "daemon.work.pipeline", str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = child.stdout.readlines()
    assert child.returncode == 0
    (run_dir / "messages").write_text("".join(lines))
    return run_dir


def test_the_child_speaks_the_protocol_and_leaves_a_result(finished: Path) -> None:
    messages = [json.loads(line) for line in (finished / "messages").read_text().splitlines()]
    assert messages[0]["kind"] == "hello"
    assert messages[-1]["kind"] == "done"
    stages = [message["name"] for message in messages if message["kind"] == "stage"]
    assert stages[:5] == [
        "read held-out recordings",
        "score the stock model",
        "read recordings",
        "train",
        "score the new model",
    ]
    assert stages[5:] == ["export android-futo", "check android-futo"]
    result = load_result(finished)
    assert result is not None
    assert result.held_out_clips == sum(clip.side == "held-out" for clip in load_spec(finished).clips)
    (seven,) = result.vocabulary  # nobody said the other
    said = sum(clip.text.split().count("seven") for clip in load_spec(finished).clips if clip.side == "held-out")
    assert (seven.term, seven.occurrences) == ("seven", said)
    assert 0 < seven.stock <= said
    assert 0 < seven.tuned <= said
    (made,) = result.artifacts
    assert made.runtime.startswith("whisper.cpp")
    assert (finished / made.folder / made.files[0].path).stat().st_size == made.files[0].size_bytes
    assert made.scores is not None
    assert abs(made.scores.wer - made.checkpoint_wer) < 0.2


def test_a_finished_job_is_not_done_again(finished: Path) -> None:
    messages: list[Message] = []
    assert pipeline.run(finished, CallbackReporter(messages.append)) == load_result(finished)
    assert messages == []


def test_two_jobs_never_work_on_one_run(finished: Path) -> None:
    import filelock

    with filelock.FileLock(finished / "lock"), pytest.raises(JobError, match="another process"):
        pipeline.run(finished, Reporter())


def test_a_stopped_job_goes_on_after_training(tmp_path: Path, cache: Path, voices: Path) -> None:
    run_dir = _run_dir(tmp_path / "run-0001", cache, _clips(voices, 24), profiles=(), training=BRIEF)
    reporter = CallbackReporter(
        lambda message: reporter.stop.set() if message.data.get("name") == "score the new model" else None
    )
    with pytest.raises(JobStopped):
        pipeline.run(run_dir, reporter)
    messages: list[Message] = []
    result = pipeline.run(run_dir, CallbackReporter(messages.append))
    stages = [message.data["name"] for message in messages if message.kind == "stage"]
    assert "train" not in stages
    assert messages[-1].kind == "progress"
    assert [message.kind for message in messages].count("progress") == 2 * result.held_out_clips  # stock is known
    assert result.steps > 0


def test_a_recording_that_went_away_is_left_out_and_named(tmp_path: Path, cache: Path, voices: Path) -> None:
    clips = _clips(voices, 24)
    taught = next(clip for clip in clips if clip.side == "train")
    gone = taught.model_copy(update={"path": tmp_path / "gone.ogg"})
    run_dir = _run_dir(tmp_path / "run-0001", cache, (*clips, gone), profiles=(), training=BRIEF)
    result = pipeline.run(run_dir, Reporter())
    assert result.skipped[0].startswith("gone.ogg")
    assert result.missing == (gone.pcm_sha256,)
    assert result.train_clips == sum(clip.side == "train" for clip in clips)


def test_shuffled_transcripts_do_not_pass_the_gate(tmp_path: Path, cache: Path, voices: Path) -> None:
    texts = [clip.text for clip in _clips(voices, 60)]
    random.Random(0).shuffle(texts)
    training = {**TRAINING, "max_steps": 12, "epochs": 4}
    run_dir = _run_dir(tmp_path / "run-0001", cache, _clips(voices, 60, texts), profiles=(), training=training)
    result = pipeline.run(run_dir, Reporter())
    assert result.tuned.wer > result.stock.wer
    verdict = gate.decide(result, PROFILES)
    assert not verdict.publish
    assert "not clearly better than the stock model" in verdict.reasons[1]  # the first: nothing was exported


@pytest.mark.parametrize(
    ("block", "reason"), [(b"\0" * 18, "zero"), (ZERO_WEIGHTS, "against the checkpoint")], ids=["bytes", "weights"]
)
def test_an_export_with_a_zeroed_tensor_does_not_pass_the_gate(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: bytes, reason: str
) -> None:
    """Zero bytes the reader sees; zero weights under a good scale only listening finds."""
    import exporters

    run_dir = _redo_exports(finished, tmp_path / "run-0001")
    export_to = exporters.export_to

    def damaged(checkpoint: Path, format: str, quantization: str, out: Path, *rest: Any) -> Any:  # noqa: ANN401
        files = export_to(checkpoint, format, quantization, out, *rest)
        _fill_tensor(out, b"encoder.blocks.0.mlp.2.weight", block)
        return files

    monkeypatch.setattr(exporters, "export_to", damaged)
    verdict = gate.decide(pipeline.run(run_dir, Reporter()), PROFILES)
    assert not verdict.publish
    assert any(said.startswith("android-futo") and reason in said for said in verdict.reasons), verdict.reasons


def test_an_export_of_another_tier_does_not_pass_the_gate(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import exporters

    run_dir, tiny = _redo_exports(finished, tmp_path / "run-0001"), tmp_path / "tiny"
    make_checkpoint(tiny, TINY)
    export = exporters.export
    monkeypatch.setattr(exporters, "export", lambda checkpoint, *rest, **named: export(tiny, *rest, **named))
    verdict = gate.decide(pipeline.run(run_dir, Reporter()), PROFILES)
    assert not verdict.publish
    assert any("another tier" in reason for reason in verdict.reasons)


def test_what_a_runtime_could_not_check_is_recorded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters import runtimes

    run_dir, opened = _redo_exports(finished, tmp_path / "run-0001"), runtimes.open_artifact

    def partly(*arguments: Any) -> Any:  # noqa: ANN401
        transcriber: Any = opened(*arguments)
        transcriber.not_checked = ("speed on a phone",)
        return transcriber

    monkeypatch.setattr(runtimes, "open_artifact", partly)
    assert [artifact.not_checked for artifact in pipeline.run(run_dir, Reporter()).artifacts] == [("speed on a phone",)]


def test_a_full_disk_while_exporting_leaves_no_file_and_keeps_the_run(finished: Path, tmp_path: Path) -> None:
    run_dir = _redo_exports(finished, tmp_path / "run-0001")
    (run_dir / "artifacts").mkdir()
    disk = f"mount -t tmpfs -o size=1m none {run_dir}/artifacts && echo mounted && "
    job = f"{sys.executable} -m daemon.work.pipeline {run_dir}; find {run_dir}/artifacts -type f"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", disk + job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
    if lines[:1] != ["mounted"]:
        pytest.skip("no small disk can be mounted here")
    assert json.loads(lines[-1])["kind"] == "done"  # and nothing is found on the disk
    result = load_result(run_dir)
    assert result is not None
    assert "the disk has 1 MB free" in result.artifacts[0].error
    assert not gate.decide(result, PROFILES).publish
    assert (run_dir / "checkpoint" / "model.safetensors").is_file()


def test_folders_are_exported_heard_and_judged(finished: Path, tmp_path: Path) -> None:
    run_dir = _redo_exports(finished, tmp_path / "run-0001")
    names = ("browser-onnx", "android-sherpa", "desktop-faster-whisper")
    profiles = device_profiles.load(overrides={name: {"tier": "nano"} for name in names})
    wanted = tuple(profiles[name].model_dump() for name in names)
    save_spec(run_dir, load_spec(run_dir).model_copy(update={"profiles": wanted}))
    for package, artifact in zip(
        ("onnxruntime", "sherpa_onnx", "faster_whisper"), pipeline.run(run_dir, Reporter()).artifacts, strict=True
    ):
        if find_spec(package) is None:
            assert f"needs the package {package}" in artifact.error
            continue
        assert artifact.error == ""
        assert artifact.scores is not None
        assert artifact.scores.wer < 0.5
        assert {Path(file.path).parts[0] for file in artifact.files} == {profiles[artifact.profile].artifact_name()}
        assert all((run_dir / artifact.folder / file.path).is_file() for file in artifact.files)


def _redo_exports(finished: Path, folder: Path) -> Path:
    """A copy of a finished run that has to export again."""
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "artifacts")
    return folder


def _fill_tensor(path: Path, name: bytes, block: bytes) -> None:
    """Overwrite the q4_0 blocks of a (128, 512) matrix."""
    data = bytearray(path.read_bytes())
    start = data.index(name) + len(name)
    filled = block * (128 * 512 // 32)
    data[start : start + len(filled)] = filled
    path.write_bytes(data)


def test_more_clips_are_heard_where_a_few_settle_nothing() -> None:
    from daemon.work.pipeline import checked_indices, is_settled

    words, before = [5] * 12, [1] * 12
    assert is_settled(before, before, words, 0.0)
    assert is_settled([0] * 12, before, words, 0.03)
    once_more = [2, *before[1:]]
    assert sum(once_more) - sum(before) <= 0.03 * sum(words)  # within the limit, by chance perhaps
    assert not is_settled(once_more, before, words, 0.03)
    assert is_settled(once_more, before, words, 0.1)
    assert is_settled(once_more + before * 9, before * 10, words * 10, 0.03)

    few, all_ = checked_indices(49, "full")
    assert (len(few), all_) == (12, list(range(49)))
    assert few == sorted(set(few))
    assert [len(chosen) for chosen in checked_indices(1000, "dynamic")] == [24, 100]
    assert checked_indices(5, "full") == [[0, 1, 2, 3, 4]]
