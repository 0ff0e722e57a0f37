"""Whatever ends a training, it goes on: kill -9, torn checkpoints, too little memory or disk, a loss that diverges."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idiolect.child import CallbackReporter, Message, parse
from idiolect.errors import JobError, JobStopped
from tests.training.interrupted import SETTINGS, sources, state, train, values, warnings
from training import finetune_state
from training.batches import Batch, BatchLoss
from training.finetune import Settings, finetune

if TYPE_CHECKING:
    import torch

pytestmark = [pytest.mark.torch]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    """What the uninterrupted training tells."""
    messages: list[Message] = []
    train(nano, tmp_path_factory.mktemp("whole") / "me", SETTINGS, messages)
    return messages


def _steps(messages: list[Message]) -> list[int]:
    return [message.data["done"] for message in messages if message.data.get("unit") == "steps"]


def _killed(nano: Path, out: Path, at_step: int) -> list[Message]:
    """The messages of a training in a child that dies by SIGKILL once `at_step` is done."""
    command = [sys.executable, "-m", "tests.training.interrupted", str(nano), str(out)]
    heard: list[Message] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            message = parse(line)
            assert message is not None
            heard.append(message)
            if _steps(heard)[-1:] == [at_step]:
                child.kill()
                break
        heard += filter(None, map(parse, child.stdout))
    return heard


def test_a_killed_training_goes_on_to_the_same_end(nano: Path, whole: list[Message], tmp_path: Path) -> None:
    first = _killed(nano, tmp_path / "me", random.SystemRandom().randint(4, 9))
    saved = [0, *values(first, "checkpoint_step")]
    assert saved[-1] > 0
    second: list[Message] = []
    outcome = train(nano, tmp_path / "me", SETTINGS, second)
    assert outcome.steps == SETTINGS.max_steps == 12
    began = _steps(second)[0] - 1
    assert began >= saved[-1]
    interval = max(b - a for a, b in zip(saved, [*saved[1:], max(_steps(first))], strict=True))
    assert len(_steps(first)) + len(_steps(second)) <= 12 + interval
    assert values(second, "loss") == pytest.approx(values(whole, "loss")[-len(values(second, "loss")) :], rel=1e-3)


def _stopped_at(
    nano: Path, out: Path, step: int, settings: Settings = SETTINGS, heard: list[Message] | None = None
) -> None:
    def stop(message: Message) -> None:
        if heard is not None:
            heard.append(message)
        if message.data.get("unit") == "steps" and message.data["done"] == step:
            reporter.stop.set()

    reporter = CallbackReporter(stop)
    with pytest.raises(JobStopped):
        finetune(nano, sources(), out, settings, reporter)


def test_a_torn_checkpoint_gives_way_to_the_one_before(
    nano: Path, whole: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.MIN_SAVE_SPACING_X", 0)
    every_step = dataclasses.replace(SETTINGS, checkpoint_s=0.0)
    _stopped_at(nano, tmp_path / "me", 8, every_step)
    newest = state(tmp_path / "me") / "latest" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:100_000])
    heard: list[Message] = []
    _stopped_at(nano, tmp_path / "me", 8, every_step, heard)
    assert "damaged" in warnings(heard)
    assert json.loads((newest.parents[1] / "previous" / "state.json").read_text())["step"] == 7
    train(nano, tmp_path / "me", every_step, heard)
    assert values(heard, "continued_at_step") == [7, 8]
    assert values(heard, "loss")[-1] == pytest.approx(values(whole, "loss")[-1], rel=1e-3)


def test_a_checkpoint_that_lacks_a_part_gives_way_too(nano: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    few = dataclasses.replace(SETTINGS, max_steps=4)
    _stopped_at(nano, tmp_path / "me", 3, few)
    latest, previous = (state(tmp_path / "me") / name for name in ("latest", "previous"))
    shutil.rmtree(previous, ignore_errors=True)
    shutil.copytree(latest, previous)
    shutil.copytree(latest, latest.with_name("next"))  # killed between the two renames of the newest
    tensors = load_file(latest / "state.safetensors")
    save_file({k: v for k, v in tensors.items() if "exp_avg_sq" not in k}, latest / "state.safetensors")
    position = json.loads((latest / "state.json").read_text())
    del position["best_errors"]
    (latest.with_name("next") / "state.json").write_text(json.dumps(position))
    heard: list[Message] = []
    train(nano, tmp_path / "me", few, heard)
    assert "next is damaged (KeyError: 'best_errors'): the one before it is tried" in warnings(heard)
    assert "latest is damaged (tensors are missing): the one before it is tried" in warnings(heard)
    assert values(heard, "continued_at_step") == [3]


@pytest.mark.parametrize("name", ["next", ".next.0123abcd.old"])
def test_what_a_kill_left_between_two_renames_counts(nano: Path, tmp_path: Path, name: str) -> None:
    few = dataclasses.replace(SETTINGS, max_steps=4)
    _stopped_at(nano, tmp_path / "me", 3, few)
    latest = state(tmp_path / "me") / "latest"
    latest.rename(latest.with_name(name))
    heard: list[Message] = []
    _stopped_at(nano, tmp_path / "me", 4, few, heard)
    assert not list(latest.parent.glob(".*"))
    train(nano, tmp_path / "me", few, heard)
    assert values(heard, "continued_at_step") == [3, 4]
    assert not warnings(heard)


def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(SETTINGS, max_steps=4)
    _stopped_at(nano, tmp_path / "me", 3, few)
    latest = state(tmp_path / "me") / "latest"

    def stale(run: object, position: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(finetune_state, "_needed", stale)
        with pytest.raises(JobError, match=f"{latest} cannot be read: Stale file handle"):
            train(nano, tmp_path / "me", few, [])
    heard: list[Message] = []
    train(nano, tmp_path / "me", few, heard)
    assert values(heard, "continued_at_step") == [3]


def test_a_training_with_other_settings_leaves_a_stopped_one_alone(nano: Path, tmp_path: Path) -> None:
    few, other, third = (dataclasses.replace(SETTINGS, max_steps=steps) for steps in (5, 4, 3))
    _stopped_at(nano, tmp_path / "me", 3, few)
    first = state(tmp_path / "me")
    _stopped_at(nano, tmp_path / "me", 2, other)
    heard: list[Message] = []
    _stopped_at(nano, tmp_path / "me", 4, few, heard)
    assert values(heard, "continued_at_step") == [3]
    assert not warnings(heard)
    _stopped_at(nano, tmp_path / "me", 1, third, heard)
    assert f"{first} was trained with other settings: the training starts from the beginning" in warnings(heard)
    assert len(list(first.parent.iterdir())) == 3
    train(nano, tmp_path / "me", few, heard)
    assert values(heard, "continued_at_step") == [3, 4]
    assert not first.parent.exists()


def test_a_checkpoint_that_cannot_be_used_says_why(nano: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    few, one = (dataclasses.replace(SETTINGS, max_steps=steps) for steps in (4, 1))
    _stopped_at(nano, tmp_path / "me", 3, few)
    shutil.copytree(tmp_path / "me.state", tmp_path / "other.state")
    heard: list[Message] = []
    train(nano, tmp_path / "other", one, heard)
    assert "other settings" in warnings(heard)
    assert not values(heard, "continued_at_step")

    changed = shutil.copytree(nano, tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.encoder.conv1.weight"] += torch.tensor(0.01, dtype=torch.float16)
    save_file(tensors, changed / "model.safetensors", {"format": "pt"})
    heard = []
    shutil.copytree(tmp_path / "me.state", tmp_path / "third.state")
    train(changed, tmp_path / "third", few, heard)
    assert "other base model" in warnings(heard)

    for folder in ("latest", "previous"):
        (state(tmp_path / "me") / folder / "state.json").write_text("{")
    heard = []
    train(nano, tmp_path / "me", few, heard)
    assert warnings(heard).count("damaged") == 2
    assert values(heard, "loss")


class _SmallMemory(BatchLoss):
    """Runs out of memory above so many positions at once, more where activations are computed twice."""

    most = most_recomputed = 700

    def __call__(self, batch: Batch) -> torch.Tensor:
        most = self.most_recomputed if self._model.is_gradient_checkpointing else self.most
        if batch.positions > most:
            raise MemoryError
        return super().__call__(batch)


def test_too_little_memory_halves_what_is_computed_at_once(
    nano: Path, whole: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.BatchLoss", _SmallMemory)
    heard: list[Message] = []
    train(nano, tmp_path / "me", SETTINGS, heard)
    assert "half as much at once" in warnings(heard)
    assert values(heard, "loss") == pytest.approx(values(whole, "loss"), rel=1e-3)
    monkeypatch.setattr(_SmallMemory, "most", 10)
    monkeypatch.setattr(_SmallMemory, "most_recomputed", 10)
    with pytest.raises(JobError, match="one clip at a time"):
        train(nano, tmp_path / "none", SETTINGS, heard)
    assert "computed twice" in warnings(heard)
    monkeypatch.setattr(_SmallMemory, "most_recomputed", 700)
    heard = []
    train(nano, tmp_path / "some", SETTINGS, heard)
    assert "computed twice" in warnings(heard)
    assert values(heard, "loss") == pytest.approx(values(whole, "loss"), rel=1e-3)


class _Diverging(BatchLoss):
    """Is no number at one step of the first `times` passes over it."""

    times, seen = 1, 0
    step = 9

    def __call__(self, batch: Batch) -> torch.Tensor:
        type(self).seen += 1
        loss = super().__call__(batch)
        if self.seen == self.step and self.times:
            type(self).times, type(self).seen = self.times - 1, 0
            return loss * float("nan")
        return loss


def test_a_diverging_loss_goes_back_once_with_half_the_rate(
    nano: Path, whole: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.BatchLoss", _Diverging)
    heard: list[Message] = []
    outcome = train(nano, tmp_path / "me", SETTINGS, heard)
    assert outcome.steps == 12
    assert "half the learning rate" in warnings(heard)
    assert 0 < values(heard, "continued_at_step")[0] <= 8
    assert values(heard, "learning_rate")[-1] == pytest.approx(values(whole, "learning_rate")[-1] / 2)
    monkeypatch.setattr(_Diverging, "times", 2)
    monkeypatch.setattr(_Diverging, "seen", 0)
    monkeypatch.setattr(_Diverging, "step", 2)
    with pytest.raises(JobError, match="the loss is nan, again"):
        train(nano, tmp_path / "twice", SETTINGS, [])


class _Steep(BatchLoss):
    """A loss whose gradient is no number."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        loss = super().__call__(batch)
        return loss + (0.0 * loss).sqrt()


def test_a_gradient_that_is_no_number_ends_it(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.BatchLoss", _Steep)
    heard: list[Message] = []
    with pytest.raises(JobError, match="step 0: the gradient is nan, again"):
        train(nano, tmp_path / "me", SETTINGS, heard)
    assert "the gradient is nan: back to the last checkpoint with half the learning rate" in warnings(heard)


def test_processes_must_continue_at_one_step(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.processes.Processes.sum", lambda processes, *values: [value + 5 for value in values])
    with pytest.raises(JobError, match="process 0 continues at step 0, others elsewhere"):
        train(nano, tmp_path / "me", SETTINGS, [])


def test_a_full_disk_is_told_beforehand(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.finetune.free_bytes", lambda folder: 50_000_000)
    with pytest.raises(JobError, match=r"needs 0\.\d GB of disk space"):
        train(nano, tmp_path / "me", SETTINGS, [])
    assert finetune_state.needed_bytes(100, 10) == 880


def test_a_disk_that_takes_no_model_is_told(nano: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # as full as a disk can be made here
    try:
        with pytest.raises(JobError, match=r"the disk is full: .*best\.safetensors|the disk is full: .*os error 27"):
            train(nano, tmp_path / "me", dataclasses.replace(SETTINGS, max_steps=1), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "me").exists()


def test_a_finished_run_leaves_no_model_in_memory(nano: Path, tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    def models() -> int:
        return sum(type(each) is WhisperForConditionalGeneration for each in gc.get_objects())

    gc.collect()
    before = models()
    train(nano, tmp_path / "me", dataclasses.replace(SETTINGS, max_steps=1), [])
    assert models() == before


def test_a_checkpoint_that_the_disk_does_not_take_ends_nothing(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finetune_state, "save_state", full)
    heard: list[Message] = []
    assert train(nano, tmp_path / "me", dataclasses.replace(SETTINGS, max_steps=4), heard).steps == 4
    assert "No space left" in warnings(heard)


def test_gradient_checkpointing_computes_twice_and_changes_no_loss(
    nano: Path, whole: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

    computed: list[bool] = []  # whether for gradients

    def count(layer: type[torch.nn.Module]) -> None:
        forward = layer.forward

        def counted(self: torch.nn.Module, *inputs: object, **options: object) -> object:
            if self.training:
                computed.append(True)
            return forward(self, *inputs, **options)

        monkeypatch.setattr(layer, "forward", counted)

    count(WhisperEncoderLayer)
    count(WhisperDecoderLayer)
    once = dataclasses.replace(SETTINGS, max_steps=2)
    train(nano, tmp_path / "once", once, [])
    n_once = len(computed)
    computed.clear()
    heard: list[Message] = []
    train(nano, tmp_path / "twice", dataclasses.replace(once, gradient_checkpointing=True), heard)
    assert len(computed) == 2 * n_once > 0
    train(nano, tmp_path / "me", dataclasses.replace(SETTINGS, gradient_checkpointing=True), heard := [])
    assert values(heard, "loss") == pytest.approx(values(whole, "loss"), rel=1e-3)
    assert Settings().gradient_checkpointing is False
