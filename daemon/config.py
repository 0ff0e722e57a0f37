"""Every setting of the daemon, documented where it stands; `example` writes them as a commented config.toml."""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from idiolect.errors import ConfigError
from idiolect.wire import Tier

Seconds = Annotated[float, Field(ge=0, le=30 * 86_400)]
Minutes = Annotated[float, Field(ge=0, le=100_000)]

_PLAIN = {
    "array": "a list",
    "an object": "a table of keys and values",
    "integer": "a whole number",
    "string": "a text in quotes",
    "number": "a number",
    "boolean": "true or false",
}


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("folder", Path())
    return (base / path.expanduser()).absolute()


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Recordings(_Section):
    """Where the recordings are."""

    folders: tuple[Annotated[Path, AfterValidator(_absolute)], ...] = ()
    """Folders to watch, with all folders below them. None: `recordings` in the home folder (`idiolect status`
    says where). A relative path counts from the folder of this file."""

    settle_s: Seconds = 2.0
    """A file is read once its size and time have stood still for this long."""

    rescan_s: Annotated[float, Field(ge=10, le=30 * 86_400)] = 3600.0
    """Everything is looked at again this often, in case an event was lost."""

    polling: bool = False
    """Look for changes by polling, for folders on a network mount that idiolect does not recognise as one."""

    max_gb_per_device: Annotated[float, Field(ge=0, le=100_000)] = 2.0
    """One device may send at most so many gigabytes of recordings (as FLAC; 37 hours of speech) …"""

    max_gb_sent: Annotated[float, Field(ge=0, le=100_000)] = 20.0
    """… all devices together at most so many …"""

    min_free_gb: Annotated[float, Field(ge=0, le=100_000)] = 5.0
    """… and none while less than this is free on the disk."""


class Training(_Section):
    """When a model is trained, and how."""

    tiers: tuple[Tier, ...] = ("tiny", "small")
    """Base models to teach (`idiolect models` lists them). Each must be on this machine: `idiolect models fetch
    tiny small`."""

    bases: dict[Tier, Annotated[str, Field(min_length=1)]] = {}
    """Other stock weights for a tier, a model folder or a Hugging Face id: { small = "/models/whisper-small-de" }."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en"
    """What is spoken, as Whisper's code."""

    first_run_minutes: Minutes = 5.0
    """The first training of a tier starts at this much speech."""

    next_run_minutes: Minutes = 20.0
    """A later one starts at this much new speech …"""

    next_run_percent: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """… or at this share of what the last one was trained on, whichever is more;"""

    min_new_clips: Annotated[int, Field(ge=1)] = 100
    """or at this many new clips, however short."""

    quiet_s: Seconds = 120.0
    """Training waits until no recording has arrived for this long."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = Field(default=None, examples=[3.0])
    """Passes over the recordings. Unset: idiolect chooses by tier and amount."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, examples=[1e-5])
    """Peak learning rate. Unset: idiolect chooses by tier."""

    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, examples=[16])
    """Clips a step, fewer where they are long. Unset: idiolect chooses."""

    lora: tuple[Tier, ...] = ()
    """Tiers that train small adapters alone, for little memory: ["large-v3-turbo"]."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Two trainings with the same seed, settings and recordings give the same model."""

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processor threads for training. 0: as many as the machine has."""


class Conditions(_Section):
    """What a training waits for, and is paused for while it runs. `idiolect train --now` overrides it."""

    hours: tuple[Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")], ...] = ()
    """Times of the day to train at, as ["22:00-07:00", "12:00-13:00"]. None: any time."""

    on_battery: bool = False
    """Train on battery, too."""

    max_load_percent: Annotated[float, Field(ge=0, le=100)] = 50.0
    """Wait while other programs use more of the processor than this. 100: never wait for them."""

    calm_minutes: Annotated[float, Field(ge=0, le=1440)] = 2.0
    """After they did, they must have used less for this long."""

    min_free_memory_gb: Annotated[float, Field(ge=0, le=10_000)] = 1.0
    """Wait until so much memory is available; a running training is paused at half of it."""

    min_free_disk_gb: Annotated[float, Field(ge=0, le=100_000)] = 2.0
    """Wait until so much is free on the disk of the state folder; a running training is paused at half of it."""

    shared_gpu: bool = False
    """Train while another program computes on the NVIDIA GPU."""


ANY_TIME = Conditions(
    on_battery=True, max_load_percent=100.0, min_free_memory_gb=0.0, min_free_disk_gb=0.0, shared_gpu=True
)
"""Nothing is waited for: for trials that somebody looks on at."""


class Export(_Section):
    """What is made of a trained model."""

    profiles: tuple[str, ...] = ("android-futo", "desktop-whispercpp")
    """Device profiles to export for (`idiolect profiles` lists them)."""


class Desktop(_Section):
    """The models that this computer itself uses."""

    profiles: tuple[str, ...] = ("desktop-whispercpp", "desktop-faster-whisper")
    """The folder `models/current/PROFILE` (`idiolect status` says where `models` is) always holds the newest published
    model of each of these that [export] profiles has too. The folder changes in one step, under a running program."""

    hook: tuple[str, ...] = ()
    """A command to run after a new one has come there, as ["systemctl", "--user", "restart", "whisper-server"]: no
    shell reads it. It has IDIOLECT_RELEASE, IDIOLECT_TIER, IDIOLECT_PROFILE, IDIOLECT_FOLDER, IDIOLECT_FILE and
    IDIOLECT_PREVIOUS in its environment; after two minutes it is ended."""


class Publish(_Section):
    """What reaches the devices."""

    anyway: bool = False
    """Publish even a model that did not prove better. For trying out the way to a device, never for daily use."""

    canary: Annotated[str, Field(max_length=40)] = ""
    """Label or id of a device that tries each release first: `idiolect pull --channel beta --watch --hook PROGRAM`.
    Once its PROGRAM has ended well every device gets the release, and none where it failed. "this computer": [desktop]
    hook is that PROGRAM. Empty: all at once."""


class Notify(_Section):
    """Who hears of a new model."""

    desktop: bool = True
    """Show a notice on the desktop when a new model is published."""

    on_publish: tuple[str, ...] = ()
    """A command to run then, as ["/usr/local/bin/told", "--quietly"]: no shell reads it. It gets one more argument, as
    "Small: 12 % → 7 %", and IDIOLECT_TIER, IDIOLECT_RELEASE, IDIOLECT_WER_STOCK and IDIOLECT_WER_TUNED in its
    environment; after a minute it is ended."""


class Server(_Section):
    """How devices reach this machine."""

    enabled: bool = True
    """Serve published models."""

    bind: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this machine only; 0.0.0.0: the devices that you let in, anywhere on your
    network (`idiolect pair`)."""

    port: Annotated[int, Field(ge=0, le=65_535)] = 8737
    """TCP port. 0: any free one."""

    label: Annotated[str, Field(max_length=40)] = ""
    """Name shown to devices. Empty: one that tells nothing about you."""

    plain_port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(default=None, examples=[8738])
    """A second port without encryption, for apps that cannot take this machine's own certificate. It only reads, with
    tokens of its own (`idiolect pair --plain LABEL`) that whoever listens on your network can use. 0: any free one.
    Unset: none."""

    max_mb_per_s: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """Send files at most this fast, in megabytes a second for all devices together. 0: as fast as it goes."""

    interfaces: tuple[str, ...] = ()
    """Network interfaces by whose addresses devices are told to come, such as ["eth0"], where bind is 0.0.0.0. None
    named: all but those of tunnels, containers and virtual machines."""

    discovery: bool = True
    """Announce the server on the local network (mDNS, `_idiolect._tcp`)."""


class Config(_Section):
    """A whole config.toml."""

    recordings: Recordings = Recordings()
    training: Training = Training()
    conditions: Conditions = Conditions()
    export: Export = Export()
    desktop: Desktop = Desktop()
    publish: Publish = Publish()
    notify: Notify = Notify()
    server: Server = Server()
    profiles: dict[str, dict[str, Any]] = {}
    """Other values for single keys of a device profile. `idiolect profiles` shows the keys."""

    def base(self, tier: str) -> str:
        """What the tier's stock weights are: a tier's name, a model folder or a Hugging Face id."""
        return self.training.bases.get(tier, tier)


def load(path: Path) -> Config:
    """The settings in `path`; the defaults where there is no such file.

    Raises ConfigError naming file, key, value and what is accepted; for an unknown key the nearest spelling.
    """
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "make it readable, or move it away") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", 'values look like: port = 8737, label = "desk"') from error
    try:
        # As JSON, because only there strict types still let a list be a tuple and a string a path.
        return Config.model_validate_json(json.dumps(data, default=str), context={"folder": path.parent})
    except ValidationError as error:
        raise _explained(path, error.errors(include_url=False)[0]) from error


def example(config: Config | None = None) -> str:
    """A config.toml that says `config` (default: the defaults), each setting under its explanation."""
    config = config or Config()
    lines = ["# idiolect: settings. These are the defaults; any line may be left out."]
    for name, field in Config.model_fields.items():
        section = getattr(config, name)
        if isinstance(section, _Section):
            lines += ["", "", *_comment(type(section).__doc__ or ""), f"[{name}]", *_settings(section)]
        else:
            lines += ["", "", *_comment(field.description or ""), *_overrides(section)]
    return "\n".join(lines) + "\n"


def _settings(section: _Section) -> list[str]:
    lines = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        line = f"{name} = {_toml(value)}" if value is not None else f"# {name} = {_toml((field.examples or [''])[0])}"
        lines += ["", *_comment(field.description or ""), line]
    return lines


def _overrides(profiles: dict[str, dict[str, Any]]) -> list[str]:
    if not profiles:
        return ["# [profiles.android-futo]", '# tier = "base"']
    lines = []
    for name, values in profiles.items():
        lines += ["", f"[profiles.{_toml(name)}]", *(f"{_toml(key)} = {_toml(value)}" for key, value in values.items())]
    return lines


def _comment(text: str) -> list[str]:
    line = " ".join(text.split())
    return textwrap.wrap(line, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    # A JSON string is a TOML string, but for this one character that TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _explained(path: Path, error: ErrorDetails) -> ConfigError:
    *parents, last = error["loc"]
    key = ".".join(str(part) for part in error["loc"] if not (isinstance(part, str) and part.endswith("]")))
    if error["type"] == "extra_forbidden":
        known = list(_model_at(parents).model_fields)
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return ConfigError(f"{path}: unknown key {key}", f"{hint}known here: {', '.join(known)}")
    value = json.dumps(error["input"], ensure_ascii=False, default=str)
    return ConfigError(f"{path}: {key} = {value}", f"expected: {_expected(error)}")


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "model_type":
        return f"a section of its own, with the keys {', '.join(_model_at(error['loc']).model_fields)}"
    message = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return _PLAIN.get(message, message)


def _model_at(loc: tuple[int | str, ...] | list[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return model
