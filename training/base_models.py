"""The tiers: which stock Whisper each name stands for, whether it is on this machine, and how to get it.

`nano` ships with the package. The others are OpenAI's, found in the Hugging Face cache; only `fetch` downloads.
A reference may also be a local Hugging Face folder or any Hugging Face id.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache as remember
from functools import partial
from pathlib import Path

from idiolect.errors import CheckpointError, SyncError, UsageError, first_line, require
from idiolect.files import folder_bytes, replacing_folder, write_text

NANO_ARCHIVE = Path(__file__).parent / "data" / "nano.tar.xz"
FILES_NEEDED = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json")
FILES_FETCHED = ("*.json", "*.txt", "model.safetensors", "model-*.safetensors")
_HUB_ID = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9]([\w.-]{0,94}\w)?", re.ASCII)


@dataclass(frozen=True)
class Tier:
    """One stock model. `parameters_m` in millions, `size_mb` of the weights to download."""

    name: str
    repo: str
    parameters_m: float
    size_mb: int
    license: str


TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier("nano", "", 8.8, 5, "CC-BY-SA-4.0"),
        Tier("tiny", "openai/whisper-tiny", 37.8, 151, "Apache-2.0"),
        Tier("tiny.en", "openai/whisper-tiny.en", 37.8, 151, "Apache-2.0"),
        Tier("base", "openai/whisper-base", 72.6, 290, "Apache-2.0"),
        Tier("base.en", "openai/whisper-base.en", 72.6, 290, "Apache-2.0"),
        Tier("small", "openai/whisper-small", 241.7, 967, "Apache-2.0"),
        Tier("small.en", "openai/whisper-small.en", 241.7, 967, "Apache-2.0"),
        Tier("medium", "openai/whisper-medium", 763.9, 3056, "Apache-2.0"),
        Tier("medium.en", "openai/whisper-medium.en", 763.9, 3056, "Apache-2.0"),
        Tier("large-v3", "openai/whisper-large-v3", 1543.5, 3087, "Apache-2.0"),
        Tier("large-v3-turbo", "openai/whisper-large-v3-turbo", 808.9, 1618, "MIT"),
    )
}


def license_of(reference: str) -> str:
    """Licence of a tier's stock weights, by its name or its Hugging Face id; empty for any other reference."""
    return next((tier.license for name, tier in TIERS.items() if reference in (name, tier.repo)), "")


def hub_id(reference: str) -> str:
    """The Hugging Face id a reference stands for; empty for `nano` and for folders.

    Raises UsageError for a file and a name that is neither a tier, nor an existing folder, nor looks like `owner/name`.
    """
    if reference in TIERS:
        return TIERS[reference].repo
    if Path(reference).expanduser().is_dir():
        return ""
    if _HUB_ID.fullmatch(reference):
        return reference
    if Path(reference).expanduser().is_file():
        raise UsageError(f"{reference} is a file", "name a model's folder: an export is neither taught nor exported")
    raise UsageError(
        f"no base model is called {reference!r}",
        f"choose a tier ({', '.join(TIERS)}), a model folder, or a Hugging Face id like openai/whisper-tiny",
    )


def is_cached(reference: str, cache: Path) -> bool:
    """True when `resolve` would succeed without a download."""
    return bool(_local(reference, cache))


def size_bytes(reference: str, cache: Path) -> int:
    """Bytes the model takes on this disk, 0 when it is not here."""
    folder = _local(reference, cache)
    return folder_bytes(folder) if folder and folder != NANO_ARCHIVE else (NANO_ARCHIVE.stat().st_size if folder else 0)


def resolve(reference: str, cache: Path) -> Path:
    """The local Hugging Face folder of a base model; never downloads.

    `nano` is unpacked into `cache` the first time. Raises UsageError (unknown name), CheckpointError (not
    downloaded yet, or not a Whisper model).
    """
    folder = _local(reference, cache)
    if folder is None:
        raise CheckpointError(f"{reference} is not on this machine yet", f"run: idiolect models fetch {reference}")
    if folder == NANO_ARCHIVE:
        folder = _unpack_nano(cache)
    _check_whisper(folder)
    return folder


def fetch(reference: str, cache: Path, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Download a model into the Hugging Face cache, continuing what an earlier try left; its local folder.

    `on_progress` hears (bytes done, bytes in all). Respects HF_ENDPOINT, HF_HOME and HF_TOKEN as every Hugging Face
    tool does. Raises SyncError when the hub cannot be reached or does not know the name.
    """
    repo = hub_id(reference)
    if not repo:
        return resolve(reference, cache)
    require("huggingface_hub", "train")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from requests.exceptions import RequestException

    disable_progress_bars()
    try:
        info = HfApi().model_info(repo, files_metadata=True)
        files = [file for file in info.siblings or () if any(map(partial(fnmatch, file.rfilename), FILES_FETCHED))]
        with _watching(_hub_cache() / _hub_folder(repo), sum(file.size or 0 for file in files), on_progress):
            snapshot_download(repo, revision=info.sha, allow_patterns=list(FILES_FETCHED))
            (_hub_cache() / _hub_folder(repo) / "refs").mkdir(exist_ok=True)
            write_text(_hub_cache() / _hub_folder(repo) / "refs" / "main", info.sha or "")
    except (HfHubHTTPError, LocalEntryNotFoundError, RequestException, OSError) as error:
        reason = first_line(error)
        hint = "check the name and the network, then run it again: it goes on where it was"
        raise SyncError(f"could not download {repo}: {reason}", hint) from error
    return resolve(reference, cache)


def _local(reference: str, cache: Path) -> Path | None:
    if reference == "nano":
        return NANO_ARCHIVE
    repo = hub_id(reference)
    if not repo:
        return Path(reference).expanduser().resolve()
    folder = _hub_cache() / _hub_folder(repo)
    main = folder / "refs" / "main"
    if not main.is_file():
        return None
    snapshot = folder / "snapshots" / main.read_text().strip()
    return snapshot if (snapshot / "config.json").exists() and any(snapshot.glob("model*.safetensors")) else None


def _hub_cache() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _hub_folder(repo: str) -> str:
    return "models--" + repo.replace("/", "--")


@contextlib.contextmanager
def _watching(folder: Path, total: int, on_progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Report how many bytes lie in the cache's blobs, finished or not, while the block downloads."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            report(total - 1)

    def report(most: int) -> None:
        with contextlib.suppress(OSError):
            on_progress(min(most, folder_bytes(folder / "blobs")), total)  # type: ignore[misc]

    watcher = threading.Thread(target=watch, daemon=True)
    if on_progress:
        watcher.start()
    try:
        yield
    finally:
        finished.set()
    if on_progress:
        watcher.join()
        on_progress(total, total)


@remember
def _nano_digest() -> str:
    return hashlib.sha256(NANO_ARCHIVE.read_bytes()).hexdigest()[:12]


def _unpack_nano(cache: Path) -> Path:
    from filelock import FileLock

    folder = cache / "models" / f"nano-{_nano_digest()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # processes of one training come here together
        if folder.is_dir():
            return folder
        with replacing_folder(folder) as temporary, tarfile.open(NANO_ARCHIVE, "r:xz") as archive:
            archive.extractall(temporary, filter="data")
        return folder


def _check_whisper(folder: Path) -> None:
    """Refuse a folder that is not a Whisper model, before anything heavy is loaded."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json", "expected a Hugging Face Whisper folder") from None
    except OSError as error:
        reason = f"{folder / 'config.json'} cannot be read: {error.strerror or error}"
        raise CheckpointError(reason, "name a folder that is yours to read") from error
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not JSON: {error}", "copy the folder again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is no configuration", "copy the folder again")
    if config.get("model_type") != "whisper":
        kind = config.get("model_type", "nameless")
        raise CheckpointError(
            f"{folder} holds a {kind!r} model, not Whisper",
            "name a tier such as tiny, or the folder of a Whisper model",
        )
    missing = [name for name in FILES_NEEDED if not (folder / name).exists()]
    if missing or not any(folder.glob("model*.safetensors")):
        missing = missing or ["model.safetensors"]
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}", "copy them from the base model's folder")
