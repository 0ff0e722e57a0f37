"""What each kind of device takes: one TOML per profile, shipped here, added to or replaced by the user's own."""

from __future__ import annotations

import difflib
import string
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from idiolect.errors import ConfigError
from idiolect.files import is_safe_relpath
from idiolect.wire import Tier

FORMATS: dict[str, tuple[str, ...]] = {
    "ggml": ("f32", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    "gguf": ("f32", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    "onnx": ("fp32", "fp16", "int8"),
    "sherpa-onnx": ("fp32", "int8"),
    "coreml": ("f16", "int8", "palette6"),
    "ctranslate2": ("float32", "float16", "int8"),
    "huggingface": ("float32", "float16"),
}
"""Format → the quantizations it can have."""

_SHIPPED = Path(__file__).parent


class Profile(BaseModel):
    """What one kind of device takes, and the limits its artifact must keep to be published."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$", description="the file's name without .toml")]
    title: Annotated[str, Field(min_length=1, max_length=80, description="one line for people")]
    description: Annotated[str, Field(max_length=2000, description="why the profile is as it is")] = ""
    tier: Annotated[Tier, Field(description="base model: a tier's name")]
    force_format: Annotated[bool, Field(description="keep a format that the device is known not to read")] = False
    format: Annotated[str, Field(description="container: " + ", ".join(FORMATS))]
    quantization: Annotated[str, Field(description="how weights are stored; depends on the format")]
    audio_context: Annotated[
        Literal["dynamic", "full"], Field(description="dynamic: the app cuts the encoder to the audio's length")
    ]
    max_size_mb: Annotated[float, Field(gt=0, le=100_000, description="largest artifact, in millions of bytes")]
    max_wer_loss: Annotated[
        float, Field(ge=0, le=1, description="largest rise of the word error rate over the checkpoint, as a fraction")
    ]
    min_speed_x: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            description="times real time on the checking machine, the median of the clips heard; slower is a warning",
        ),
    ]
    enforce_speed: Annotated[bool, Field(description="refuse a slower artifact instead of warning")] = False
    filename: Annotated[
        str, Field(description="the name of the artifact's file or folder; {tier} and {quantization} are filled in")
    ]

    def artifact_name(self) -> str:
        """The name of the artifact's file or folder: a safe relative path of one part."""
        return self.filename.format(tier=self.tier, quantization=self.quantization)

    def missed(self, size_mb: float, wer_loss: float, speed_x: float) -> tuple[str, ...]:
        """The keys of the limits that an artifact with these figures does not keep."""
        kept = {
            "max_size_mb": size_mb <= self.max_size_mb,
            "max_wer_loss": wer_loss <= self.max_wer_loss,
            "min_speed_x": speed_x >= self.min_speed_x,
        }
        return tuple(key for key, is_kept in kept.items() if not is_kept)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str, info: ValidationInfo) -> str:
        reason = unreadable(info.data.get("name", ""), _one_of(value, tuple(FORMATS)))
        if reason and not info.data.get("force_format"):
            raise ValueError(f"{reason} (force_format = true keeps it all the same)")
        return value

    @field_validator("quantization")
    @classmethod
    def _known_quantization(cls, value: str, info: ValidationInfo) -> str:
        return _one_of(value, FORMATS[info.data["format"]]) if "format" in info.data else value

    @field_validator("filename")
    @classmethod
    def _safe_filename(cls, value: str, info: ValidationInfo) -> str:
        expected = "letters, digits, '.', '_', '-' and the fields {tier} and {quantization}"
        try:
            parts = list(string.Formatter().parse(value))
        except ValueError:
            raise ValueError(expected) from None
        plain = all(field in (None, "tier", "quantization") and not (spec or how) for _, field, spec, how in parts)
        filled = value.format(tier=info.data.get("tier", ""), quantization="q4_0") if plain else ""
        if not is_safe_relpath(filled) or "/" in filled or filled.startswith("."):
            raise ValueError(expected)
        return value


def unreadable(profile: str, format: str) -> str:
    """Why the device of a profile of that name cannot use a format; empty where nothing is known against it."""
    if "futo" in profile and format == "gguf":
        return (
            "FUTO does not read GGUF: the keyboard would import it as a keyboard language model, in place of yours; "
            "it reads ggml"
        )
    return ""


_KEYS = tuple(key for key in Profile.model_fields if key != "name")


def load(
    user_folder: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    overrides_file: Path | None = None,
) -> dict[str, Profile]:
    """Profiles by name: the shipped ones, then the `*.toml` of `user_folder` (a known name replaces), then `overrides`.

    `overrides` gives single keys by profile name; they stand in `overrides_file`, which the errors name.
    Raises ConfigError naming file, key, value and what is accepted.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in (_SHIPPED, user_folder):
        for path in sorted(folder.glob("*.toml")) if folder else ():
            found[path.stem] = path, _read(path)
    profiles = {name: _validate(name, values, f"{path}: ") for name, (path, values) in found.items()}
    for name, changes in (overrides or {}).items():
        where = f"{overrides_file or 'overrides'}: profiles.{name}"
        if name not in found:
            raise ConfigError(f"{where}: there is no such profile", _choose(name, tuple(found)))
        profiles[name] = _validate(name, {**found[name][1], **changes}, where + ".")
    return profiles


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "make it readable or remove it") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", "see the shipped profiles: idiolect profiles") from error


def _validate(name: str, values: Mapping[str, Any], where: str) -> Profile:
    """The profile, or a ConfigError about its first bad key."""
    if values.get("name", name) != name:
        raise ConfigError(f"{where}name = {values['name']!r}: it is {name!r}", "a profile's name is its file's")
    try:
        return Profile.model_validate({**values, "name": name})
    except ValidationError as error:
        unknown_first = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        first = unknown_first[0]  # a misspelt key is missing, too: the spelling helps more
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}{key}: no such key", _choose(key, _KEYS)) from None
        if first["type"] == "missing":
            raise ConfigError(f"{where}{key}: missing", f"expected {Profile.model_fields[key].description}") from None
        accepted = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}{key} = {first['input']!r}: {accepted}", _describe(key)) from None


def _describe(key: str) -> str:
    return f"{key}: {Profile.model_fields[key].description}"


def _one_of(value: str, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise ValueError(_choose(value, accepted))
    return value


def _choose(value: str, accepted: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(value, accepted, 1)
    return (f"did you mean {nearest[0]}? " if nearest else "") + f"accepted: {', '.join(accepted)}"
