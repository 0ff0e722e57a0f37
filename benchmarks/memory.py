"""Peak memory of training on the CPU beside the estimate by which idiolect decides how much to compute at once.

`python -m benchmarks.memory [MODEL …]`. nano, and Whisper tiny and small of random weights, at three position budgets,
each in a fresh process. Exit status 1 where an estimate is more than 20 % off, or small's on a GPU over 7.5 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.exporting import SMALL, TINY, make_checkpoint
from training import memory
from training.base_models import resolve
from training.finetune import Settings

BUDGETS = (1_500, 3_000, 6_000)
MOST_OFF = 0.2
GPU_LIMIT_BYTES = 7_500_000_000
CLIP_S = 7.3
_CHILD = """
import json, sys
from pathlib import Path
import numpy, torch, transformers, accelerate, peft
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast
from training.finetune import Settings, Source, finetune
from idiolect.child import CallbackReporter

def kib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

base, budget, out, clip_s = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
noise = numpy.random.default_rng(0).normal(0, 0.1, round(clip_s * 16000)).astype(numpy.float32)
text = "remind me to buy milk and eggs and to call the dentist at ten in the morning on friday"
sources = [Source(f"{i}.wav", noise, text, "en", False) for i in range(16)]
true_length = dict(full_share=0, longer_share=0, stretch=0)
settings = Settings(epochs=9, max_steps=5, batch_size=16, position_budget=budget, **true_length)
heard = []
before = kib("VmRSS")
finetune(base, sources, out, settings, CallbackReporter(lambda message: heard.append(message.data)))
estimate = next(data["estimated_bytes"] for data in heard if "estimated_bytes" in data)
print(json.dumps({"measured": (kib("VmHWM") - before) * 1024, "estimate": estimate}))
"""


def main() -> int:
    """Print a line for each model and budget."""
    kept = True
    print(f"{'model':8}{'positions':>10}{'measured':>12}{'estimate':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        nano = resolve("nano", folder)
        for model in sys.argv[1:] or ("nano", "tiny", "small"):
            base = nano
            if model != "nano":
                base = folder / model
                make_checkpoint(base, {"tiny": TINY, "small": SMALL}[model])
            for budget in BUDGETS:
                measured, estimate = measure(base, budget, folder / f"{model}-{budget}")
                off = estimate / measured - 1
                kept &= abs(off) <= MOST_OFF
                row = f"{model:8}{budget:10}{measured / 1e6:9.0f} MB{estimate / 1e6:9.0f} MB  {off:+.0%}"
                print(row + ("" if abs(off) <= MOST_OFF else "  MISSED"), flush=True)
    fitted = memory.fit(SMALL_ON_GPU, GPU_LIMIT_BYTES)
    on_gpu = memory.estimate_peak_bytes(fitted)
    kept &= on_gpu <= GPU_LIMIT_BYTES
    how = f"bfloat16 autocast, {fitted.positions} positions at once"
    print(f"small with defaults on a GPU of 8 GB, {how}: {on_gpu / 1e9:.1f} GB (at most 7.5)")
    whole = memory.estimate_peak_bytes(SMALL_ON_GPU)
    print(f"the same where memory does not bind, {SMALL_ON_GPU.positions} positions at once: {whole / 1e9:.1f} GB")
    return 0 if kept else 1


def measure(base: Path, budget: int, out: Path) -> tuple[int, int]:
    """Growth of a fresh process's resident memory while it trains, at its peak, and the estimate; bytes."""
    command = [sys.executable, "-c", _CHILD, str(base), str(budget), str(out), str(CLIP_S)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["measured"], found["estimate"]


_SMALL_PARAMETERS = 241_734_912
SMALL_ON_GPU = memory.Need(
    memory.Shape(768, 12, 12, 51_865, _SMALL_PARAMETERS, _SMALL_PARAMETERS - 1500 * 768, device="cuda"),
    positions=Settings.position_budget,
    tokens=16 * 40,  # sixteen clips of some 7.5 s of quick speech
    half=True,
)

if __name__ == "__main__":
    sys.exit(main())
