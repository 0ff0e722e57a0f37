"""Programs that know the Hugging Face Hub, as they are, take their model from the house and hear with it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.sync.releases import ReleaseStore
from tests.daemon.sync.doors import PlainHouse
from tests.daemon.sync.publishing import artifact, of

pytestmark = pytest.mark.slow

CLIP = "human/digits_001.ogg"
NODE = Path(os.environ.get("IDIOLECT_NODE", "."))
"""The folder in which `npm install @huggingface/transformers` was run."""
FASTER_WHISPER = """
import sys
import numpy as np
from faster_whisper import WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type="float32", cpu_threads=1)
segments, _ = model.transcribe(np.load(sys.argv[2]), language="en", beam_size=1, without_timestamps=True)
print("heard:", "".join(segment.text for segment in segments).strip())
"""
TRANSFORMERS = """
import sys
import numpy as np
from transformers import pipeline
hear = pipeline("automatic-speech-recognition", sys.argv[1])
print("heard:", hear(np.load(sys.argv[2]), generate_kwargs={"language": "en", "task": "transcribe"})["text"].strip())
"""
TRANSFORMERS_JS = """
const [parent, url, token, repository, clip, cache] = process.argv.slice(1);
const { pipeline, env } = require('node:module').createRequire(parent + '/')('@huggingface/transformers');
env.allowLocalModels = false;
env.cacheDir = cache;
env.remoteHost = url;
env.fetch = (asked, options) => {
  const headers = new Headers(options?.headers);
  headers.set('Authorization', `Bearer ${token}`);
  return fetch(asked, { ...options, headers });
};
(async () => {
  const hear = await pipeline('automatic-speech-recognition', repository, { dtype: 'fp32' });
  const pcm = new Float32Array(require('node:fs').readFileSync(clip).buffer);
  console.log('heard:', (await hear(pcm, { language: 'en', task: 'transcribe' })).text.trim());
})();
"""


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(packages)}; {missing} cannot be imported")


@pytest.fixture
def said(nano: Path, voices: Path, tmp_path: Path) -> str:
    """What the checkpoint hears in the clip, which lies in `clip.npy` and `clip.f32`."""
    np = pytest.importorskip("numpy")
    pytest.importorskip("torch", reason="needs the [train] extra")
    from idiolect.transcriber import DecodingOptions
    from training.audio import decode
    from training.decode import CheckpointTranscriber

    pcm = decode(voices / CLIP)
    np.save(tmp_path / "clip.npy", pcm)
    (tmp_path / "clip.f32").write_bytes(pcm.tobytes())
    text = CheckpointTranscriber(nano, threads=1).transcribe(pcm, DecodingOptions(audio_context="full")).text
    assert text
    return text


def publish(store: ReleaseStore, folder: Path, profile: str, tmp_path: Path) -> None:
    """Publish a folder's files as its exporter would, below the folder's name."""
    files = {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    store.publish(of((artifact(tmp_path / "made", files, profile), tmp_path / "made")))


async def heard(plain: PlainHouse, script: str, profile: str, tmp_path: Path) -> str:
    """What a Python program says that knows of the house by HF_ENDPOINT and HF_TOKEN only."""
    environment = os.environ | {
        "HF_ENDPOINT": plain.url,
        "HF_TOKEN": plain.token,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, f"idiolect/{profile}", str(tmp_path / "clip.npy")]
    return await _said(command, environment)


async def _said(command: list[str], environment: dict[str, str]) -> str:
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("heard: ")]
    assert lines, done.stderr
    return lines[0].removeprefix("heard: ")


@pytest.mark.torch
@needs("faster_whisper", "torch")
async def test_faster_whisper(plain: PlainHouse, store: ReleaseStore, nano: Path, said: str, tmp_path: Path) -> None:
    from exporters import export_to

    folder = tmp_path / "idiolect-nano-ct2-float32"
    export_to(nano, "ctranslate2", "float32", folder)
    publish(store, folder, "desktop-faster-whisper", tmp_path)
    assert await heard(plain, FASTER_WHISPER, "desktop-faster-whisper", tmp_path) == said


@pytest.mark.torch
@needs("transformers", "torch")
async def test_transformers(plain: PlainHouse, store: ReleaseStore, nano: Path, said: str, tmp_path: Path) -> None:
    publish(store, nano, "desktop-hf", tmp_path)
    assert await heard(plain, TRANSFORMERS, "desktop-hf", tmp_path) == said


@pytest.mark.torch
@pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules" / "@huggingface" / "transformers").is_dir()),
    reason="needs node, and @huggingface/transformers in node_modules here or in the folder $IDIOLECT_NODE",
)
async def test_transformers_js(plain: PlainHouse, store: ReleaseStore, nano: Path, said: str, tmp_path: Path) -> None:
    from exporters import export_to

    folder = tmp_path / "idiolect-nano-fp32"
    export_to(nano, "onnx", "fp32", folder)
    publish(store, folder, "browser-onnx", tmp_path)
    arguments = [plain.url, plain.token, "idiolect/browser-onnx", str(tmp_path / "clip.f32"), str(tmp_path / "cache")]
    command = ["node", "-e", TRANSFORMERS_JS, str(NODE.resolve()), *arguments]
    assert await _said(command, dict(os.environ)) == said
    assert json.loads((tmp_path / "cache" / "idiolect" / "browser-onnx" / "config.json").read_text())
