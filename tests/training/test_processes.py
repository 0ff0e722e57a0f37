"""Two processes (gloo) train as one does: the same losses from the same batches, and one of them writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.child import Message, parse
from tests.training.interrupted import SETTINGS, train, values

pytestmark = [pytest.mark.torch]
ROOT = Path(__file__).parents[2]


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --main_process_port 0".split()


@pytest.mark.parametrize(
    "launcher",
    [TORCHRUN, [*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no"]],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_make_the_losses_of_one(nano: Path, tmp_path: Path, launcher: list[str]) -> None:
    command = [sys.executable, "-m", *launcher]
    child = ["-m", "tests.training.interrupted", str(nano), str(tmp_path / "two")]
    done = subprocess.run([*command, *child], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    both = [message for message in map(parse, done.stdout.splitlines()) if message]
    one: list[Message] = []
    train(nano, tmp_path / "one", SETTINGS, one)
    assert values(both, "loss")[0::2] == values(both, "loss")[1::2]
    assert values(both, "loss")[0::2] == pytest.approx(values(one, "loss"), rel=1e-3)
    assert values(both, "select_errors")[0::2] == pytest.approx(values(one, "select_errors"), abs=0.05)
    assert len(values(both, "checkpoint_step")) == len(set(values(both, "checkpoint_step"))) > 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in nano.iterdir()}
