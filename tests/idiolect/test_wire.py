from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from idiolect import wire
from idiolect.wire import Artifact, Checked, Hello, Manifest

FILE = {"path": "idiolect-tiny-q4_0.bin", "size_bytes": 25_300_000, "sha256": "ab" * 32, "magic": "6c6d6767"}
ARTIFACT = {
    "profile": "android-futo",
    "format": "ggml",
    "quantization": "q4_0",
    "size_bytes": 25_300_000,
    "checked": {"runtime": "whisper.cpp 1.8.5", "wer": 0.139, "speed_x": 31.0},
    "min": {"android_api": 26},
    "hints": {"peak_ram_bytes": 200_000_000, "audio_ctx": "full"},
    "files": [FILE],
}
RELEASE = {
    "id": "r-0013",
    "tier": "tiny",
    "created": "2026-11-22T10:59:00Z",
    "parent": "r-0012",
    "languages": ["de"],
    "base": {"name": "openai/whisper-tiny", "revision": "c0ffee" * 6 + "abcd", "license": "MIT"},
    "train": {"recordings": 540, "audio_s": 3310.5, "seed": 7, "recipe_sha256": "cd" * 32},
    "eval": {
        "set_sha256": "ef" * 32,
        "utterances": 120,
        "audio_s": 734.2,
        "wer_stock": 0.214,
        "wer_tuned": 0.131,
        "wer_ci95": [0.112, 0.15],
    },
    "artifacts": [ARTIFACT],
}
MANIFEST: dict[str, Any] = {
    "format": "idiolect-manifest/1",
    "repo": "k7f3q2mzx5ab",
    "version": 42,
    "issued": "2026-11-22T11:00:00Z",
    "expires": "2026-12-22T11:00:00Z",
    "root_version": 1,
    "channels": {"tiny": {"stable": "r-0012", "beta": "r-0013"}, "small": {"stable": "r-0009"}},
    "withdrawn": ["r-0004"],
    "releases": [RELEASE],
}


def changed(where: str, value: object) -> dict[str, Any]:
    """The manifest with the value at a dotted path replaced."""
    manifest = copy.deepcopy(MANIFEST)
    *path, last = where.split(".")
    target: Any = manifest
    for key in path:
        target = target[int(key) if key.isdecimal() else key]
    target[last] = value
    return manifest


def read(content: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(json.dumps(content))


FIRST_FILE = "releases.0.artifacts.0.files"


def test_the_manifest_of_the_design() -> None:
    manifest = read(MANIFEST)
    assert manifest.issued == datetime(2026, 11, 22, 11, tzinfo=UTC)
    release = manifest.release("r-0013")
    assert release is not None
    assert release.number == 13
    assert release.artifact("android-futo") is release.artifacts[0]
    assert release.artifact("iphone") is None
    assert manifest.release("r-0099") is None


def test_the_bytes_that_travel() -> None:
    payload = wire.dump(read(MANIFEST))
    assert Manifest.model_validate_json(payload) == read(MANIFEST)
    travelled = json.loads(payload)
    assert {key: travelled[key] for key in MANIFEST if key != "releases"} == {
        key: value for key, value in MANIFEST.items() if key != "releases"
    }
    assert travelled["releases"][0]["created"] == "2026-11-22T10:59:00Z"
    assert b": " not in payload


def test_keys_of_a_later_version_are_ignored() -> None:
    for where in ("news", "releases.0.news", "releases.0.artifacts.0.news", f"{FIRST_FILE}.0.news"):
        assert read(changed(where, {"x": 1})) == read(MANIFEST)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("format", "idiolect-manifest/2"),
        ("repo", "K7F3Q2MZX5AB"),
        ("repo", "k7f3q2mzx5ab\n"),
        ("repo", "short"),
        ("version", 0),
        ("version", 2**53),
        ("version", "42"),
        ("version", 42.5),
        ("version", True),
        ("expires", 4_733_510_400),
        ("issued", "2026-11-22T11:00:00"),
        ("expires", "tomorrow"),
        ("channels", {"tiny": {"stable": "../r-1"}}),
        ("channels", {"../up": {}}),
        ("releases.0.id", "r-1"),
        ("releases.0.tier", "Tiny"),
        ("releases.0.train.audio_s", float("nan")),
        ("releases.0.eval.wer_tuned", -0.1),
        ("releases.0.eval.wer_ci95", [0.1]),
        ("releases.0.artifacts.0.size_bytes", -1),
        (FIRST_FILE, []),
        (f"{FIRST_FILE}.0.sha256", "AB" * 32),
        (f"{FIRST_FILE}.0.sha256", "ab" * 31),
        (f"{FIRST_FILE}.0.magic", "6c6d676"),
        (f"{FIRST_FILE}.0.magic", "6c6d676767"),
        (f"{FIRST_FILE}.0.path", "../x"),
        (f"{FIRST_FILE}.0.path", "a/./b"),
        (FIRST_FILE, [FILE, FILE]),
        (FIRST_FILE, [FILE, FILE | {"path": "IDIOLECT-tiny-Q4_0.bin"}]),
        (FIRST_FILE, [FILE | {"path": "a/b"}, FILE | {"path": "a"}]),
        (FIRST_FILE, [FILE | {"path": "a/b/c"}, FILE | {"path": "A/B"}]),
    ],
)
def test_what_is_refused(where: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate_json(json.dumps(changed(where, value)))


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(sorted(MANIFEST)), x),
    )
)
def test_nonsense_is_a_validation_error(value: object) -> None:
    payload = json.dumps(value)
    with pytest.raises(ValidationError):
        Manifest.model_validate_json(payload)


def releases(*numbers_and_tiers: tuple[int, str]) -> list[dict[str, Any]]:
    return [RELEASE | {"id": f"r-{number:04d}", "tier": tier} for number, tier in numbers_and_tiers]


@pytest.mark.parametrize(
    ("channels", "withdrawn", "channel", "expected"),
    [
        ({"tiny": {"stable": "r-0002"}}, [], "stable", "r-0002"),
        ({"tiny": {"stable": "r-0002", "beta": "r-0003"}}, [], "stable", "r-0002"),
        ({"tiny": {"stable": "r-0002", "beta": "r-0003"}}, [], "beta", "r-0003"),
        ({"tiny": {"stable": "r-0002"}, "small": {"stable": "r-10000"}}, [], "stable", "r-10000"),
        ({"tiny": {"stable": "r-0002"}, "small": {"stable": "r-10000"}}, ["r-10000"], "stable", "r-0002"),
        ({"tiny": {"stable": "r-0002"}}, ["r-0002"], "stable", None),
        ({"tiny": {"stable": "r-0099"}}, [], "stable", None),
        ({"tiny": {"stable": "r-0002"}}, [], "beta", None),
        ({}, [], "stable", None),
    ],
)
def test_the_current_release(
    channels: dict[str, dict[str, str]], withdrawn: list[str], channel: str, expected: str | None
) -> None:
    listed = releases((2, "tiny"), (3, "tiny"), (10_000, "small"))
    update = {"channels": channels, "withdrawn": withdrawn, "releases": listed}
    found = read(MANIFEST | update).current("android-futo", channel)
    assert (found[0].id if found else None) == expected
    assert read(MANIFEST | update).current("iphone", channel) is None


def test_numbers_are_finite() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Checked(runtime="x", wer=float("inf"), speed_x=1.0)
    with pytest.raises(ValidationError, match="finite"):
        Checked(runtime="x", wer=0.1, speed_x=float("nan"))


def test_an_artifact_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Artifact.model_validate_json(json.dumps(ARTIFACT)).profile = "other"


def test_hello() -> None:
    hello = Hello(id="k7f3q2mzx5ab", api=[1], label="desk", now=wire.utc_now())
    assert Hello.model_validate_json(wire.dump(hello)) == hello
    assert hello.now.microsecond == 0
    assert hello.now.tzinfo is UTC


def test_repo_ids() -> None:
    assert wire.is_repo_id("k7f3q2mzx5ab")
    for text in ("", "k7f3q2mzx5a", "k7f3q2mzx5ab2", "k7f3q2mzx9ab", "K7F3Q2MZX5AB", "k7f3q2mzx5ab\n"):
        assert not wire.is_repo_id(text)


def test_there_is_a_json_schema() -> None:
    schema = Manifest.model_json_schema()
    assert {"ArtifactFile", "Release", "EvalInfo"} <= set(schema["$defs"])
    assert {"repo", "version", "issued", "expires"} == set(schema["required"])
