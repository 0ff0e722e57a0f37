"""ONNX exports of a real-size Whisper base beside those of optimum and onnxruntime's own quantiser, in one run.

`python -m benchmarks.onnx`; exit status 1 when a limit is missed. The weights are random: size and speed do not depend
on them. The peers need `pip install "idiolect[peers]"`; without them the status is 1 as well.

Over 1500 positions a step of either model also reads 37 MB of float32 keys and values, beside 48 MB of int8 weights,
and one thread reads them no quicker for us: int8 is then 2.2 to 2.9 × quicker than onnxruntime's on one shared machine,
2.8 to 3.5 × with its own choice of threads, and 2.9 to 3.9 × over the 160 positions of a short clip.
"""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.exporting import make_checkpoint, measure
from exporters.layout import Dims
from idiolect.files import folder_bytes

BASE = Dims(51_865, 1500, 512, 8, 6, 448, 512, 8, 6, 80)
TURNS, STEPS = 20, 12
ENCODINGS = 5
LIMIT_STEP_X = 2.5  # int8 decoder step, times quicker than onnxruntime's default int8 of the merged export
LIMIT_ENCODER_X = 8.0  # 300 frames, times quicker than 3000
PROMPT = (50_258, 50_259, 50_359, 50_363)
_PEER = """
import sys
from optimum.exporters.onnx import main_export
from onnxruntime.quantization import quantize_dynamic
source, out = sys.argv[1:]
main_export(source, out, task="automatic-speech-recognition-with-past", local_files_only=True)
for name in ("encoder_model", "decoder_model_merged"):
    quantize_dynamic(f"{out}/{name}.onnx", f"{out}/{name}_int8.onnx", extra_options={"EnableSubgraph": True})
"""

Step: TypeAlias = Callable[[tuple[int, ...]], None]


def main() -> int:
    """Print exports, encoder times and decoder steps; 1 when a limit is missed."""
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "base", Path(temporary)
        make_model(source)
        print(f"whisper-base, random float32 weights: {(source / 'model.safetensors').stat().st_size / 1e6:.0f} MB")
        print(f"{'':26} {'size':>9} {'wall':>7} {'peak RSS':>9}")
        for format, quantization in (("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("sherpa-onnx", "int8")):
            folder = out / f"{format}-{quantization}"
            wall_s, _, peak_mb = measure(source, format, quantization, folder)
            name = f"idiolect {format} {quantization}"
            print(f"{name:26} {folder_bytes(folder) / 1e6:6.1f} MB {wall_s:5.1f} s {peak_mb:6.0f} MB")
        models = {
            "idiolect fp32": out / "onnx-fp32/onnx/{}.onnx",
            "idiolect int8": out / "onnx-int8/onnx/{}_quantized.onnx",
        }
        kept: list[bool] = []
        if find_spec("optimum") and find_spec("onnx"):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", _PEER, source, out / "peer"], check=True, capture_output=True)
            print(f"{'optimum, fp32 and int8':26} {'':9} {time.perf_counter() - started:5.1f} s")
            kept.append(_same_decoder(models["idiolect fp32"], out / "peer/{}.onnx"))
            models |= {"optimum fp32": out / "peer/{}.onnx", "onnxruntime's int8": out / "peer/{}_int8.onnx"}
        else:
            print('NOT JUDGED: optimum is not installed: pip install "idiolect[peers]"')
            kept.append(False)
        kept += [_encoders(models), _decoders(models)]
    return 0 if all(kept) else 1


def make_model(folder: Path) -> None:
    """A model folder of random weights with every file that any of the exporters reads."""
    from training.base_models import resolve

    nano = resolve("nano", folder.parent / "cache")
    make_checkpoint(folder, BASE, nano)
    for path in nano.glob("*.json"):
        if not (folder / path.name).exists():
            shutil.copy(path, folder)


def _same_decoder(ours: Path, peer: Path) -> bool:
    """Whether both decoders take and give values of the same names, types and dimensions, in the same order."""
    found = []
    for pattern in (ours, peer):
        session = _session(pattern, "decoder_model_merged")
        found.append([(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())])
    same = found[0] == found[1]
    print(f"{len(found[1])} inputs and outputs of the decoder: {'as' if same else 'NOT as'} optimum's")
    return same


def _encoders(models: Mapping[str, Path]) -> bool:
    within = True
    print(f"\n{'encoder, one thread':26} {'3000 frames':>12} {'300':>9}")
    for name, pattern in models.items():
        session = _session(pattern, "encoder_model")
        long_s = _encoding_s(session, 3000)
        if not name.startswith("idiolect"):
            print(f"{name:26} {long_s:10.2f} s   refused")
            continue
        short_s = _encoding_s(session, 300)
        within &= long_s >= LIMIT_ENCODER_X * short_s
        print(f"{name:26} {long_s:10.2f} s {short_s:7.3f} s  {long_s / short_s:5.1f} ×, limit {LIMIT_ENCODER_X} ×")
    return within


def _encoding_s(session: Any, frames: int) -> float:  # noqa: ANN401
    """Best of some encodings."""
    import numpy as np

    features = np.random.default_rng(0).standard_normal((1, 80, frames)).astype(np.float32)
    return min(_seconds(lambda: session.run(None, {"input_features": features})) for _ in range(ENCODINGS))


def _decoders(models: Mapping[str, Path]) -> bool:
    """Models take turns of some steps each, so that what else the machine does falls on all of them."""
    within = True
    for positions, threads in itertools.product((1500, 160), (0, 1)):
        sessions = {name: _session(at, "decoder_model_merged", threads) for name, at in models.items()}
        steps = {name: _stepper(session, positions) for name, session in sessions.items()}
        best_s = dict.fromkeys(steps, math.inf)
        for _ in range(TURNS):
            for name, step in steps.items():
                best_s[name] = min(best_s[name], *(_seconds(partial(step, (token,))) for token in range(STEPS)))
        ours_s = best_s["idiolect int8"]
        where = "one thread" if threads else "as many threads as onnxruntime takes by itself"
        print(f"\ndecoder step over {positions} encoder positions, best of {TURNS * STEPS}, {where}")
        for name, step_s in best_s.items():
            limit = LIMIT_STEP_X if name.startswith("onnxruntime") else 1.0
            within &= step_s >= limit * ours_s
            text = "" if step_s == ours_s else f"  int8 is {step_s / ours_s:.1f} × quicker, limit {limit} ×"
            print(f"{name:26} {1000 * step_s:6.1f} ms{text}")
    return within


def _stepper(session: Any, positions: int) -> Step:  # noqa: ANN401
    """A function that decodes tokens after the prompt through the caches."""
    import numpy as np

    hidden = np.random.default_rng(0).standard_normal((1, positions, BASE.n_audio_state)).astype(np.float32)
    names = [value.name for value in session.get_outputs()]
    nothing = np.zeros((1, BASE.n_text_head, 0, BASE.n_text_state // BASE.n_text_head), np.float32)
    past = {name.replace("present", "past_key_values"): nothing for name in names[1:]}

    def step(tokens: tuple[int, ...]) -> None:
        first = tokens is PROMPT
        inputs = {"input_ids": np.array([tokens]), "encoder_hidden_states": hidden, **past}
        made = session.run(names, inputs | {"use_cache_branch": np.array([not first])})[1:]
        past.update({name: value for name, value in zip(past, made, strict=True) if first or "decoder" in name})

    step(PROMPT)
    return step


def _session(pattern: Path, part: str, threads: int = 1) -> Any:  # noqa: ANN401
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(pattern).format(part), options, ["CPUExecutionProvider"])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
