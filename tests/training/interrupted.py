"""A training for tests that interrupt it: `python -m tests.training.interrupted BASE OUT` prints its messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from idiolect.child import CallbackReporter, Message
from tests.conftest import VOICES
from tests.training.speech import shipped
from training.finetune import Outcome, Settings, Source, finetune

SETTINGS = Settings(
    max_steps=12,
    epochs=12,
    batch_size=4,
    full_share=0.0,
    longer_share=0.0,
    join_share=0.5,
    threads=1,
    checkpoint_s=0.05,
)


def sources() -> list[Source]:
    """Ten clips to learn and two to choose by."""
    clips = shipped(VOICES, "human", 12)
    return [Source(name, pcm, text, "en", index % 6 == 5) for index, (name, pcm, text) in enumerate(clips)]


def train(base: Path, out: Path, settings: Settings, heard: list[Message]) -> Outcome:
    """`finetune` on them, its messages in `heard`."""
    return finetune(base, sources(), out, settings, CallbackReporter(heard.append))


def state(out: Path) -> Path:
    """The folder of the one interrupted run that `out` shall come from."""
    (folder,) = out.with_name(out.name + ".state").iterdir()
    return folder


def values(messages: list[Message], name: str) -> list[float]:
    """A metric in the order told."""
    return [message.data[name] for message in messages if name in message.data]


def warnings(messages: list[Message]) -> str:
    """All that was warned of."""
    return "\n".join(message.data["message"] for message in messages if message.kind == "warning")


def _say(message: Message) -> None:
    sys.stdout.write(json.dumps({"kind": message.kind, **message.data}) + "\n")  # in one piece: two processes may speak
    sys.stdout.flush()


if __name__ == "__main__":
    finetune(Path(sys.argv[1]), sources(), Path(sys.argv[2]), SETTINGS, CallbackReporter(_say))
