"""A home's rooms: opened together, and refused with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import Config
from daemon.paths import Paths
from daemon.rooms import Rooms
from idiolect.errors import ConfigError
from tests.daemon.homes import CONFIG, changed


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.at(tmp_path)


def test_the_defaults_open(paths: Paths) -> None:
    with Rooms.opened(paths, Config()) as rooms:
        assert rooms.folders == (paths.recordings,)
        assert set(rooms.profiles) == {"android-futo", "desktop-whispercpp"}
        assert rooms.warnings() == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (changed(training={"tiers": ("nanoo",)}), 'training.tiers names "nanoo"\ndid you mean nano? known: nano, tiny'),
        (changed(export={"profiles": ("futo",)}), 'export.profiles names "futo"\ndid you mean android-futo? known: '),
        (changed(export={"profiles": ("zzz",)}), 'export.profiles names "zzz"\nknown: android-futo, '),
        (CONFIG.model_copy(update={"profiles": {"android-futo": {"tier": 3}}}), "profiles.android-futo.tier = 3"),
    ],
)
def test_names_that_do_not_exist_are_refused(paths: Paths, config: Config, said: str) -> None:
    with pytest.raises(ConfigError) as caught, Rooms.opened(paths, config):
        pass
    assert str(paths.config_file) in str(caught.value)
    assert said in str(caught.value)
    assert not paths.library_db.exists()


def test_a_tier_may_stand_on_other_weights(paths: Paths, tmp_path: Path) -> None:
    config = changed(training={"tiers": ("mine", "tiny"), "bases": {"mine": str(tmp_path), "tiny": "somebody/whisper"}})
    with Rooms.opened(paths, config) as rooms:
        assert rooms.is_cached("mine")
        assert not rooms.is_cached("tiny")


def test_tiers_and_profiles_that_do_not_meet_are_told(paths: Paths) -> None:
    config = changed(training={"tiers": ("tiny",)}, publish={"anyway": True})
    with Rooms.opened(paths, config) as rooms:
        first, second, third = rooms.warnings()
    assert "no profile in [export] profiles is for tier tiny" in first
    assert "profile android-futo is for tier nano" in second
    assert "anyway" in third
