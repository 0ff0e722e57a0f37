"""Profiles as shipped, added, replaced, overridden and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import device_profiles
from device_profiles import Profile, load
from idiolect.errors import ConfigError

MINE = """
title = "My watch"
tier = "tiny.en"
format = "ggml"
quantization = "q8_0"
audio_context = "full"
max_size_mb = 50
max_wer_loss = 0.01
min_speed_x = 2.5
filename = "watch-{tier}-{quantization}.bin"
"""


def test_shipped_profiles() -> None:
    profiles = load()
    assert {name: profile.artifact_name() for name, profile in profiles.items()} == {
        "android-futo": "idiolect-tiny-q4_0.bin",
        "android-gguf": "idiolect-tiny-q4_0.gguf",
        "android-sherpa": "idiolect-tiny-sherpa-int8",
        "browser-onnx": "idiolect-base-int8",
        "desktop-faster-whisper": "idiolect-small-ct2-int8",
        "desktop-gguf": "idiolect-small-q5_0.gguf",
        "desktop-whispercpp": "idiolect-small-q5_0.bin",
        "huggingface": "idiolect-small",
        "iphone-whisperkit": "idiolect_whisper-tiny",
        "server-faster-whisper": "idiolect-large-v3-turbo-ct2-float16",
        "server-faster-whisper-large": "idiolect-large-v3-ct2-float16",
    }
    futo = profiles["android-futo"]
    assert (futo.name, futo.format, futo.audio_context, futo.max_size_mb) == ("android-futo", "ggml", "dynamic", 40)
    assert (futo.max_wer_loss, futo.min_speed_x, futo.enforce_speed) == (0.03, 10, False)
    assert all(profile.description for profile in profiles.values())


def test_a_profile_survives_json() -> None:
    for profile in load().values():
        assert Profile.model_validate(profile.model_dump()) == profile
        assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_the_users_own_add_and_replace(tmp_path: Path) -> None:
    (tmp_path / "watch.toml").write_text(MINE, encoding="utf-8-sig")
    (tmp_path / "android-futo.toml").write_text(MINE)
    (tmp_path / "notes.txt").write_text("not a profile")
    profiles = load(tmp_path)
    assert set(profiles) == {*load(), "watch"}
    assert profiles["watch"].artifact_name() == "watch-tiny.en-q8_0.bin"
    assert profiles["android-futo"].title == "My watch"


def test_a_folder_that_is_not_there_adds_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "missing") == load()


def test_overrides_change_single_keys(tmp_path: Path) -> None:
    (tmp_path / "watch.toml").write_text(MINE)
    profiles = load(tmp_path, {"android-futo": {"tier": "nano"}, "watch": {"enforce_speed": True}})
    assert profiles["android-futo"].artifact_name() == "idiolect-nano-q4_0.bin"
    assert profiles["android-futo"].quantization == "q4_0"
    assert profiles["watch"].enforce_speed
    assert load()["android-futo"].tier == "tiny"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantisation": "q4_0"}, "quantisation: no such key\ndid you mean quantization?"),
        ({"quantization": "q4_k"}, "quantization = 'q4_k': did you mean q4_1? accepted: f32, f16, q4_0"),
        ({"format": "tflite"}, "format = 'tflite': accepted: ggml, gguf, onnx"),
        ({"format": "gguf"}, "format = 'gguf': FUTO does not read GGUF: the keyboard would import it as a keyboard"),
        ({"audio_context": "half"}, "audio_context = 'half': Input should be 'dynamic' or 'full'"),
        ({"max_size_mb": "40"}, "max_size_mb = '40': Input should be a valid number"),
        ({"max_size_mb": 0}, "max_size_mb = 0: Input should be greater than 0"),
        ({"max_wer_loss": 3}, "max_wer_loss = 3: Input should be less than or equal to 1"),
        ({"min_speed_x": -1}, "min_speed_x = -1"),
        ({"max_wer_loss": float("nan")}, "max_wer_loss = nan: Input should be a finite number"),
        ({"enforce_speed": "yes"}, "enforce_speed = 'yes'"),
        ({"tier": "Tiny Me"}, "tier = 'Tiny Me'"),
        ({"title": ""}, "title = ''"),
        ({"name": "other"}, "name = 'other': it is 'android-futo'"),
        ({"filename": "../{tier}.bin"}, "filename = '../{tier}.bin': letters, digits"),
        ({"filename": "a/{tier}.bin"}, "filename = 'a/{tier}.bin'"),
        ({"filename": ".hidden"}, "filename = '.hidden'"),
        ({"filename": "{name}.bin"}, "filename = '{name}.bin'"),
        ({"filename": "{tier.__class__}"}, "filename = '{tier.__class__}'"),
        ({"filename": "{tier!r}"}, "filename = '{tier!r}'"),
        ({"filename": "{tier"}, "filename = '{tier'"),
        ({"filename": "{tier:>99}"}, "filename = '{tier:>99}'"),
    ],
)
def test_a_bad_override_names_file_key_and_value(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "config.toml"
    with pytest.raises(ConfigError) as caught:
        load(overrides={"android-futo": changes}, overrides_file=file)
    assert f"{file}: profiles.android-futo.{message}" in str(caught.value)
    assert caught.value.hint


def test_a_format_is_kept_where_the_user_insists() -> None:
    forced = load(overrides={"android-futo": {"format": "gguf", "force_format": True}})["android-futo"]
    assert (forced.format, forced.force_format) == ("gguf", True)


def test_an_override_of_nothing(tmp_path: Path) -> None:
    message = r"profiles\.android-fut: there is no such profile\ndid you mean android-futo\?"
    with pytest.raises(ConfigError, match=message):
        load(overrides={"android-fut": {"tier": "nano"}}, overrides_file=tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("watch.toml", MINE.replace("tier =", "teir ="), r"watch\.toml: teir: no such key\ndid you mean tier"),
        ("watch.toml", MINE.replace("max_size_mb = 50", ""), r"watch\.toml: max_size_mb: missing\nexpected largest"),
        ("watch.toml", "title = ", r"watch\.toml: Invalid value"),
        ("My Watch.toml", MINE, r"My Watch\.toml: name = 'My Watch'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "watch.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match=r"watch\.toml"):
        load(tmp_path)


def test_every_shipped_file_is_package_data() -> None:
    folder = Path(device_profiles.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} == set(load())
