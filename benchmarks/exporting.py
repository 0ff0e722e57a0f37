"""ggml exports of real-size Whispers in fresh processes beside gguf's quantiser: time and memory beside their limits.

`python -m benchmarks.exporting [QUANTIZATION …]`; exit status 1 when a limit is missed. The weights are random (size
and speed do not depend on them), stored as float32 like OpenAI's, so every one is also rounded to float16. The peer
does the same work in one piece: reads the weights, rounds and quantises the matrices, writes them.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exporters.layout import Dims, Tensor, tensors
from idiolect.files import folder_bytes

TINY = Dims(51_865, 1500, 384, 6, 4, 448, 384, 6, 4, 80)
SMALL = Dims(51_865, 1500, 768, 12, 12, 448, 768, 12, 12, 80)
LIMITS_CPU_S = {"tiny": 0.6, "small": 2.5}
LIMIT_PEAK_MB = 100
RUNS = 3
_TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "vocab.json")
_CHILD = """
import sys
from pathlib import Path
from exporters import export_to
export_to(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
_PEER = """
import sys
from pathlib import Path
import numpy as np
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file
source, _, kind, out = sys.argv[1:]
with open(out, "wb") as file:
    for values in load_file(source + "/model.safetensors").values():
        values = values.astype(np.float16).astype(np.float32)
        file.write((quants.quantize(values, GGMLQuantizationType[kind.upper()]) if values.ndim == 2 else values).data)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def main() -> int:
    """Print a line for each size and quantization: the least CPU time of three fresh processes, the largest peak."""
    within = True
    quantizations = sys.argv[1:] or ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
    with tempfile.TemporaryDirectory() as temporary:
        for size, dims in (("tiny", TINY), ("small", SMALL)):
            folder, outfile = Path(temporary) / size, Path(temporary) / "out"
            make_checkpoint(folder, dims)
            limits = f"limits: {LIMITS_CPU_S[size]} s CPU, {LIMIT_PEAK_MB} MB"
            print(f"whisper-{size}, random float32 weights: {folder_bytes(folder) / 1e6:.0f} MB; {limits}")
            print(f"       {'file':>9} {'wall':>6} {'CPU':>6}  peak RSS")
            for quantization in quantizations:
                cpu_s, peak_mb, text = _best(folder, quantization, outfile, _CHILD)
                kept = cpu_s <= LIMITS_CPU_S[size] and peak_mb <= LIMIT_PEAK_MB
                within = within and kept
                print(f"{quantization:6} {text}   {'kept' if kept else 'MISSED'}")
                if find_spec("gguf") and find_spec("safetensors"):
                    print(f"  gguf {_best(folder, quantization, outfile, _PEER)[2]}", flush=True)
            shutil.rmtree(folder)
    return 0 if within else 1


def _best(folder: Path, quantization: str, outfile: Path, program: str) -> tuple[float, float, str]:
    runs = [measure(folder, "ggml", quantization, outfile, program) for _ in range(RUNS)]
    wall_s, cpu_s, peak_mb = min(run[0] for run in runs), min(run[1] for run in runs), max(run[2] for run in runs)
    return cpu_s, peak_mb, f"{outfile.stat().st_size / 1e6:6.1f} MB {wall_s:4.2f} s {cpu_s:4.2f} s {peak_mb:6.0f} MB"


def make_checkpoint(folder: Path, dims: Dims, tokenizer: Path | None = None) -> None:
    """A Hugging Face Whisper folder of random float32 weights; its tokenizer files from nano or `tokenizer`."""
    if tokenizer is None:
        from training.base_models import resolve

        tokenizer = resolve("nano", folder.parent / "cache")
    folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(model_config(dims)))
    write_random(folder / "model.safetensors", tensors(dims))


def model_config(dims: Dims) -> dict[str, Any]:
    """config.json of a Whisper with these dimensions."""
    return {
        "model_type": "whisper",
        "d_model": dims.n_audio_state,
        "vocab_size": dims.n_vocab,
        "num_mel_bins": dims.n_mels,
        "encoder_layers": dims.n_audio_layer,
        "decoder_layers": dims.n_text_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "decoder_attention_heads": dims.n_text_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
    }


def write_random(path: Path, planned: list[Tensor]) -> None:
    """A safetensors file of these tensors: normal weights of standard deviation 0.02."""
    import numpy as np

    random = np.random.default_rng(0)
    header, end = {}, 0
    for tensor in planned:
        start, end = end, end + 4 * tensor.elements
        header[f"model.{tensor.source}"] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in planned:
            file.write((random.standard_normal(tensor.elements, np.float32) * np.float32(0.02)).tobytes())


def measure(
    folder: Path, format: str, quantization: str, out: Path, program: str = _CHILD
) -> tuple[float, float, float]:
    """Wall and CPU seconds of a whole process, interpreter start and file sync included, and its peak RSS in MB."""
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-c", program, str(folder), format, quantization, str(out)]
    peak_kib = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    wall_s, after = time.perf_counter() - started, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return wall_s, cpu_s, peak_kib * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
