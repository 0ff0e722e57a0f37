"""What a job is asked (`RUN_DIR/run.json`) and what it answers (`RUN_DIR/result.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from idiolect.files import write_text

Side = Literal["train", "select", "held-out"]
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
LOCK_FILE = "lock"
CHECKPOINT = "checkpoint"
"""The tuned model's folder in a run folder."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobClip(_Record):
    """One ready clip of the library, as it stood when the run was made."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    duration_s: float
    pcm_sha256: str
    text: str
    side: Side
    language: str = "en"


class PublishedRun(_Record):
    """The run behind the tier's current release; `trained_on` holds PCM digests."""

    release_id: str
    checkpoint: Path
    trained_on: frozenset[str]


class JobSpec(_Record):
    """One run: which tier, from which weights, on which clips, for which profiles.

    `base` is a tier name, a local folder or a Hugging Face id. `training` holds overrides of
    `training.finetune.Settings` by field name. `profiles` holds whole device profiles as plain dicts.
    """

    run_id: str
    tier: str
    base: str
    language: str
    clips: tuple[JobClip, ...]
    profiles: tuple[dict[str, Any], ...]
    training: dict[str, Any] = {}
    published: PublishedRun | None = None
    vocabulary: tuple[str, ...] = ()  # the user's terms, whose recall is wanted
    cache: Path
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as the machine has


class Scores(_Record):
    """One model on one set of clips; rates as fractions."""

    clips: int
    words: int
    wer: float
    cer: float
    wer_english: float | None = None
    loops: float
    rtf: float


class Difference(_Record):
    """WER of the new model minus WER of another on the same clips, with a 95 % paired bootstrap interval."""

    mean: float
    low: float
    high: float
    clips: int
    words: int
    left_out: int = 0  # clips one of the two was trained on


class TermRecall(_Record):
    """How often a word of the transcripts was heard, over its occurrences in held-out clips."""

    term: str
    occurrences: int
    stock: int
    tuned: int


class ExportedFileRecord(_Record):
    """One file of an export."""

    path: str
    size_bytes: int
    sha256: str
    magic: str = ""


class ArtifactResult(_Record):
    """One profile's artifact: made and checked, or why not. `folder` is relative to the run folder."""

    profile: str
    format: str
    quantization: str
    folder: str = ""
    files: tuple[ExportedFileRecord, ...] = ()
    runtime: str = ""
    scores: Scores | None = None
    checkpoint_wer: float = 0.0  # the unquantised checkpoint on the same clips with the same audio context
    speed_x: float = 0.0
    audio_context: str = "dynamic"
    error: str = ""
    hint: str = ""
    not_checked: tuple[str, ...] = ()


class JobResult(_Record):
    """Everything the gate and the manifest need to know of a finished job."""

    run_id: str
    tier: str
    base_name: str
    base_license: str = ""
    languages: tuple[str, ...]
    train_clips: int
    train_audio_s: float
    skipped: tuple[str, ...] = ()  # clips left out, "file: reason"
    missing: tuple[str, ...] = ()  # pcm_sha256 of those of them whose file was not there: new when it is back
    remarks: dict[str, str] = {}  # what to say of clips it learned from, by pcm_sha256
    steps: int
    train_s: float
    seed: int
    recipe_sha256: str
    held_out_clips: int
    held_out_words: int
    held_out_audio_s: float
    held_out_sha256: str
    stock: Scores
    tuned: Scores
    versus_stock: Difference
    versus_published: Difference | None = None
    published_release: str | None = None
    terms: tuple[TermRecall, ...] = ()
    vocabulary: tuple[TermRecall, ...] = ()  # of the spec's terms those that were said
    artifacts: tuple[ArtifactResult, ...] = ()


def save_spec(run_dir: Path, spec: JobSpec) -> None:
    """Write `run.json` (private: it holds transcripts)."""
    write_text(run_dir / RUN_FILE, spec.model_dump_json(indent=1) + "\n", mode=0o600)


def load_spec(run_dir: Path) -> JobSpec:
    """Read `run.json`."""
    return JobSpec.model_validate_json((run_dir / RUN_FILE).read_bytes())


def load_result(run_dir: Path) -> JobResult | None:
    """Read `result.json`, or None where the job has not got there."""
    path = run_dir / RESULT_FILE
    return JobResult.model_validate_json(path.read_bytes()) if path.exists() else None
