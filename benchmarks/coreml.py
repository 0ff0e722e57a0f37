"""Core ML packages against PyTorch, off a Mac: `python -m benchmarks.coreml [--clips N] [--quantizations f16,…]`.

Real-size tiny of random weights: seconds and peak memory of each part's conversion, and how far the saved encoder is
from PyTorch's. nano: every token of the saved packages' greedy decoding beside the PyTorch model's choice after the
same tokens, on clips of both demo voices in 30 s windows, and the word error rate of both. Exit status 1 when a limit
is missed. Nothing here ran on Apple hardware.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.exporting import TINY, make_checkpoint
from exporters.coreml import write
from exporters.coreml_runtime import WhisperKit
from exporters.whisperkit import QUANTIZATIONS
from idiolect.child import CallbackReporter, Message
from idiolect.transcriber import DecodingOptions
from training.base_models import NANO_ARCHIVE, resolve

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MAX_ENCODER_DIFFERENCE = 1e-2
MARGIN = 0.01  # PyTorch's two best choices closer than this may change places
MAX_CLOSE_SHARE = 0.01
VOICES = NANO_ARCHIVE.parent / "voices"


@dataclass
class Agreement:
    """Tokens of the package against PyTorch's choice: `wrong` where PyTorch was sure, `close` where it was not."""

    tokens: int = 0
    close: int = 0
    wrong: list[str] = field(default_factory=list)
    largest_difference: float = 0.0


def main() -> int:
    """Print the figures; 1 when a limit is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=64, help="of each voice, the last ones")
    parser.add_argument("--quantizations", default=",".join(QUANTIZATIONS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        nano = resolve("nano", Path(temporary) / "cache")
        kept = _tiny(nano, Path(temporary))
        for voice in ("human", "synthetic"):
            clips = _clips(voice, arguments.clips)
            for quantization in arguments.quantizations.split(","):
                kept = _nano(nano, Path(temporary), voice, clips, quantization) and kept
    return 0 if kept else 1


def export(checkpoint: Path, quantization: str, out: Path) -> list[dict[str, Any]]:
    """What each part's conversion took: `part`, `wall_s`, `peak_bytes`."""
    seen: list[Message] = []
    write(checkpoint, quantization, out, CallbackReporter(seen.append))
    return [message.data for message in seen if message.kind == "metric"]


def _tiny(nano: Path, temporary: Path) -> bool:
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    from training.decode import encode, load_model
    from training.features import LogMel, stack

    checkpoint, out = temporary / "tiny", temporary / "random_whisper-tiny"
    make_checkpoint(checkpoint, TINY, nano)
    weights = load_file(checkpoint / "model.safetensors")
    for name in weights:  # small norms would make every difference small
        if name.endswith("layer_norm.weight"):
            weights[name] = torch.ones_like(weights[name])
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(nano / name, checkpoint / name)
    for row in export(checkpoint, "f16", out):
        print(f"tiny f16 {row['part']:15} {row['wall_s']:6.1f} s {row['peak_bytes'] / 1e6:6.0f} MB")
    ((pcm, _),) = _clips("human", 1)
    found = WhisperKit(out).encode(pcm)[0, :, 0].T
    with torch.inference_mode():
        expected = encode(load_model(checkpoint)[0], stack([LogMel(TINY.n_mels)(pcm)], 1500))[0].numpy()
    difference = float(np.abs(found - expected).max())
    kept = difference <= MAX_ENCODER_DIFFERENCE
    limit = f"(of {np.abs(expected).max():.1f}; limit {MAX_ENCODER_DIFFERENCE:g})"
    print(f"tiny f16 encoder: largest difference {difference:.4f} {limit} {'kept' if kept else 'MISSED'}")
    return kept


def _nano(nano: Path, temporary: Path, voice: str, clips: Sequence[tuple[Pcm, str]], quantization: str) -> bool:
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    out = temporary / f"{quantization}_whisper-base"
    if not out.exists():
        export(nano, quantization, out)
    package, checkpoint = WhisperKit(out), CheckpointTranscriber(nano)
    pcms, texts = [pcm for pcm, _ in clips], [text for _, text in clips]
    options = DecodingOptions(audio_context="full")
    before = error_rates(texts, [heard.text for heard in checkpoint.transcribe_many(pcms, options)]).wer
    after = error_rates(texts, [heard.text for heard in package.transcribe_many(pcms, options)]).wer
    agreement = compare(package, nano, pcms)
    print(
        f"nano {quantization:8} {voice:9} {len(clips)} clips: WER {before:.1%} checkpoint, {after:.1%} package; "
        f"{agreement.tokens} tokens, {len(agreement.wrong)} differ where PyTorch's margin exceeds {MARGIN}, "
        f"{agreement.close} where it does not; logits differ by at most {agreement.largest_difference:.3f}"
    )
    for line in agreement.wrong[:5] if quantization == "f16" else []:
        print(f"  {line}")
    return quantization != "f16" or (not agreement.wrong and agreement.close <= MAX_CLOSE_SHARE * agreement.tokens)


def compare(package: WhisperKit, checkpoint: Path, clips: Sequence[Pcm]) -> Agreement:
    """Each choice of the package's greedy decoding beside PyTorch's after the same tokens (which may differ later)."""
    import numpy as np
    import torch

    from training.decode import encode, load_model
    from training.features import LogMel, stack

    model: Any = load_model(checkpoint)[0]
    found = Agreement()
    for number, pcm in enumerate(clips):
        steps: list[Any] = []
        tokens: list[int] = []

        def hear(so_far: Sequence[int], logits: Any, steps: list[Any] = steps, tokens: list[int] = tokens) -> None:  # noqa: ANN401
            steps.append(logits.copy())
            tokens[:] = so_far

        package.decode(package.encode(pcm), on_logits=hear)
        with torch.inference_mode():
            hidden = encode(model, stack([LogMel(model.config.num_mel_bins)(pcm)], 1500))
            logits = model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([tokens])).logits[0].numpy()
        for ours, theirs in zip(steps, logits[-len(steps) :], strict=True):
            second, first = np.partition(theirs, -2)[-2:]
            found.tokens += 1
            found.largest_difference = max(found.largest_difference, float(np.abs(ours - theirs).max()))
            if ours.argmax() != theirs.argmax():
                if first - second > MARGIN:
                    found.wrong.append(
                        f"clip {number}: {ours.argmax()} not {theirs.argmax()}, {first - second:.4f} ahead"
                    )
                else:
                    found.close += 1
    return found


def _clips(voice: str, count: int) -> list[tuple[Pcm, str]]:
    from training.audio import decode

    rows = [json.loads(line) for line in (VOICES / voice / "metadata.jsonl").read_text().splitlines()[-count:]]
    return [(decode(VOICES / voice / row["file_name"]), row["text"]) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
