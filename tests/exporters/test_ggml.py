"""whisper.cpp's file: every byte of every tensor, all or nothing, little memory."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import exporters.ggml
from exporters import export_file
from exporters.blocks import via_f16
from exporters.layout import F32, QUANTIZATIONS, tensors
from exporters.readers import check_ggml
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import ArtifactError, CheckpointError, ExportError, JobStopped, UsageError
from idiolect.whisper import mel_filterbank
from tests.exporters.helpers import SMALL, dims, ggml_quantize, make_checkpoint, read_tensors, save, weights

SIZES = {q.type_code: (q.block, q.block_bytes) for q in (F32, *QUANTIZATIONS.values())}


@pytest.mark.whispercpp
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_every_tensor_is_what_whisper_cpps_own_tools_make(small: Path, tmp_path: Path, name: str) -> None:
    path, stored_as = tmp_path / "m.bin", QUANTIZATIONS[name]
    told: list[Message] = []
    export_file(small, "ggml", name, path, CallbackReporter(told.append))
    warned = [message.data["message"] for message in told if message.kind == "warning"]
    assert ["prefer f16" in text for text in warned] == ([True] if name == "f32" else [])
    assert check_ggml(path).quantization == name
    arrays, found = weights(SMALL), read_tensors(path, SIZES)
    assert len(found) == len(arrays)
    for tensor in tensors(SMALL):
        values = via_f16(arrays[f"model.{tensor.source}"]).ravel()
        kind, shape, data = found[tensor.name]
        assert shape == tensor.file_dims
        if tensor.kind == "plain" or name == "f32":
            assert (kind, data) == (0, values.tobytes()), tensor.name
        elif tensor.kind == "convolution" or name == "f16":
            assert (kind, data) == (1, values.astype(np.float16).tobytes()), tensor.name
        else:
            expected = ggml_quantize(values, stored_as.type_code, stored_as.block_bytes)
            assert (kind, data) == (stored_as.type_code, expected.tobytes()), tensor.name


def test_header_filters_and_tokens(small_file: Path) -> None:
    data = small_file.read_bytes()
    assert data[:4] == b"lmgg"
    assert struct.unpack_from("<11i", data, 4) == (51_865, 1500, 32, 1, 1, 448, 32, 1, 1, 80, 2002)
    assert struct.unpack_from("<2i", data, 48) == (80, 201)
    filters = np.frombuffer(data, "<f4", 80 * 201, 56)
    assert (filters == np.array(mel_filterbank(80, published=True), np.float32).ravel()).all()
    at = 56 + filters.nbytes
    assert struct.unpack_from("<2i", data, at) == (50_258, 2)
    assert data[at + 8 : at + 10] == b" 0"


@pytest.mark.slow
def test_half_precision_and_shards_give_the_same_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a")
    export_file(folder, "ggml", "q5_1", tmp_path / "full.bin")
    halves = {name: array.astype(np.float16) for name, array in weights(SMALL).items()}
    save(folder / "model.safetensors", halves)
    export_file(folder, "ggml", "q5_1", tmp_path / "half.bin")
    (folder / "model.safetensors").unlink()
    shard_of = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(halves)}
    for shard in sorted(set(shard_of.values())):
        save(folder / shard, {name: array for name, array in halves.items() if shard_of[name] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    export_file(folder, "ggml", "q5_1", tmp_path / "sharded.bin")
    full, half, sharded = ((tmp_path / name).read_bytes() for name in ("full.bin", "half.bin", "sharded.bin"))
    assert full == half == sharded


def test_progress_ends_at_the_size(small: Path, tmp_path: Path) -> None:
    seen: list[Message] = []
    file = export_file(small, "ggml", "q8_0", tmp_path / "m.bin", CallbackReporter(seen.append))
    assert seen[-1].data == {"done": file.size_bytes, "total": file.size_bytes, "unit": "bytes"}


def test_refused_before_a_byte_is_written(tmp_path: Path, small: Path) -> None:
    folder, out = make_checkpoint(tmp_path / "model", dims(width=40)), tmp_path / "out" / "m.bin"
    with pytest.raises(CheckpointError, match="blocks of 32, and the model's width 40"):
        export_file(folder, "ggml", "q4_0", out)
    with pytest.raises(UsageError, match="q4_k") as caught:
        export_file(small, "ggml", "q4_k", out)
    assert caught.value.hint == "choose one of f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0"
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        export_file(folder, "ggml", "f16", out)
    assert not out.parent.exists()


def test_a_width_of_40_fits_f16(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", dims(width=40))
    export_file(folder, "ggml", "f16", tmp_path / "m.bin")
    assert check_ggml(tmp_path / "m.bin").dims == dims(width=40)


def test_a_full_disk_leaves_what_was_there(small: Path, tmp_path: Path) -> None:
    """The kernel refuses every write beyond 1 MB, as it does when the disk is full."""
    out = tmp_path / "m.bin"
    out.write_bytes(b"the model before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ExportError, match="could not write"):
            export_file(small, "ggml", "q4_0", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]
    assert out.read_bytes() == b"the model before"


def test_too_little_room_is_said_beforehand(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters.ggml, "free_bytes", lambda folder: 1000)
    with pytest.raises(ExportError, match="needs 2 MB, the disk has 0 MB free"):
        export_file(small, "ggml", "q4_0", tmp_path / "m.bin")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"could not write .*file/m\.bin"):
        export_file(small, "ggml", "q4_0", tmp_path / "file" / "m.bin")


def test_stopping_and_diverged_weights_leave_nothing(tmp_path: Path, small: Path) -> None:
    reporter = Reporter()
    reporter.stop.set()
    with pytest.raises(JobStopped):
        export_file(small, "ggml", "q4_0", tmp_path / "out" / "m.bin", reporter)
    arrays = weights(SMALL)
    folder = make_checkpoint(tmp_path / "model")
    arrays["model.decoder.layers.0.fc2.weight"][3, 3] = np.nan
    save(folder / "model.safetensors", arrays)
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.0\.fc2\.weight"):
        export_file(folder, "ggml", "q4_0", tmp_path / "out" / "m.bin")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_checkpoint_with_an_empty_tensor_is_not_exported(tmp_path: Path) -> None:
    arrays = weights(SMALL)
    folder = make_checkpoint(tmp_path / "model")
    arrays["model.encoder.layers.0.fc1.weight"][:] = -0.0
    save(folder / "model.safetensors", arrays)
    for name in QUANTIZATIONS:
        with pytest.raises(ArtifactError, match=r"encoder\.blocks\.0\.mlp\.0\.weight is all zeros"):
            export_file(folder, "ggml", name, tmp_path / "m.bin")
    assert not (tmp_path / "m.bin").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path, small: Path) -> None:
    large = make_checkpoint(tmp_path / "large", dims(width=256))
    growth_mb = _peak_mb(large, tmp_path / "large.bin") - _peak_mb(small, tmp_path / "small.bin")
    size_mb = (large / "model.safetensors").stat().st_size / 1e6
    assert size_mb > 60
    assert growth_mb < 10


def _peak_mb(folder: Path, out: Path) -> float:
    code = (
        "import sys; from pathlib import Path; from exporters import export_file;"
        "export_file(Path(sys.argv[1]), 'ggml', 'q5_0', Path(sys.argv[2]));"
        "assert not {'torch', 'transformers', 'safetensors', 'pydantic'} & set(sys.modules);"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", code, str(folder), str(out)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) / 1024
