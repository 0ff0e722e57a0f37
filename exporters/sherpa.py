"""A checkpoint as the folder the apps built on sherpa-onnx load: encoder.onnx, decoder.onnx, tokens.txt.

float16 is left out: sherpa-onnx's processors have no float16 arithmetic, and would only turn the weights back.
"""

from __future__ import annotations

import base64
from pathlib import Path

from exporters.checkpoint import open_checkpoint
from exporters.onnx import write_folder
from exporters.onnx_models import plan
from idiolect.child import Reporter
from idiolect.errors import UsageError
from idiolect.whisper import special_tokens

QUANTIZATIONS = ("fp32", "int8")


def write(checkpoint: Path, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write the folder `out` (fp32 or int8) whole or not at all. Raises what `exporters.onnx.write` does."""
    if quantization not in QUANTIZATIONS:
        raise UsageError(
            f"sherpa-onnx has no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}"
        )
    model = open_checkpoint(checkpoint)
    plans = {f"{part}.onnx": plan(f"sherpa-{part}", model.dims, quantization) for part in ("encoder", "decoder")}
    write_folder(
        model, plans, {"tokens.txt": token_list(model.tokens[: special_tokens(model.dims.n_vocab).eot])}, out, reporter
    )


def token_list(tokens: tuple[bytes, ...]) -> bytes:
    """A line for each text token: its bytes in base64, a space, its id."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), index) for index, token in enumerate(tokens))
