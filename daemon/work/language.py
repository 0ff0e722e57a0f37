"""Which language a tier's stock model hears in the clips that it is about to learn from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.work.spec import JobClip
from exporters.checkpoint import read_dims
from idiolect.child import Reporter
from idiolect.files import write_json
from idiolect.whisper import special_tokens
from training.quality import judge_language

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MOST_CLIPS = 100
"""A run listens to so many that no run has heard: each takes the model a full window, a second or two on a laptop."""
MIN_S = 2.0
"""In a word or two any language may be heard."""
SMALLEST_WIDTH = 384
FOLDER = "languages"
Heard = tuple[str, float]  # a language and its probability


def knows_languages(width: int, vocabulary: int) -> bool:
    """Whether a model can tell languages: OpenAI's multilingual ones can; nano has their tokens and was taught one."""
    return width >= SMALLEST_WIDTH and special_tokens(vocabulary).multilingual


def listen(
    model: Path, clips: Sequence[JobClip], pcms: Sequence[Pcm], cache: Path, reporter: Reporter, threads: int = 0
) -> dict[str, str]:
    """What to say of clips in which the stock `model` hears another language than theirs, by `pcm_sha256`.

    What was heard is kept in the folder `cache`, so that later runs listen to others. Raises JobStopped.
    """
    dims = read_dims(model)
    if not knows_languages(dims.n_text_state, dims.n_vocab):
        return {}
    kept = cache / FOLDER / f"{dims.n_text_state}-{dims.n_audio_layer}-{dims.n_vocab}.json"
    heard = _load(kept)
    unheard = {clip.pcm_sha256: pcm for clip, pcm in zip(clips, pcms, strict=True) if clip.duration_s >= MIN_S}
    chosen = [digest for digest in unheard if digest not in heard][:MOST_CLIPS]
    if chosen:
        heard |= _hear(model, {digest: unheard[digest] for digest in chosen}, reporter, threads)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, heard, mode=0o600)
    said = {clip.pcm_sha256: (*heard[clip.pcm_sha256], clip.language) for clip in clips if clip.pcm_sha256 in heard}
    findings = {digest: judge_language(*words) for digest, words in said.items()}
    return {digest: finding.message for digest, finding in findings.items() if finding is not None}


def _hear(model: Path, pcms: Mapping[str, Pcm], reporter: Reporter, threads: int) -> dict[str, Heard]:
    from training.decode import CheckpointTranscriber

    reporter.stage("listen for the language")
    heard, transcriber = {}, CheckpointTranscriber(model, "stock", threads)
    try:
        for done, (digest, pcm) in enumerate(pcms.items(), start=1):
            reporter.check_stop()
            heard[digest] = transcriber.language(pcm)
            reporter.progress(done, len(pcms), "clips")
    finally:
        transcriber.close()
    return heard


def _load(kept: Path) -> dict[str, Heard]:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # it is only what may be heard again
        return {digest: (str(code), float(likely)) for digest, (code, likely) in json.loads(kept.read_text()).items()}
    return {}
