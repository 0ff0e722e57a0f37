"""What a training by hand has finished: stopped in its second model, or while one is scored, it goes on from there.

No model is trained again; what was scored is scored again. A note beside each finished model says what it was made of,
until the whole command has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.files import write_json

if TYPE_CHECKING:
    from training.finetune import Outcome, Settings, Source

NOTE = "finished.json"


def is_noted(place: Path) -> bool:
    """Whether a command that has not ended yet made the model in `place`."""
    return _note(place).is_file()


def recipe(model: str, sources: Sequence[Source], settings: Settings) -> str:
    """SHA-256 of what decides about a model, as `finished` compares it."""
    clips = [(each.name, len(each.pcm), each.text, each.language, each.select) for each in sources]
    return hashlib.sha256(json.dumps([model, settings.deciding().digest(), clips]).encode()).hexdigest()


def finished(place: Path, made_of: str) -> Outcome | None:
    """What came of the training whose model is in `place`; None where there is none of this very recipe."""
    from training.finetune import Outcome, Settings

    if not place.is_dir():
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(_note(place).read_text())
        if found["recipe"] == made_of:
            fields = found["outcome"] | {"checkpoint": place, "skipped": tuple(found["outcome"]["skipped"])}
            return Outcome(**fields | {"settings": Settings(**fields["settings"])})
    return None


def note(place: Path, made_of: str, outcome: Outcome) -> None:
    """Remember that this training is done."""
    _note(place).parent.mkdir(exist_ok=True)
    write_json(_note(place), {"recipe": made_of, "outcome": {**asdict(outcome), "checkpoint": str(place)}})


def forget(places: Iterable[Path]) -> None:
    """The command has ended: its models are like any other folder."""
    for place in places:
        shutil.rmtree(_note(place).parent, ignore_errors=True)


def _note(place: Path) -> Path:
    return place.with_name(place.name + ".state") / NOTE
