"""The texts beside a model (configuration, tokenizer): whether an app could use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporters.checkpoint import spelled
from exporters.layout import Dims
from idiolect.errors import ArtifactError
from idiolect.whisper import special_tokens

_DAMAGED = "the file is damaged or was not copied whole; export or pull it again"


def check_text(path: Path, check: Callable[[Path], object]) -> None:
    """Raise ArtifactError with the file's name where it cannot be read or `check` raises ValueError."""
    try:
        check(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name} cannot be used: {error}", _DAMAGED) from error


def check_json(path: Path) -> dict[str, Any]:
    """The object in it. Raises ValueError: it is none."""
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def check_vocabulary(path: Path, dims: Dims) -> None:
    """Raise ValueError for a tokenizer.json that does not hold every text token."""
    model = check_json(path).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    eot = special_tokens(dims.n_vocab).eot
    if not isinstance(vocabulary, dict) or len(spelled(vocabulary)) != eot:
        raise ValueError(f"it does not hold the {eot} text tokens of this model")
