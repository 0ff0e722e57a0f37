"""What quantising costs nano on the held-out clips of both demo voices: same words as PyTorch, points of WER.

`python -m benchmarks.fidelity [--contexts dynamic,full] [--peers]`; exit status 1 when a limit is missed. ggml is heard
in whisper.cpp, GGUF in transcribe.cpp, which knows full windows only. `--peers`: transcribe.cpp once more as it is by
itself, with a cache of float16 and flash attention over padded keys.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporters import export_file
from exporters.runtimes import open_artifact
from idiolect.transcriber import DecodingOptions
from training.base_models import NANO_ARCHIVE, resolve

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

VOICES = NANO_ARCHIVE.parent / "voices"
LIMITS = {"f16": 0.0, "q8_0": 0.005, "q5_0": 0.015, "q4_0": 0.03}
"""Rise of the WER over the checkpoint's; f16 has to give the same text."""
_CONTEXTS = {"ggml": ("dynamic", "full"), "gguf": ("full",)}


def main() -> int:
    """Print a line for each voice, format, context and quantisation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contexts", default="dynamic,full")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as temporary:
        nano = resolve("nano", Path(temporary) / "cache")
        for format in _CONTEXTS:
            for quantization in LIMITS:
                export_file(nano, format, quantization, Path(temporary) / f"{quantization}.{format}")
        for voice in ("human", "synthetic"):
            pcms, texts = held_out(voice)
            for context in arguments.contexts.split(","):
                kept = _context(nano, Path(temporary), voice, context, pcms, texts) and kept
            if arguments.peers:
                _peer(nano, Path(temporary) / "f16.gguf", pcms, texts)
    return 0 if kept else 1


def held_out(voice: str) -> tuple[list[Pcm], list[str]]:
    """The clips of a voice that the daemon would hold out, and their texts."""
    from training.audio import decode
    from training.split import side

    rows = [json.loads(line) for line in (VOICES / voice / "metadata.jsonl").read_text().splitlines()]
    rows = [row for row in rows if side(row["text"]) == "held-out"]
    return [decode(VOICES / voice / row["file_name"]) for row in rows], [row["text"] for row in rows]


def _context(nano: Path, folder: Path, voice: str, context: str, pcms: Sequence[Pcm], texts: Sequence[str]) -> bool:
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    options = DecodingOptions(audio_context="full" if context == "full" else "dynamic")
    expected = [heard.text for heard in CheckpointTranscriber(nano).transcribe_many(pcms, options)]
    before = error_rates(texts, expected).wer
    print(f"{voice}, {context} context, {len(pcms)} held-out clips: PyTorch {before:.1%} WER", flush=True)
    within = True
    for format, contexts in _CONTEXTS.items():
        for quantization, limit in LIMITS.items() if context in contexts else ():
            model = open_artifact(folder / f"{quantization}.{format}")
            heard = [answer.text for answer in model.transcribe_many(pcms, options)]
            model.close()
            loss = error_rates(texts, heard).wer - before
            same = sum(ours == theirs for ours, theirs in zip(heard, expected, strict=True))
            kept = same == len(pcms) if quantization == "f16" else loss <= limit
            within = within and kept
            wanted = "all texts equal" if quantization == "f16" else f"at most {100 * limit:+.1f} points"
            found = f"{100 * loss:+.1f} points, {same} of {len(pcms)} texts equal"
            verdict = "kept" if kept else "MISSED"
            print(f"  {format} {quantization}: {found}; limit {wanted}: {verdict}", flush=True)
    return within


def _peer(nano: Path, file: Path, pcms: Sequence[Pcm], texts: Sequence[str]) -> None:
    """transcribe.cpp with its own choice of a cache."""
    import transcribe_cpp

    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    full = DecodingOptions(audio_context="full")
    expected = [heard.text for heard in CheckpointTranscriber(nano).transcribe_many(pcms, full)]
    transcribe_cpp.set_log_callback(lambda level, message: None)
    settings = transcribe_cpp.WhisperRunOptions(temperature=0.0, temperature_inc=0.0)
    heard = []
    with transcribe_cpp.Model(file, backend="cpu") as model:
        for pcm in pcms:
            with model.session() as session:
                answer = session.run(
                    pcm,  # type: ignore[arg-type]  # any buffer of float32
                    language="en",
                    timestamps="none",
                    family=settings,
                )
            heard.append(answer.text.strip())
    same = sum(ours == theirs for ours, theirs in zip(heard, expected, strict=True))
    loss = error_rates(texts, heard).wer - error_rates(texts, expected).wer
    print(f"  peer: gguf f16, transcribe.cpp's own cache: {100 * loss:+.1f} points, {same} of {len(pcms)} texts equal")


if __name__ == "__main__":
    sys.exit(main())
