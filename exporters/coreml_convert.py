"""The child process that converts one part: `python -m exporters.coreml_convert CHECKPOINT PART QUANTIZATION OUT`.

A conversion holds several copies of the weights: one process a part gives the memory back in between.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from exporters.checkpoint import open_checkpoint
from exporters.coreml_parts import alignment_heads, build
from exporters.mlpackage import MODEL, WEIGHTS
from exporters.serving import peak_bytes
from exporters.whisperkit import Contract, Feature, contract
from idiolect.child import PipeReporter, Reporter, run_child
from idiolect.errors import ExportError
from idiolect.files import write_bytes, write_json

STEPS = 4  # progress messages of one part


def main() -> int:
    """Entry point of the child process."""
    checkpoint, part, quantization, out = sys.argv[1:]

    def work(reporter: PipeReporter) -> dict[str, Any]:
        started = time.perf_counter()
        convert(Path(checkpoint), part, quantization, Path(out), reporter)
        return {"part": part, "wall_s": time.perf_counter() - started, "peak_bytes": peak_bytes()}

    return run_child(work)


def convert(checkpoint: Path, part: str, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write one part as the package `out`; the same bytes for the same weights and versions.

    Raises CheckpointError (weights that are not numbers), ExportError (disk full), JobStopped.
    """
    model = open_checkpoint(checkpoint)
    wanted = contract(part, model.dims, bool(alignment_heads(checkpoint, model.dims)))

    def done(step: int) -> None:
        reporter.progress(step, STEPS, "steps")
        reporter.check_stop()

    program = _trace(build(part, model), wanted)
    done(1)
    converted = _convert(program, part, wanted)
    done(2)
    del program
    if part != "MelSpectrogram":  # its tables are small, and silence needs their precision
        converted = _COMPRESSIONS[quantization](converted)
    done(3)
    try:
        _save(converted, out)
    except OSError as error:
        raise ExportError(f"could not write {out.name}: {error.strerror}", "nothing was left behind") from error
    done(4)


def _trace(module: Any, wanted: Contract) -> Any:  # noqa: ANN401
    import torch

    examples = tuple(
        torch.zeros(feature.shape, dtype=torch.int32 if feature.dtype == "int32" else torch.float32)
        for feature in wanted.inputs
    )
    with torch.no_grad():
        return torch.export.export(module, examples).run_decompositions({})


def _convert(program: Any, part: str, wanted: Contract) -> Any:  # noqa: ANN401
    import coremltools as ct
    import numpy as np

    def types(features: tuple[Feature, ...], shaped: bool) -> list[Any]:
        return [
            ct.TensorType(name=f.name, dtype=np.dtype(f.dtype).type, **({"shape": f.shape} if shaped else {}))
            for f in features
        ]

    # In float16 the floor of 1e-10 under quiet audio would become 0.
    precision = ct.precision.FLOAT32 if part == "MelSpectrogram" else ct.precision.FLOAT16
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=precision,
        inputs=types(wanted.inputs, shaped=True),
        outputs=types(wanted.outputs, shaped=False),
        skip_model_load=True,
    )


def _int8(model: Any) -> Any:  # noqa: ANN401
    from coremltools.optimize import coreml as compress

    how = compress.OpLinearQuantizerConfig(mode="linear_symmetric")
    return compress.linear_quantize_weights(model, compress.OptimizationConfig(how))


def _palette6(model: Any) -> Any:  # noqa: ANN401
    from coremltools.optimize import coreml as compress

    # coremltools clusters smaller tensors with scikit-learn; only a Whisper narrower than 51 would have such weights.
    how = compress.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=10_000)
    return compress.palettize_weights(model, compress.OptimizationConfig(how))


_COMPRESSIONS = {"f16": lambda model: model, "int8": _int8, "palette6": _palette6}


def _save(model: Any, out: Path) -> None:  # noqa: ANN401
    """The package, written here because coremltools' own has random identifiers, a date and a file only its maker
    may read."""
    spec = model.get_spec()
    for key in [key for key in spec.description.metadata.userDefined if key.endswith("conversion_date")]:
        del spec.description.metadata.userDefined[key]
    (out / WEIGHTS).parent.mkdir(parents=True)
    shutil.copyfile(Path(model.weights_dir) / "weight.bin", out / WEIGHTS)
    write_bytes(out / MODEL, spec.SerializeToString(deterministic=True))
    items = {"model.mlmodel": "CoreML Model Specification", "weights": "CoreML Model Weights"}
    identifiers = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)).upper() for name in items}
    entries = {
        identifiers[name]: {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": f"com.apple.CoreML/{name}",
        }
        for name, description in items.items()
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries}
    write_json(out / "Manifest.json", {**manifest, "rootModelIdentifier": identifiers["model.mlmodel"]})


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
