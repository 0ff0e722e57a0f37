"""What several rooms' tests share: the nano model and the two demo voices that ship with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import base_models

VOICES = Path(base_models.__file__).parent / "data" / "voices"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def nano(cache: Path) -> Path:
    """The nano model's Hugging Face folder."""
    return base_models.resolve("nano", cache)


@pytest.fixture(scope="session")
def voices() -> Path:
    """Folder with `synthetic/` and `human/`: Ogg Opus clips and metadata.jsonl."""
    return VOICES
