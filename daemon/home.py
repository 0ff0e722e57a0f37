"""What the commands do on a home without its daemon: make it, look up a run, export a model."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.config import example, load
from daemon.paths import Paths
from daemon.work.spec import load_result
from idiolect.errors import ExportError, MissingExtra, RuntimeFailed, UsageError
from idiolect.files import take_place, write_text
from training import base_models

if TYPE_CHECKING:
    from device_profiles import Profile
    from exporters import Checked, ExportedFile
    from idiolect.child import Reporter

_FILE_ENDS = {"ggml": ".bin", "gguf": ".gguf"}  # the other formats are folders


def initialise(paths: Paths) -> Iterator[str]:
    """Make the folders and a commented config.toml where there is none; the lines to tell the user.

    Raises ConfigError where a config.toml stands there that cannot be used.
    """
    paths.make()
    if paths.config_file.exists():
        config = load(paths.config_file)
        yield f"Settings:   {paths.config_file} (kept as it is)"
    else:
        paths.config_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(paths.config_file, example(), mode=0o600)
        config = load(paths.config_file)
        yield f"Settings:   {paths.config_file}"
    folders = config.recordings.folders or (paths.recordings,)
    if not config.recordings.folders:
        paths.recordings.mkdir(parents=True, exist_ok=True)
    yield f"Recordings: {', '.join(map(str, folders))}"
    yield f"Models:     {paths.models}"
    yield f"Your words: {paths.vocabulary_file} (yours to write, one a line; idiolect prompts makes sentences of them)"
    yield ""
    at_home = f" --home {home}" if (home := os.environ.get("IDIOLECT_HOME")) else ""
    missing = [config.base(tier) for tier in config.training.tiers]
    missing = [base for base in missing if not base_models.is_cached(base, paths.cache)]
    if missing:
        yield f"1. Get the stock models once:  idiolect{at_home} models fetch {' '.join(missing)}"
    else:
        yield f"1. The stock models are here:  {', '.join(config.training.tiers)}"
    yield f"2. Put recordings (NAME.wav and what was said in NAME.txt) into {folders[0]}"
    yield f"3. Start the daemon:           idiolect{at_home} run"
    yield f"   and see what it does:       idiolect{at_home} status"


def describe_run(paths: Paths, runs: Sequence[dict[str, Any]], number: str) -> dict[str, Any]:
    """One of `runs` (as `status` lists them) with the job's whole result where there is one. Raises UsageError."""
    wanted = f"run-{int(number):04d}" if number.isdigit() else number
    for run in runs:
        if run["id"] == wanted:
            result = load_result(paths.runs / wanted)
            return {**run, "folder": str(paths.runs / wanted), "result": result and result.model_dump(mode="json")}
    known = ", ".join(run["id"] for run in runs) or "there is none yet"
    raise UsageError(f"no run is called {number!r}", f"runs: {known}")


def known_profiles(paths: Paths) -> dict[str, Profile]:
    """Every device profile by name, the user's own and changed ones included. Raises ConfigError."""
    import device_profiles

    config = load(paths.config_file)
    return device_profiles.load(paths.profiles_dir, config.profiles, paths.config_file)


def profile_named(paths: Paths, name: str | None) -> tuple[dict[str, Profile], Profile | None]:
    """Every profile, and the one of that name. Raises ConfigError, UsageError."""
    profiles = known_profiles(paths)
    if name is not None and name not in profiles:
        raise UsageError(f"no device profile is called {name!r}", f"choose one of {', '.join(profiles)}")
    return profiles, profiles[name] if name else None


def export_model(
    paths: Paths,
    model: str,
    profile_name: str | None,
    format: str | None,
    quantization: str | None,
    outfile: Path | None,
    reporter: Reporter,
    force: bool = False,
) -> tuple[Path, tuple[ExportedFile, ...], Checked | None]:
    """Export by profile or by format, to a file or folder; explicit values win. It is loaded in its runtime, where
    that is installed, else the reporter warns. `force`: also what the device of the profile is known not to read, what
    is larger than it takes, and what the runtime refuses. Raises UsageError, CheckpointError, ExportError,
    RuntimeFailed."""
    import exporters
    from device_profiles import FORMATS, unreadable

    profile = profile_named(paths, profile_name)[1] if profile_name is not None else None
    if profile is not None:
        format, quantization = format or profile.format, quantization or profile.quantization
        if not force and not profile.force_format and (reason := unreadable(profile.name, format)):
            raise UsageError(reason, f"leave --format out, or write it all the same: --profile {profile.name} --force")
    if format in FORMATS and quantization is None:
        kinds = ", ".join(FORMATS[format])
        raise UsageError(f"--quant is missing: how {format} stores weights", f"choose one of {kinds}")
    if format is None or quantization is None:
        raise UsageError(
            "what to export is not said", "--profile android-futo, or --format ggml --quant q5_0 --outfile F"
        )
    folder = base_models.resolve(model, paths.cache)
    if outfile is None:
        own = profile if profile and profile.format == format else None
        outfile = Path(_artifact_name(own, folder, quantization) if own else f"idiolect{_end(format)}")
        if outfile.exists():
            raise UsageError(f"{outfile} exists already", "name it to replace it, or another: --outfile F")
    if outfile.is_dir() and (format in _FILE_ENDS or any(outfile.iterdir())):
        what = f"a folder, and {format} is one file" if format in _FILE_ENDS else "a folder with something in it"
        raise UsageError(f"{outfile} is {what}", "move it away, or name another: --outfile F")
    with _beside(outfile) as written:
        made = exporters.export_to(folder, format, quantization, written, reporter)
        if profile and not force:
            _check_size(profile, made)
        checked = _loaded(written, reporter, force)
    return outfile, made, checked


@contextlib.contextmanager
def _beside(outfile: Path) -> Iterator[Path]:
    """A path of the same name on the same disk, which takes the place of `outfile` when all went well."""
    with _writing(outfile):
        outfile.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=".idiolect-", dir=outfile.parent))
    written = room / outfile.name
    try:
        yield written
        with _writing(outfile):
            if outfile.is_dir() and not outfile.is_symlink():
                outfile.rmdir()  # it was empty; what has come into it since is not ours to remove
            take_place(written, outfile)
    except ExportError as error:
        raise ExportError(error.message.replace(str(written), str(outfile)), error.hint) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def _writing(outfile: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"could not write {outfile}: {error.strerror}", "name another --outfile") from error


def _check_size(profile: Profile, made: Sequence[ExportedFile]) -> None:
    size_mb = sum(file.size_bytes for file in made) / 1e6
    if size_mb > profile.max_size_mb:
        raise ExportError(
            f"{size_mb:.1f} MB are more than the {profile.max_size_mb:g} MB (max_size_mb) of profile {profile.name}",
            "choose another --quant, raise the limit in the profile, or write it all the same: --force",
        )


def _loaded(outfile: Path, reporter: Reporter, force: bool) -> Checked | None:
    """What its runtime says of an export; None, with a warning, where it says nothing."""
    import exporters

    reporter.stage("load")
    try:
        return exporters.load(outfile)
    except MissingExtra as error:
        reporter.warning(f"{outfile.name} was not loaded: {error.message}; {error.hint}")
    except RuntimeFailed as error:
        if not force:
            raise RuntimeFailed(error.message, f"{error.hint}; it was not kept (--force keeps it)") from error
        reporter.warning(f"{outfile.name}: {error.message}")
    return None


def _end(format: str) -> str:
    return _FILE_ENDS.get(format, f"-{format}")


def _artifact_name(profile: Profile, checkpoint: Path, quantization: str) -> str:
    """The profile's name for an artifact of this very model and quantization."""
    from exporters.checkpoint import read_dims
    from training.promise import tier_of

    dims = read_dims(checkpoint)
    tier = tier_of(dims.n_text_state, dims.n_text_layer, dims.n_vocab) or profile.tier
    return profile.model_copy(update={"tier": tier, "quantization": quantization}).artifact_name()


def score_files(reference: Path, hypothesis: Path) -> dict[str, Any]:
    """WER, CER and counts of two text files, line by line where they have equally many lines, else as wholes.

    Raises UsageError for a file that cannot be read as text.
    """
    from dataclasses import asdict

    from training.scoring import error_rates

    said, heard = _text_lines(reference), _text_lines(hypothesis)
    if len(said) != len(heard):
        said, heard = [" ".join(said)], [" ".join(heard)]
    return {"normalizer": "basic", **asdict(error_rates(said, heard))}


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
