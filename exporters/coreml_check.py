"""Check an exported WhisperKit folder before anything native sees it: WhisperKit checks nothing, and crashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporters.checkpoint import TOKENIZER, read_dims
from exporters.companions import check_json, check_text, check_vocabulary
from exporters.layout import Dims
from exporters.mlpackage import Package, read_package
from exporters.whisperkit import ALIGNMENT, PARTS, SPEC_VERSION, TOKENIZER_CLASSES, contract
from idiolect.errors import ArtifactError, CheckpointError
from idiolect.files import folder_bytes

_HINT = "the folder is damaged or was not copied whole; export or pull it again"
_COMPRESSED = {"constexpr_affine_dequantize": "int8", "constexpr_lut_to_dense": "palette6"}


@dataclass(frozen=True)
class CoremlInfo:
    """What a WhisperKit folder holds. `dims` tells the tier: equal to `exporters.checkpoint.read_dims(folder)`."""

    dims: Dims
    quantization: str
    alignment: bool
    size_bytes: int


def check_coreml(folder: Path) -> CoremlInfo:
    """Read every part's description, program and the places of its weights, and the files beside them.

    Raises ArtifactError: a part or file that is missing, damaged, of another model, or not as WhisperKit expects it.
    Models compiled on a Mac (`.mlmodelc`) are Apple's own format and are not looked into.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder", _HINT)
    dims = _dims(folder)
    check_text(folder / TOKENIZER, lambda path: check_vocabulary(path, dims))
    check_text(folder / "tokenizer_config.json", _check_class)
    parts = {part: read_package(folder / f"{part}.mlpackage") for part in PARTS}
    aligned = any(feature.name == ALIGNMENT for feature in parts["TextDecoder"].contract.outputs)
    for part, package in parts.items():
        _check_part(folder.name, part, package, dims, aligned)
    return CoremlInfo(dims, _quantization(folder.name, parts), aligned, folder_bytes(folder))


def _dims(folder: Path) -> Dims:
    try:
        return read_dims(folder)
    except (CheckpointError, RecursionError) as error:
        raise ArtifactError(f"{folder.name} cannot be used: {error}", _HINT) from None


def _check_class(path: Path) -> None:
    """WhisperKit downloads another tokenizer, silently, when it does not know the class."""
    if (found := check_json(path).get("tokenizer_class", "WhisperTokenizer")) not in TOKENIZER_CLASSES:
        raise ValueError(f"tokenizer_class is {found!r}, not {', '.join(TOKENIZER_CLASSES)}")


def _check_part(name: str, part: str, package: Package, dims: Dims, aligned: bool) -> None:
    expected, found = contract(part, dims, aligned), package.contract
    for wanted, given in ((expected.inputs, found.inputs), (expected.outputs, found.outputs)):
        if differing := next((pair for pair in zip(wanted, given, strict=False) if pair[0] != pair[1]), None):
            reason = f"has {differing[1]} where {differing[0]} belongs"
            raise ArtifactError(
                f"{name}: {part} {reason}", "it is of another model or damaged; export or pull it again"
            )
        if len(wanted) != len(given):
            raise ArtifactError(f"{name}: {part} has {len(given)} inputs or outputs, not {len(wanted)}", _HINT)
    if package.spec_version != SPEC_VERSION:
        raise ArtifactError(f"{name}: {part} has version {package.spec_version}, not {SPEC_VERSION} (iOS 16)", _HINT)
    norms = {"AudioEncoder": 2 * dims.n_audio_layer + 1, "TextDecoder": 3 * dims.n_text_layer + 1}.get(part, 0)
    if package.ops["layer_norm"] != norms:  # inputs and outputs tell the width, not the encoder's layers
        raise ArtifactError(f"{name}: {part} has {package.ops['layer_norm']} layer norms, not {norms}", _HINT)


def _quantization(name: str, parts: dict[str, Package]) -> str:
    found = {part: {_COMPRESSED[op] for op in parts[part].ops if op in _COMPRESSED} or {"f16"} for part in PARTS[1:]}
    kinds = set().union(*found.values())
    if len(kinds) != 1:
        raise ArtifactError(f"{name}: its parts are quantized differently: {', '.join(sorted(kinds))}", _HINT)
    return str(kinds.pop())
