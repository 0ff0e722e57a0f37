"""What quantising costs nano on the held-out clips of both demo voices: same words as PyTorch, points of WER.

`python -m benchmarks.fidelity [--model FOLDER] [--voices human,synthetic] [--contexts dynamic,full] [--peers]`; exit
status 1 when a limit is missed. ggml is heard in whisper.cpp, GGUF in transcribe.cpp, which knows full windows only.
`--peers`: transcribe.cpp once more as it is by itself, with a cache of float16 and flash attention over padded keys.

Untrained on a voice nano is often undecided: one clip whose first word hangs by a hair may cost a point.
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
    parser.add_argument("--model", default="nano", help="or a folder: nano that was taught one of the voices")
    parser.add_argument("--voices", default="human,synthetic")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as temporary:
        model = resolve(arguments.model, Path(temporary) / "cache")
        for format in _CONTEXTS:
            for quantization in LIMITS:
                export_file(model, format, quantization, Path(temporary) / f"{quantization}.{format}")
        for voice in arguments.voices.split(","):
            pcms, texts = held_out(voice)
            for context in arguments.contexts.split(","):
                kept = _context(model, Path(temporary), voice, context, pcms, texts) and kept
            if arguments.peers:
                _peer(model, Path(temporary) / "f16.gguf", pcms, texts)
    return 0 if kept else 1


def held_out(voice: str) -> tuple[list[Pcm], list[str]]:
    """The clips of a voice that the daemon would hold out, and their texts."""
    from training.audio import decode
    from training.split import side

    rows = [json.loads(line) for line in (VOICES / voice / "metadata.jsonl").read_text().splitlines()]
    rows = [row for row in rows if side(row["text"]) == "held-out"]
    return [decode(VOICES / voice / row["file_name"]) for row in rows], [row["text"] for row in rows]


def _context(model: Path, folder: Path, voice: str, context: str, pcms: Sequence[Pcm], texts: Sequence[str]) -> bool:
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    options = DecodingOptions(audio_context="full" if context == "full" else "dynamic")
    checkpoint = CheckpointTranscriber(model)  # clip by clip: in a batch the context is that of its longest clip
    expected = [checkpoint.transcribe(pcm, options).text for pcm in pcms]
    before = error_rates(texts, expected).wer
    print(f"{voice}, {context} context, {len(pcms)} held-out clips: PyTorch {before:.1%} WER", flush=True)
    within = True
    for format, contexts in _CONTEXTS.items():
        for quantization, limit in LIMITS.items() if context in contexts else ():
            artifact = open_artifact(folder / f"{quantization}.{format}")
            heard = [answer.text for answer in artifact.transcribe_many(pcms, options)]
            artifact.close()
            loss = error_rates(texts, heard).wer - before
            same = sum(ours == theirs for ours, theirs in zip(heard, expected, strict=True))
            kept = same == len(pcms) if quantization == "f16" else loss <= limit
            within = within and kept
            wanted = "all texts equal" if quantization == "f16" else f"at most {100 * limit:+.1f} points"
            found = f"{100 * loss:+.1f} points, {same} of {len(pcms)} texts equal"
            verdict = "kept" if kept else "MISSED"
            print(f"  {format} {quantization}: {found}; limit {wanted}: {verdict}", flush=True)
    return within


def _peer(model: Path, file: Path, pcms: Sequence[Pcm], texts: Sequence[str]) -> None:
    """transcribe.cpp with its own choice of a cache."""
    import transcribe_cpp

    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    full = DecodingOptions(audio_context="full")
    expected = [heard.text for heard in CheckpointTranscriber(model).transcribe_many(pcms, full)]
    transcribe_cpp.set_log_callback(lambda level, message: None)
    settings = transcribe_cpp.WhisperRunOptions(temperature=0.0, temperature_inc=0.0)
    heard = []
    with transcribe_cpp.Model(file, backend="cpu") as loaded:
        for pcm in pcms:
            with loaded.session() as session:
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
